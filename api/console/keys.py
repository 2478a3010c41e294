"""
Keys: who may do what, made and revoked. For admins alone.

A new key is shown by the answer to the form itself, and by nothing else: it is in no address, no cookie, no audit and
no log.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field

from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.console.sign_in import ADDRESS as SIGN_IN
from api.web.fields import Body, Id, Text, optional
from api.web.problems import Invalid, NotFound
from processor.clients import keys
from processor.clients.keys import NAME_CHARACTERS_MAX, Key, KeyRefused, Role
from processor.domain.roles import ADMINS
from processor.reading import keys as key_queries
from processor.reading.keys import KeyState
from processor.storage.connections import Connection

#: Rows of the list.
LISTED: Final = 50
#: How long a new key may live, as the form offers it.
LIFETIMES: Final[dict[str, tuple[str, timedelta | None]]] = {
    "": ("Until revoked", None),
    "1d": ("1 day", timedelta(days=1)),
    "30d": ("30 days", timedelta(days=30)),
    "90d": ("90 days", timedelta(days=90)),
    "365d": ("1 year", timedelta(days=365)),
}

ADDRESS: Final = f"{ROOT}/keys"

pages = Pages("keys")


class Wanted(Body):
    """Which keys, and which part of them."""

    client: Id = optional()
    role: Role = optional()
    state: KeyState = optional()
    cursor: str = optional()


class Beginning(Body):
    """Whose key it will be."""

    client: str = ""


class Making(Body):
    """A new key."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
    role: Role
    #: None: one of its own.
    client: Id | None = optional()
    lifetime: Literal["1d", "30d", "90d", "365d"] | None = optional()


class Reason(Body):
    """Why."""

    reason: Text


@pages.get("/keys", roles=ADMINS, query=Wanted)
def list_keys(visit: Visit) -> Page:
    """All that were ever made, newest first."""
    wanted: Wanted = visit.query
    with visit.services.connection() as connection:
        found = key_queries.list_keys(
            connection, wanted.client, wanted.role, wanted.state, LISTED, wanted.cursor
        )
    context = {"found": found, "wanted": wanted, "own": visit.caller.key_id, "state_of": _state}
    return Page("keys.html", context)


@pages.get("/keys/new", roles=ADMINS, query=Beginning)
def ask(visit: Visit) -> Page:
    """The form."""
    return _form(visit, {"client": visit.query.client})


@pages.post("/keys", roles=ADMINS)
def make(visit: Visit) -> Page:
    """A new key, shown by this answer alone; or the form again, with what is wrong."""
    values = {name: found[0] for name, found in visit.form.items()}
    try:
        sent = visit.read(Making)
    except Invalid as error:
        return _form(visit, values, {one["pointer"][1:]: _words(one["pointer"]) for one in error.errors})
    with visit.services.connection() as connection:
        if sent.client is not None and not key_queries.is_client(connection, sent.client):
            return _form(
                visit, values, {"client": "There is no such client. Leave the field empty to create one."}
            )
        try:
            made = keys.create_key(
                connection,
                sent.name,
                sent.role,
                sent.client,
                lifetime=LIFETIMES[sent.lifetime or ""][1],
                actor=visit.caller.actor,
            )
        except KeyRefused:
            return _form(visit, values, {"name": _words("/name")})
    return Page("key_made.html", {"made": made, "is_second": sent.client is not None})


@pages.get("/keys/<key>", roles=ADMINS)
def one_key(visit: Visit, key: str) -> Page:
    """What hangs on it, and revoking it."""
    with visit.services.connection() as connection:
        found = _read(connection, key)
        beside = key_queries.read_beside(connection, found)
    context = {
        "key": found,
        "state": _state(found),
        "beside": beside,
        "is_own": found.id == visit.caller.key_id,
        "most": key_queries.COUNTED_MAX,
    }
    return Page("key.html", context)


@pages.post("/keys/<key>/revoke", roles=ADMINS)
def revoke(visit: Visit, key: str) -> Redirect:
    """It stops working; whoever is signed in with it is signed out."""
    sent = visit.read(Reason)
    with visit.services.connection() as connection:
        found = _read(connection, key)
        was_valid = keys.revoke_key(connection, found.id, actor=visit.caller.actor, reason=sent.reason)
    if found.id == visit.caller.key_id:
        return Redirect(SIGN_IN, Notice("Your key is revoked, and you are signed out."))
    text = "is revoked. It stops working within a second." if was_valid else "was already revoked."
    return Redirect(f"{ADDRESS}/{found.id}", Notice(f"The key {found.name} {text}"))


def _state(key: Key) -> KeyState:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "valid"


def _form(visit: Visit, values: dict[str, str], wrong: dict[str, str] | None = None) -> Page:
    with visit.services.connection() as connection:
        clients = key_queries.find_clients(connection)
    context = {
        "values": values,
        "wrong": wrong or {},
        "clients": clients,
        "lifetimes": [(name, title) for name, (title, _) in LIFETIMES.items()],
        "name_max": NAME_CHARACTERS_MAX,
    }
    return Page("key_new.html", context, 422 if wrong else 200)


def _words(pointer: str) -> str:
    """What is wrong with a field, for people."""
    return {
        "/name": f"Enter a name of 1 to {NAME_CHARACTERS_MAX} printable characters.",
        "/role": "Choose a role.",
        "/client": "Enter an id of 1 to 128 letters, digits and . _ : ~ @ -",
    }.get(pointer, "Choose one of these.")


def _read(connection: Connection, text: str) -> Key:
    try:
        found = key_queries.read_key(connection, UUID(text))
    except ValueError:
        found = None
    if found is None:
        raise NotFound("there is no such key")
    return found
