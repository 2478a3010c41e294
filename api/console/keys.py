"""
API keys, which admins create and revoke.

A new key is only in the answer to the form that created it. Addresses, cookies, the audit and logs do not contain it.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field

from api.console.fields import PageQuery, ReasonForm
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.console.sign_in import ADDRESS as SIGN_IN
from api.web.fields import Body, Id, optional
from api.web.parsing import read_id
from api.web.problems import Invalid, NotFound
from processor.clients import keys
from processor.clients.keys import NAME_CHARACTERS_MAX, Key, KeyMade, KeyRefused, Role
from processor.domain.roles import ADMINS
from processor.ids import new_id
from processor.reading import keys as key_queries
from processor.reading.keys import KeyState
from processor.storage.connections import Connection

#: Keys on one page.
LISTED: Final = 50
#: The lifetimes that the form offers.
LIFETIMES: Final[dict[str, tuple[str, timedelta | None]]] = {
    "": ("Until revoked", None),
    "1d": ("1 day", timedelta(days=1)),
    "30d": ("30 days", timedelta(days=30)),
    "90d": ("90 days", timedelta(days=90)),
    "365d": ("1 year", timedelta(days=365)),
}

ADDRESS: Final = f"{ROOT}/keys"

pages = Pages("keys")


class KeysQuery(PageQuery):
    """The filter of the list, and the page."""

    client: Id = optional()
    role: Role = optional()
    state: KeyState = optional()


class NewKeyQuery(Body):
    """The client that the form names at first."""

    client: str = ""


class NewKeyForm(Body):
    """A new key."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
    role: Role
    #: None: a new client.
    client: Id | None = optional()
    lifetime: Literal["1d", "30d", "90d", "365d"] | None = optional()
    #: The id of the key, which the form made, so that a form that is sent twice makes one key.
    number: Annotated[UUID, Field(strict=False)] | None = optional()


@pages.get("/keys", roles=ADMINS, query=KeysQuery)
def list_keys(visit: Visit) -> Page:
    """
    List the keys that match, newest first. Keys that are no longer valid stay in the list.
    """
    query: KeysQuery = visit.query
    with visit.services.connection() as connection:
        found = key_queries.list_keys(
            connection,
            client=query.client,
            role=query.role,
            state=query.state,
            limit=LISTED,
            cursor=query.cursor,
        )
    context = {"found": found, "query": query, "own": visit.caller.key_id, "state_of": _state}
    return Page("keys.html", context)


@pages.get("/keys/new", roles=ADMINS, query=NewKeyQuery)
def show_form(visit: Visit) -> Page:
    """
    Show the form for a new key.
    """
    return _form(visit, {"client": visit.query.client})


@pages.post("/keys", roles=ADMINS)
def create(visit: Visit) -> Page | Redirect:
    """
    Create a key and show it once. If the form has mistakes, show the form again.
    """
    values = {name: found[0] for name, found in visit.form.items()}
    try:
        form = visit.read(NewKeyForm)
    except Invalid as error:
        return _form(visit, values, {one["pointer"][1:]: _remedy(one["pointer"]) for one in error.errors})
    try:
        made = _made(visit, form)
    except KeyMade:
        again = "This form made its key already, and the key is shown once only. Nothing was done again."
        return Redirect(f"{ROOT}/keys/{form.number}", Notice(again, "failed"))
    except KeyRefused:
        return _form(visit, values, {"name": _remedy("/name")})
    if made is None:
        wrong = "There is no such client. Leave the field empty to create one."
        return _form(visit, values, {"client": wrong})
    return Page("key_made.html", {"made": made, "is_second": form.client is not None})


def _made(visit: Visit, form: NewKeyForm) -> keys.CreatedKey | None:
    """Create the key of a form. Returns None if its client does not exist. Raises KeyMade, KeyRefused."""
    with visit.services.connection() as connection:
        if form.client is not None and not key_queries.is_client(connection, form.client):
            return None
        return keys.create_key(
            connection,
            form.name,
            form.role,
            form.client,
            lifetime=LIFETIMES[form.lifetime or ""][1],
            actor=visit.caller.actor,
            key_id=form.number,
        )


@pages.get("/keys/<key>", roles=ADMINS)
def one_key(visit: Visit, key: str) -> Page:
    """
    Show a key, and the sessions and keys that its revocation affects.
    """
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
    """
    Revoke a key. Its console sessions end.
    """
    form = visit.read(ReasonForm)
    with visit.services.connection() as connection:
        found = _read(connection, key)
        was_valid = keys.revoke_key(connection, found.id, actor=visit.caller.actor, reason=form.reason)
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
        "number": values.get("number") or new_id(),
        "wrong": wrong or {},
        "clients": clients,
        "lifetimes": [(name, title) for name, (title, _) in LIFETIMES.items()],
        "name_max": NAME_CHARACTERS_MAX,
    }
    return Page("key_new.html", context, 422 if wrong else 200)


def _remedy(pointer: str) -> str:
    return {
        "/name": f"Enter a name of 1 to {NAME_CHARACTERS_MAX} printable characters.",
        "/role": "Choose a role.",
        "/client": "Enter an id of 1 to 128 letters, digits and . _ : ~ @ -",
    }.get(pointer, "Choose one of these.")


def _read(connection: Connection, text: str) -> Key:
    found = key_queries.read_key(connection, read_id(text, "key"))
    if found is None:
        raise NotFound("there is no such key")
    return found
