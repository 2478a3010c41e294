"""
The Idempotency-Key header: bare, or quoted as a structured field string (RFC 8941, 3.3.3).

Both forms name the same key. Intake gives the key its effect. The server joins two headers with a comma, without a
space, and nothing else shows that there were two. So a bare value is two keys if each part between such commas has
the form of the keys that programs make. A key that looks like two is quoted, or has a space behind its comma.
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
#: The form of the keys that programs make (UUIDs, base64, names with numbers), a quoted key, or an empty header.
_USUAL = re.compile(r'[A-Za-z0-9._:~@/+=|#, -]*|"[^"]*"')
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
        key = _bare(text)
    if not _KEY.fullmatch(key):
        raise Invalid.at(
            "", "the header Idempotency-Key must be 1 to 255 printable characters, bare or quoted"
        )
    return key


def _bare(text: str) -> str:
    """Return the key of a bare header. Raises Malformed for two different keys."""
    keys = set(JOINED.split(text))
    if len(keys) == 1:
        return keys.pop()
    if all(map(_USUAL.fullmatch, keys)):
        raise Malformed(_TWO_KEYS)
    return text


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
    "the header Idempotency-Key is sent twice, or looks so because of a comma: quote a key that has commas"
)
