"""
Sessions, the tokens of forms, and notices that survive a redirect.

The session cookie is HttpOnly and limited to /admin. It is Secure if the page came by HTTPS, also through a proxy
that sets X-Forwarded-Proto. A client that sets this header affects only its own cookie. The cookie is SameSite=Lax,
so that links from other sites open pages. No GET changes anything. A POST needs the token of its session, and is
refused if the browser reports another site as its origin.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import TYPE_CHECKING, Any, Final

from api.console.pages import ROOT, Notice
from processor.clients import sessions
from processor.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.services import Services
    from processor.clients.sessions import Session

SESSION_COOKIE: Final = "teller_session"
NOTICE_COOKIE: Final = "teller_notice"
#: The field with the token of a form.
CSRF_FIELD: Final = "csrf"
#: The lifetime of a notice that no page has shown.
NOTICE_SECONDS: Final = 60

_CSRF_CONTEXT: Final = b"teller console form "
_NOTICE_CONTEXT: Final = b"teller console notice "


def read_session(services: Services, environ: Mapping[str, Any]) -> Session | None:
    """
    Return the session of the request's cookie, or None. Raises DatabaseUnavailable.
    """
    token = _cookie(environ, SESSION_COOKIE)
    if token is None:
        return None
    with services.connection() as connection:
        session = sessions.find(connection, token)
    if session is not None:
        services.keys.note_use(session.caller)
    return session


def csrf_token(secret: str, session: Session) -> str:
    """
    Return the token of a session's forms. It depends on TELLER_SECRET, and is valid as long as the session.
    """
    return hmac.new(secret.encode(), _CSRF_CONTEXT + session.digest, hashlib.sha256).hexdigest()


def refuse_forged(form: Mapping[str, list[str]], expected: str) -> None:
    """
    Raise Forbidden unless a form has exactly one token, that of its session.
    """
    sent = form.get(CSRF_FIELD, [])
    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode(), expected.encode()):
        raise Forbidden(
            "this form does not belong to your current session: go back, reload the page and try again"
        )


def session_cookie(environ: Mapping[str, Any], token: str) -> tuple[str, str]:
    """
    Return the header that sets the session cookie.
    """
    return _set_cookie(environ, SESSION_COOKIE, token, int(sessions.LIFETIME.total_seconds()))


def forget_cookie(environ: Mapping[str, Any], name: str) -> tuple[str, str]:
    """
    Return the header that removes a cookie.
    """
    return _set_cookie(environ, name, "", 0)


def notice_cookie(environ: Mapping[str, Any], secret: str, notice: Notice) -> tuple[str, str]:
    """
    Return the header that carries a notice to the next page. It is signed, so that no other site can forge one.
    """
    text = base64.urlsafe_b64encode(json.dumps([notice.kind, notice.text]).encode()).decode()
    return _set_cookie(environ, NOTICE_COOKIE, f"{text}.{_sign(secret, text)}", NOTICE_SECONDS)


def read_notice(environ: Mapping[str, Any], secret: str) -> Notice | None:
    """
    Return the notice in the request's cookie. Returns None without a valid signature.
    """
    text, _, signature = (_cookie(environ, NOTICE_COOKIE) or "").rpartition(".")
    if not hmac.compare_digest(signature.encode(), _sign(secret, text).encode()):
        return None
    kind, words = json.loads(base64.urlsafe_b64decode(text))
    return Notice(words, kind)


def _sign(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), _NOTICE_CONTEXT + text.encode(), hashlib.sha256).hexdigest()


def _cookie(environ: Mapping[str, Any], name: str) -> str | None:
    """
    Return the first cookie of this name, which has the longest path (RFC 6265, section 5.4).

    http.cookies ignores every cookie after one that it cannot parse. Cookies are shared by all ports of a host, so
    a cookie of another server could then prevent every sign-in.
    """
    found = re.search(rf"(?:^|;)[ \t]*{name}[ \t]*=([^;]*)", environ.get("HTTP_COOKIE", ""))
    return found[1].strip() if found else None


def _set_cookie(environ: Mapping[str, Any], name: str, value: str, seconds: int) -> tuple[str, str]:
    by_https = "https" in (environ.get("wsgi.url_scheme"), environ.get("HTTP_X_FORWARDED_PROTO"))
    flags = "HttpOnly; SameSite=Lax" + ("; Secure" if by_https else "")
    return "Set-Cookie", f"{name}={value}; Path={ROOT}; Max-Age={seconds}; {flags}"
