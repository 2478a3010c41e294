"""
Lists: which part of one is asked for, and how it is answered.
"""

import re
from typing import Annotated, Any, Final, Protocol, TypeVar

from pydantic import BeforeValidator, Field

from api.web.fields import Body, optional
from processor.records import pages
from processor.records.documents import Document

#: Rows in one part of a list: at the most, and when nothing is said.
LIMIT_MAX: Final = 100
LIMIT_DEFAULT: Final = 20

_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


def _number(value: object) -> object:
    """A query parameter's digits as an integer; anything else is left to be refused."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


class Page(Body):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(_number)] = LIMIT_DEFAULT
    cursor: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-]{1,512}$", description="`next_cursor` of the part before.")
    ] = optional()


class _Shown(Protocol):
    def document(self) -> Document:
        """It as the contract shows it."""


Row = TypeVar("Row", bound=_Shown)


def listed(page: pages.Page[Row]) -> dict[str, Any]:
    """A part of a list as the contract shows it."""
    return {"data": [row.document() for row in page.rows], "next_cursor": page.next_cursor}
