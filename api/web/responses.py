"""
Models of answers that every noun shares. They serve the OpenAPI document alone.

The models of a noun stand in its own module. `processor/records/documents.py` makes the documents themselves; a
test holds the two together.
"""

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Row = TypeVar("Row")


class FieldError(BaseModel):
    """One mistake in a body or a query."""

    pointer: str = Field(description="A JSON pointer (RFC 6901); empty: the whole body.")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="A relative URI that leads to an explanation.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable, and meant for programs.")
    errors: list[FieldError] | None = None
    attempts_remaining: int | None = Field(
        default=None, description="How often the current one-time code may still be tried."
    )


class ListOf(BaseModel, Generic[Row]):
    """A part of a list, newest first."""

    data: list[Row]
    next_cursor: str | None = Field(
        description="The cursor of the next part; null: this is the last. A part with a cursor may have fewer rows "
        "than `limit`, or none."
    )


class AllOf(BaseModel, Generic[Row]):
    """A list in one page."""

    data: list[Row]
