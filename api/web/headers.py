"""
Headers that are sent twice, or under a name that is not theirs, are refused before anything else is done.

The server joins the values of a header with commas, so two values show as a comma where one value has none. It
writes `_` for the `-` of names. So `Content_Length` shows under a name of its own, but `Idempotency_Key` shows as
`Idempotency-Key`. An Idempotency-Key is checked by `idempotency`.
"""

import re
from typing import Any, Final

from api.web import long_poll
from api.web.problems import Malformed

#: The comma with which the server joins two values. Clients write a space behind theirs.
JOINED: Final = re.compile(r",(?! )")
#: Headers of one value → the commas at which the server has joined two of them.
_SINGLE: Final = (
    ("HTTP_AUTHORIZATION", "Authorization", re.compile(r",(?=[A-Za-z]+ )")),
    ("HTTP_ORIGIN", "Origin", re.compile(r",")),
    ("HTTP_X_REQUEST_ID", "X-Request-Id", re.compile(r",")),
)
#: Keys that exist only for a name with an underscore, as the header itself has another key.
_UNDERSCORED: Final = (
    ("HTTP_CONTENT_LENGTH", "Content-Length"),
    ("HTTP_CONTENT_TYPE", "Content-Type"),
)


def check(environ: dict[str, Any]) -> None:
    """Reduce a header that was sent twice with the same value to one. Raises Malformed for different values."""
    for key, name, comma in _SINGLE:
        value = environ.get(key)
        if value is not None and "," in value:
            values = set(comma.split(value))
            if len(values) > 1:
                raise Malformed(f"the header {name} is sent twice, with different values")
            [environ[key]] = values
    if "," in environ.get("HTTP_HOST", ""):
        raise Malformed("the header Host is sent twice")  # RFC 9112, 3.2: also with the same value
    for key, name in _UNDERSCORED:
        if key in environ:
            raise Malformed(f"a header has an underscore in its name: it is written {name}")
    preferences = environ.get("HTTP_PREFER")
    if preferences is not None and "," in preferences:
        waits = {long_poll.read_preference(part) for part in JOINED.split(preferences)}
        if len(waits - {None}) > 1:
            raise Malformed("the header Prefer is sent twice, with different values of wait")
