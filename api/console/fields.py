"""
The fields and forms that several pages share.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator

from api.console.pages import local_path
from api.web.fields import Body, Text, optional


def _moment(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        read = datetime.fromisoformat(value)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time, such as 2026-11-22T04:30") from None


#: A time from a browser. It has no offset, and means UTC.
Moment = Annotated[datetime, BeforeValidator(_moment)]


def field_value(moment: datetime) -> str:
    """
    Return a time as the value of a `datetime-local` field: to the second, without an offset.
    """
    return moment.replace(tzinfo=None).isoformat(timespec="seconds")


def read_digits(text: object, digits_max: int) -> int | None:
    """
    Return a number of at most `digits_max` ASCII digits. Returns None for anything else.
    """
    is_number = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= digits_max
    return int(str(text)) if is_number else None


class PageQuery(Body):
    """The page of a list."""

    cursor: str = optional()


class ReasonForm(Body):
    """An action and its reason."""

    reason: Text


class BackForm(Body):
    """An action on a page that the browser returns to."""

    back: str = ""

    def page_or(self, default: str) -> str:
        """
        Return the console page that the form was on, or `default` if the form does not name it.
        """
        return local_path(self.back) if self.back else default


class ReasonBackForm(ReasonForm, BackForm):
    """An action with its reason, on a page that the browser returns to."""
