"""
Who comes in: the session's cookie, proof that a form is ours, and the note that outlives a redirect.

The cookie is HttpOnly and goes to /admin alone; Secure whenever the page came by https (also through a proxy that
says so: a client that lies about it only hurts itself). SameSite=Lax, so that a link in a chat opens the page it
names; no GET changes anything, and a POST needs the token of the session in its form, and must not come from
elsewhere by what the browser itself says of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

from api.console.pages import ROOT, Notice
from api.web.problems import Forbidden
from processor.clients import sessions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.services import Services
    from processor.clients.sessions import Session

SESSION_COOKIE: Final = "teller_session"
NOTICE_COOKIE: Final = "teller_notice"
#: The field of each form that proves it is ours.
CSRF_FIELD: Final = "csrf"
#: A notice that nobody came to see is forgotten, in seconds.
NOTICE_SECONDS: Final = 60

_CSRF_CONTEXT: Final = b"teller console form "
_NOTICE_CONTEXT: Final = b"teller console notice "


def recognise(services: Services, environ: Mapping[str, Any]) -> Session | None:
    """Who this browser is signed in as. Raises DatabaseUnavailable."""
    token = _cookie(environ, SESSION_COOKIE)
    if token is None:
        return None
    with services.connection() as connection:
        session = sessions.find(connection, token)
    if session is not None:
        services.keys.note_use(session.caller)
    return session


def csrf_token(secret: str, session: Session) -> str:
    """What the forms of a session carry: nobody without TELLER_SECRET can make it, and it ends with the session."""
    return hmac.new(secret.encode(), _CSRF_CONTEXT + session.digest, hashlib.sha256).hexdigest()


def refuse_forged(form: Mapping[str, list[str]], expected: str) -> None:
    """Raises Forbidden when a form does not carry the token of its session."""
    sent = form.get(CSRF_FIELD, [])
    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode(), expected.encode()):
        raise Forbidden(
            "this form does not belong to your current session: go back, reload the page and try again"
        )


def session_cookie(environ: Mapping[str, Any], token: str) -> tuple[str, str]:
    """The header that signs a browser in."""
    return _set_cookie(environ, SESSION_COOKIE, token, int(sessions.LIFETIME.total_seconds()))


def forget_cookie(environ: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The header that takes a cookie away."""
    return _set_cookie(environ, name, "", 0)


def notice_cookie(environ: Mapping[str, Any], secret: str, notice: Notice) -> tuple[str, str]:
    """The header that carries a notice to the next page, signed: nobody else puts words into our mouth."""
    text = base64.urlsafe_b64encode(json.dumps([notice.kind, notice.text]).encode()).decode()
    return _set_cookie(environ, NOTICE_COOKIE, f"{text}.{_seal(secret, text)}", NOTICE_SECONDS)


def read_notice(environ: Mapping[str, Any], secret: str) -> Notice | None:
    """What the page before had to say."""
    text, _, seal = (_cookie(environ, NOTICE_COOKIE) or "").rpartition(".")
    if not hmac.compare_digest(seal.encode(), _seal(secret, text).encode()):
        return None
    kind, words = json.loads(base64.urlsafe_b64decode(text))
    return Notice(words, kind)


def _seal(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), _NOTICE_CONTEXT + text.encode(), hashlib.sha256).hexdigest()


def _cookie(environ: Mapping[str, Any], name: str) -> str | None:
    """
    The first of this name: a browser sends the one of the longest path first (RFC 6265, section 5.4). Not by
    http.cookies, which sees nothing of what comes after a cookie that it cannot read, and cookies are those of the
    host: somebody else's on another port would lock people out.
    """
    for pair in environ.get("HTTP_COOKIE", "").split(";"):
        found, _, value = pair.partition("=")
        if found.strip() == name:
            return str(value.strip())
    return None


def _set_cookie(environ: Mapping[str, Any], name: str, value: str, seconds: int) -> tuple[str, str]:
    by_https = "https" in (environ.get("wsgi.url_scheme"), environ.get("HTTP_X_FORWARDED_PROTO"))
    flags = "HttpOnly; SameSite=Lax" + ("; Secure" if by_https else "")
    return "Set-Cookie", f"{name}={value}; Path={ROOT}; Max-Age={seconds}; {flags}"
