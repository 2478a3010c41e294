"""
Text of clients and gateways for people: invisible characters become visible, and right-to-left text is isolated.

Such a character can change the order of the text around it, hide a part of it, or control a terminal. Two different
destinations could look the same. Source: Unicode Standard Annex #9 (bidirectional text).
"""

import re
import unicodedata
from typing import Final

#: First strong isolate, and its end. The order of the text between them does not reach beyond them.
ISOLATE: Final = "\u2068"
END_OF_ISOLATE: Final = "\u2069"

#: Characters that count as printable and have no shape: a joiner, and fillers of Korean and of Braille.
_SHAPELESS: Final = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
_LINE: Final = re.compile(r"[^\n]+")
_BMP_MAX: Final = 0xFFFF


def visible(text: str, *, lines: bool = False) -> str:
    r"""
    Return the text with escapes such as `\u202e` for characters that have no shape, and isolated if necessary.

    Spaces stay. With `lines`, so do line breaks and tabs, and each line is isolated by itself.
    """
    return _LINE.sub(lambda line: isolated(line[0]), escaped(text, keep="\n\t" if lines else ""))


def escaped(text: str, *, keep: str = "") -> str:
    """Return the text with escapes for characters that have no shape, except those to keep."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one in keep or _has_shape(one) else _escape(one) for one in text)


def isolated(text: str) -> str:
    """Return the text between isolates if it has letters that run from right to left."""
    if text.isascii() or not any(unicodedata.bidirectional(one) in _RIGHT_TO_LEFT for one in text):
        return text
    return f"{ISOLATE}{text}{END_OF_ISOLATE}"


def escaped_json(text: str) -> str:
    """
    Return a JSON text with escapes for characters that have no shape. It means the same.

    Outside its strings, a JSON text has none of them but line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one == "\n" or _has_shape(one) else _json_escape(one) for one in text)


def _has_shape(character: str) -> bool:
    if character in _SHAPELESS:
        return False
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= _BMP_MAX else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
