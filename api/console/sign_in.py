"""
Signing in with an operator's or admin's key, and out.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from api.console import security
from api.console.pages import PUBLIC, ROOT, Notice, Page, Pages, Redirect, Visit, local_path
from api.web.fields import Body, optional
from api.web.problems import Unauthorized
from processor.clients import sessions
from processor.domain.roles import OPERATORS

ADDRESS: Final = f"{ROOT}/sign-in"

pages = Pages("sign-in")


class Wanted(Body):
    """Where to go afterwards."""

    next: str = optional()


class SigningIn(Body):
    """A key, and where to go with it."""

    key: Annotated[str, Field(max_length=512)] = optional()
    next: str = optional()


@pages.get("/sign-in", roles=PUBLIC, query=Wanted)
def ask(visit: Visit) -> Page | Redirect:
    """The form; whoever is signed in has no need of it."""
    wanted = local_path(visit.query.next)
    if visit.session is not None:
        return Redirect(wanted)
    return _form(wanted)


@pages.post("/sign-in", roles=PUBLIC)
def begin(visit: Visit) -> Page | Redirect:
    """
    A session for a valid key. What fails is counted as everywhere else, and says no more than it must.
    """
    sent = visit.read(SigningIn)
    wanted = local_path(sent.next)
    if not sent.key:
        return _form(wanted, "Enter a key. It begins with teller_.", 422)
    try:
        caller = visit.services.keys.sign_in(sent.key.strip(), visit.environ)
    except Unauthorized:
        return _form(wanted, "This key is unknown, has expired or was revoked.", 401)
    if caller.role not in OPERATORS:
        return _form(
            wanted, "This is a client's key. The console needs the key of an operator or admin.", 403
        )
    with visit.services.connection() as connection:
        token = sessions.begin(connection, caller, visit.session)
    if token is None:
        return _form(wanted, "This key has just been revoked.", 401)
    return Redirect(wanted, headers=(security.session_cookie(visit.environ, token),))


@pages.post("/sign-out")
def end(visit: Visit) -> Redirect:
    """The session is over, here and everywhere."""
    assert visit.session is not None  # noqa: S101 - the page has roles
    with visit.services.connection() as connection:
        sessions.end(connection, visit.session)
    return Redirect(
        ADDRESS,
        Notice("You are signed out."),
        headers=(security.forget_cookie(visit.environ, security.SESSION_COOKIE),),
    )


def _form(wanted: str, wrong: str | None = None, status: int = 200) -> Page:
    return Page("sign_in.html", {"next": wanted, "wrong": wrong}, status)
