"""
The Idempotency-Key header: bare, or quoted as a structured field string (RFC 8941, 3.3.3).

Both forms name the same key. Intake gives the key its effect. The server joins two headers with a comma, without a
space. So a comma in a bare key needs a space behind it, or the key is quoted.
"""

import re
from typing import Final

from api.web.fields import KEY_PATTERN
from api.web.headers import JOINED
from api.web.problems import IdempotencyKeyMissing, Invalid, Malformed

#: The limit of the header: a quoted key of 255 characters, each of them escaped.
HEADER_CHARACTERS_MAX: Final = 512
#: The header in the OpenAPI document: bare and without commas, or a quoted string (RFC 9651, 3.3.3).
HEADER_PATTERN: Final = r'^([!#-+\--~][ -+\--~]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'

_KEY = re.compile(KEY_PATTERN)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPE = re.compile(r"\\(.)")


def read_key(header: str | None) -> str:
    """
    Return the key that a header has.

    Raises IdempotencyKeyMissing, Malformed for two different keys, or Invalid if the key is not 1 to 255 printable
    characters.
    """
    if header is None or not (text := header.strip()):
        raise IdempotencyKeyMissing("the header Idempotency-Key is missing")
    if len(text) > HEADER_CHARACTERS_MAX:
        key = ""
    elif text.startswith('"'):
        key = _quoted(text)
    else:
        keys = set(JOINED.split(text))
        if len(keys) > 1:
            raise Malformed(_TWO_KEYS)
        [key] = keys
    if not _KEY.fullmatch(key):
        raise Invalid.at(
            "", "the header Idempotency-Key must be 1 to 255 printable characters, bare or quoted"
        )
    return key


def _quoted(text: str) -> str:
    """Return the key of a quoted header, or nothing if it is not one. Raises Malformed for two different keys."""
    found = _QUOTED.match(text)
    if found is None:
        return ""
    rest = text[found.end() :].replace(f",{found[0]}", "")  # the same key again
    if rest.startswith(","):
        raise Malformed(_TWO_KEYS)
    return "" if rest else _ESCAPE.sub(r"\1", found[1])


_TWO_KEYS: Final = (
    "the header Idempotency-Key is sent twice, or has a comma without a space behind it: "
    "a key with commas is quoted"
)
