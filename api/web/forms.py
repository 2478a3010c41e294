"""
Forms of pages: read within limits, and refused when they come from another site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from api.web.problems import BodyTooLarge, Malformed, UnsupportedMediaType
from api.web.unread_bodies import IS_READ
from processor.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The limits of one form.
FORM_BYTES_MAX: Final = 64 * 1024
FORM_FIELDS_MAX: Final = 200
_FORM_TYPE: Final = "application/x-www-form-urlencoded"


def refuse_foreign(environ: Mapping[str, Any]) -> None:
    """Refuse a form that another site has sent, by the headers of the browser. Raises Forbidden."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    origin = environ.get("HTTP_ORIGIN")
    host = environ.get("HTTP_HOST", "")
    if site not in (None, "same-origin", "none") or (
        site is None and origin is not None and origin.partition("://")[2] != host
    ):
        raise Forbidden("this form comes from another site: nothing was done")


def read_form(environ: dict[str, Any]) -> dict[str, list[str]]:
    """Return the fields that were sent. Raises BodyTooLarge, UnsupportedMediaType, Malformed."""
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise UnsupportedMediaType(f"a form is sent as {_FORM_TYPE}")
    raw: bytes = environ["wsgi.input"].read(FORM_BYTES_MAX + 1)
    if len(raw) > FORM_BYTES_MAX:
        raise BodyTooLarge(f"a form may have at most {FORM_BYTES_MAX} bytes")
    environ[IS_READ] = True
    try:
        return parse_qs(raw.decode("ascii"), max_num_fields=FORM_FIELDS_MAX)
    except ValueError:
        raise Malformed("the form could not be read") from None
