"""
Lists: the query parameters of a part, and its JSON.
"""

import re
from typing import Annotated, Any, Final, Protocol, TypeVar

from pydantic import BeforeValidator, Field

from api.web.fields import Body, optional
from processor.records import pages
from processor.records.documents import Document

#: The rows in one part of a list.
LIMIT_MAX: Final = 100
LIMIT_DEFAULT: Final = 20

_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


def _number(value: object) -> object:
    """Return digits as an integer, and any other value unchanged, to be refused."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


class Page(Body):
    """The part of a list that a client asks for."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(_number)] = LIMIT_DEFAULT
    cursor: Annotated[
        str,
        Field(
            pattern=rf"^[A-Za-z0-9_-]{{1,{pages.CURSOR_CHARACTERS_MAX}}}$",
            description="The `next_cursor` of the part before.",
        ),
    ] = optional()


class _Record(Protocol):
    def document(self) -> Document:
        """Return the JSON of this record."""


Row = TypeVar("Row", bound=_Record)


def listed(page: pages.Page[Row]) -> dict[str, Any]:
    """Return the JSON of a part of a list."""
    return {"data": [row.document() for row in page.rows], "next_cursor": page.next_cursor}
