"""
Sign-in with the key of an operator or admin, and sign-out.
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


class SignInQuery(Body):
    """The page to open after the sign-in."""

    next: str = optional()


class SignInForm(SignInQuery):
    """A key, and the page to open after the sign-in."""

    key: Annotated[str, Field(max_length=512)] = optional()


@pages.get("/sign-in", roles=PUBLIC, query=SignInQuery)
def show_form(visit: Visit) -> Page | Redirect:
    """
    Show the form, or redirect if the browser is signed in already.
    """
    next_address = local_path(visit.query.next)
    if visit.session is not None:
        return Redirect(next_address)
    return _form(visit, next_address)


@pages.post("/sign-in", roles=PUBLIC)
def begin(visit: Visit) -> Page | Redirect:
    """
    Begin a session for a valid key. Failed attempts are counted as on the API.
    """
    form = visit.read(SignInForm)
    next_address = local_path(form.next)
    if not form.key:
        return _form(visit, next_address, "Enter a key. It begins with teller_.", 422)
    try:
        caller = visit.services.keys.sign_in(form.key.strip(), visit.environ)
    except Unauthorized:
        return _form(visit, next_address, "This key is unknown, has expired or was revoked.", 401)
    if caller.role not in OPERATORS:
        return _form(
            visit,
            next_address,
            "This is a client's key. The console needs the key of an operator or admin.",
            403,
        )
    with visit.services.connection() as connection:
        token = sessions.begin(connection, caller, visit.session)
    if token is None:
        return _form(visit, next_address, "This key has just been revoked.", 401)
    return Redirect(next_address, headers=(security.session_cookie(visit.environ, token),))


@pages.post("/sign-out")
def end(visit: Visit) -> Redirect:
    """
    End the session in the database, and remove its cookie.
    """
    assert visit.session is not None  # noqa: S101 - the page has roles
    with visit.services.connection() as connection:
        sessions.end(connection, visit.session)
    return Redirect(
        ADDRESS,
        Notice("You are signed out."),
        headers=(security.forget_cookie(visit.environ, security.SESSION_COOKIE),),
    )


def _form(visit: Visit, next_address: str, wrong: str | None = None, status: int = 200) -> Page:
    return Page(
        "sign_in.html", {"next": next_address, "wrong": wrong, "lab": visit.services.settings.lab}, status
    )
