"""
The Idempotency-Key header: bare, or quoted as a structured field string (RFC 8941, 3.3.3).

Both forms name the same key. Intake gives the key its effect.
"""

import re
from typing import Final

from api.web.fields import KEY_PATTERN
from api.web.problems import IdempotencyKeyMissing, Invalid

#: The limit of the header: a quoted key of 255 characters, each of them escaped.
HEADER_CHARACTERS_MAX: Final = 512
#: The header in the OpenAPI document: bare, or a quoted string (RFC 9651, 3.3.3).
HEADER_PATTERN: Final = r'^([!#-~][ -~]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'

_KEY = re.compile(KEY_PATTERN)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPE = re.compile(r"\\(.)")


def read_key(header: str | None) -> str:
    """
    Return the key that a header has.

    Raises IdempotencyKeyMissing, or Invalid if the key is not 1 to 255 printable characters.
    """
    if header is None or not (text := header.strip()):
        raise IdempotencyKeyMissing("the header Idempotency-Key is missing")
    if len(text) > HEADER_CHARACTERS_MAX:
        key = ""
    elif text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        key = _ESCAPE.sub(r"\1", quoted[1]) if quoted else ""
    else:
        key = text
    if not _KEY.fullmatch(key):
        raise Invalid.at(
            "", "the header Idempotency-Key must be 1 to 255 printable characters, bare or quoted"
        )
    return key
