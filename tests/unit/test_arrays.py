"""
Columns packed for the wire: PostgreSQL reads the values that were packed.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg import adapters, pq

from processor.storage import arrays

MOMENTS = [
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 11, 21, 23, 15, 1, 980_123, tzinfo=timezone(timedelta(hours=2))),
]
COLUMNS: dict[str, list[Any]] = {
    "bigint": [0, -1, 2**63 - 1, -(2**63)],
    "integer": [0, -1, 2**31 - 1],
    "smallint": [0, -1, 2**15 - 1],
    "boolean": [True, False],
    "text": ["", "plain", "Grüße 🎟"],
    "bytea": [b"", b"\x00\xff"],
    "tid": [b"\x00\x00\x00\x01\x00\x02", b"\xff\xff\xff\xfe\xff\xff"],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    "timestamptz": MOMENTS,
}


def received(kind: str, values: list[Any]) -> Any:
    """Return the packed column as psycopg reads it, which has the same format."""
    column = arrays.PACKERS[kind](values)
    loader = adapters.get_loader(column.oid, pq.Format.BINARY)
    assert loader is not None
    return loader(column.oid).load(column.data)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("shape", ["plain", "with nulls", "one", "the same", "only nulls", "none"])
def test_a_packed_column_reads_back_as_its_values(kind: str, shape: str) -> None:
    """
    Each type is tried with nulls at both ends, with one value, with equal values, and empty.
    """
    plain = COLUMNS[kind]
    shapes = {
        "plain": plain,
        "with nulls": [None, *plain, None],
        "one": plain[:1],
        "the same": plain[:1] * 3,
        "only nulls": [None, None],
        "none": [],
    }

    assert received(kind, shapes[shape]) == shapes[shape]


@pytest.mark.parametrize("beside", [1, None])
def test_a_number_that_does_not_fit_is_a_fault_of_the_data(beside: int | None) -> None:
    """
    A number out of range fails its own request, as a refusal by PostgreSQL does.
    """
    with pytest.raises(psycopg.DataError, match="whole number of 8 bytes"):
        arrays.bigints([beside, 2**63])


def test_only_declared_parameters_are_packed() -> None:
    """
    Lists are packed by the type after their parameter. psycopg sends everything else.
    """
    sent = arrays.packed(
        "SELECT * FROM unnest(%(ids)b::uuid[]) WHERE n = %(n)s", {"ids": [uuid.UUID(int=1)], "n": 5}
    )

    assert isinstance(sent["ids"], arrays.Packed)
    assert sent["n"] == 5
