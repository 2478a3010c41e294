"""
Pages of lists, and the cursors between them: stable while new rows come in.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from processor.errors import TellerError

#: The longest cursor. JSON of this size does not nest too deeply for the parser.
CURSOR_CHARACTERS_MAX = 512

_ID = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)
_BIGINT_MAX = 2**63 - 1

Row = TypeVar("Row")


class CursorInvalid(TellerError):
    """A cursor that no page of this list gave out."""

    code = "cursor_invalid"


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """A part of a list, and where the next part begins (None: this is the last)."""

    rows: list[Row]
    next_cursor: str | None


def page(rows: list[Row], limit: int, key: Callable[[Row], Sequence[str]]) -> Page[Row]:
    """
    The first `limit` rows; one more was read to know whether there is a next page. `key`: what they are sorted by.
    """
    if len(rows) <= limit:
        return Page(rows, None)
    return partial_page(rows[:limit], key(rows[limit - 1]))


def partial_page(rows: list[Row], end: Sequence[str]) -> Page[Row]:
    """A page with a next page, which begins after `end`. It may have fewer rows than asked, or none."""
    last = json.dumps(list(end), separators=(",", ":"))
    return Page(rows, base64.urlsafe_b64encode(last.encode()).decode().rstrip("="))


def identifier(text: str) -> str:
    """Check the id of a resource, account or client in a cursor. Raises ValueError."""
    if not _ID.fullmatch(text):
        raise ValueError("no id")
    return text


def row_number(text: str) -> int:
    """The number of a row, for `read_cursor`. Raises ValueError."""
    if not 0 <= (number := int(text)) <= _BIGINT_MAX:
        raise ValueError("no number of a row")
    return number


def read_cursor(cursor: str | None, *types: Callable[[str], Any]) -> list[Any]:
    """
    The sort key of the last row of the page before, one value for each type; Nones for the first page. Raises
    CursorInvalid.
    """
    if cursor is None:
        return [None] * len(types)
    try:
        parts = _parts_of(cursor)
        return [read(part) for read, part in zip(types, parts, strict=True)]
    except (ValueError, TypeError) as fault:
        raise CursorInvalid("is no cursor of this list") from fault


def _parts_of(cursor: str) -> list[str]:
    """Return the texts of a cursor. Raises ValueError, TypeError."""
    if len(cursor) > CURSOR_CHARACTERS_MAX:
        raise ValueError("too long")
    parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise TypeError("not a list of texts")
    return parts
