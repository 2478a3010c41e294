"""
The field types that bodies and query parameters share, and their base class.

The models of each noun stand in its own module. The OpenAPI document is generated from the models that check the
input. Types are strict: "5", 5.0 and true are not integers.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from processor.domain.model import MAX_QUANTITY

#: The size limit of `metadata`, as compact JSON in UTF-8.
METADATA_BYTES_MAX = 4096
#: The limit of free text (destination, unit, reason).
TEXT_CHARACTERS_MAX = 1024
#: The ids of resources, accounts and clients.
ID_PATTERN = r"^[A-Za-z0-9._:~@-]{1,128}$"
#: An idempotency key: printable ASCII, as HTTP headers carry it.
KEY_PATTERN = r"^[ -~]{1,255}$"

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(value: object) -> datetime:
    """Return an RFC 3339 time with an offset as UTC. Raises ValueError."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-21T23:15:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a time that exists") from None


def _storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata as it is stored: with 0.0 for -0.0. Raises ValueError if it is too large."""
    text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode())
    if size > METADATA_BYTES_MAX:
        raise ValueError(f"must be at most {METADATA_BYTES_MAX} bytes of JSON, this is {size}")
    if "-0.0" not in text:
        return metadata
    stored: dict[str, Any] = json.loads(text, parse_float=lambda digits: float(digits) + 0.0)
    return stored


Id = Annotated[str, Field(pattern=ID_PATTERN, examples=["coupon:BLACKFRIDAY"])]
Account = Annotated[str, Field(pattern=ID_PATTERN, examples=["u_42"])]
#: An amount in whole units of the resource; money in minor units. The OpenAPI document says so at each field.
Amount = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
#: A quantity that may be zero: what a resource begins with, an overdraft, a threshold.
Quantity = Annotated[int, Field(ge=0, le=MAX_QUANTITY)]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]
Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_time),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-21T23:15:00Z"]}),
]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_storable),
    WithJsonSchema(
        {
            "type": "object",
            "description": f"Any object of at most {METADATA_BYTES_MAX} bytes of JSON. It comes back as it was sent. "
            "A whole number keeps all its digits, and a number with a point or an exponent is a double.",
            "examples": [{"order": "A-17"}],
        }
    ),
]
IdempotencyKey = Annotated[str, Field(pattern=KEY_PATTERN, examples=["order-A-17"])]


class OneOf:
    """An annotation of a string field that takes one of some words, as a Literal does."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a Literal of these words."""
        return core_schema.literal_schema(self.words)


class Body(BaseModel):
    """The base of bodies and query parameters: strict, without unknown fields."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


def optional(description: str | None = None) -> Any:
    """
    Declare a field that may be left out, and is None then. A null is refused: it is not a value of the type.
    """
    return Field(default=None, description=description)


class Nothing(Body):
    """No fields: an empty body, or an empty object."""


class NoQuery(Body):
    """No query parameters."""
