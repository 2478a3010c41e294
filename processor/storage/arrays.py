"""
Columns of values as PostgreSQL's binary arrays, for the statements that `unnest` them.

psycopg packs a list with one Python call for each value, which was a third of the time of deciding. Here a column of
one type is packed as a whole. The wire format is that of `array_recv` in PostgreSQL's
src/backend/utils/adt/arrayfuncs.c. Dimensions, has-null, element type, size and lower bound come first; then each
value after its length.
"""

import functools
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format

from processor.storage.connections import Connection

#: The OIDs in pg_type of an array type and of its element type.
_BOOL: Final = (1000, 16)
_BYTEA: Final = (1001, 17)
_SMALLINT: Final = (1005, 21)
_INTEGER: Final = (1007, 23)
_TEXT: Final = (1009, 25)
_TID: Final = (1010, 27)
_BIGINT: Final = (1016, 20)
_TIMESTAMPTZ: Final = (1185, 1184)
_UUID: Final = (2951, 2950)

_DECLARED: Final = re.compile(r"%\((\w+)\)b::(\w+)\[\]")
_HEAD: Final = Struct(">iIIii")
_EMPTY: Final = Struct(">iII")
_LENGTH: Final = Struct(">i")
_EIGHT_BYTES: Final = Struct(">q")
_NULL: Final = _LENGTH.pack(-1)
#: PostgreSQL counts microseconds from here.
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


Rows = psycopg.Cursor[tuple[Any, ...]]
Execute = Callable[[str, Mapping[str, Any]], Rows]


def executor(connection: Connection, statements: Mapping[str, str]) -> Execute:
    """
    Return a function that runs a named statement with packed columns.

    In a pipeline, the function returns before the rows are there.
    """

    def execute(name: str, parameters: Mapping[str, Any]) -> Rows:
        statement = statements[name]
        return connection.cursor(binary=True).execute(statement, packed(statement, parameters))

    return execute


class Packed:
    """
    A column in the wire format; `oid` is the type of the parameter in the statement.
    """

    __slots__ = ("data", "oid")

    def __init__(self, types: tuple[int, int], count: int, values: bytes, *, has_null: bool = False) -> None:
        self.oid, element = types
        head = _HEAD.pack(1, has_null, element, count, 1) if count else _EMPTY.pack(0, 0, element)
        self.data = head + values


def packed(statement: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the parameters with a Packed in place of each list that the statement declares, as in `%(ids)b::uuid[]`.
    """
    types = _declared(statement)
    return {name: types[name](value) if name in types else value for name, value in parameters.items()}


@functools.cache
def _declared(statement: str) -> dict[str, Callable[[Sequence[Any]], Packed]]:
    return {name: PACKERS[kind] for name, kind in _DECLARED.findall(statement)}


def bigints(values: Sequence[int | None]) -> Packed:
    """
    Pack a `bigint[]`. Raises psycopg.DataError for a value that is no whole number of 64 bits.
    """
    return _numbers(_BIGINT, "iq", 8, values)


def integers(values: Sequence[int | None]) -> Packed:
    """
    Pack an `integer[]`.
    """
    return _numbers(_INTEGER, "ii", 4, values)


def smallints(values: Sequence[int | None]) -> Packed:
    """
    Pack a `smallint[]`.
    """
    return _numbers(_SMALLINT, "ih", 2, values)


def booleans(values: Sequence[bool]) -> Packed:
    """
    Pack a `boolean[]`.
    """
    return _numbers(_BOOL, "i?", 1, values)


def texts(values: Sequence[str | None]) -> Packed:
    """
    Pack a `text[]`. Raises UnicodeEncodeError for a lone surrogate; PostgreSQL refuses NUL.
    """
    if _is_one(values):
        return _repeated(_TEXT, None if values[0] is None else values[0].encode(), len(values))
    if None in values:
        return _varied(_TEXT, [None if value is None else value.encode() for value in values])
    return _varied(_TEXT, list(map(str.encode, values)))  # type: ignore[arg-type]  # there is no None among them


def byteas(values: Sequence[bytes | None]) -> Packed:
    """
    Pack a `bytea[]`.
    """
    return _varied(_BYTEA, values)


def tids(values: Sequence[bytes | None]) -> Packed:
    """
    Pack a `tid[]` of places of rows, each in the binary form in which PostgreSQL sends it.
    """
    return _varied(_TID, values)


def uuids(values: Sequence[UUID | None]) -> Packed:
    """
    Pack a `uuid[]`.
    """
    return _varied(_UUID, [None if value is None else value.int.to_bytes(16, "big") for value in values])


def timestamps(values: Sequence[datetime | None]) -> Packed:
    """
    Pack a `timestamptz[]` of values with a time zone.
    """
    if _is_one(values) and values[0] is not None:  # the time of the batch
        return _repeated(_TIMESTAMPTZ, _EIGHT_BYTES.pack(_microseconds(values[0])), len(values))
    return _numbers(_TIMESTAMPTZ, "iq", 8, [None if one is None else _microseconds(one) for one in values])


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _numbers(types: tuple[int, int], item: str, size: int, values: Sequence[int | None]) -> Packed:
    try:
        if None in values:
            one = Struct(f">{item}")
            column = b"".join([_NULL if value is None else one.pack(size, value) for value in values])
            return Packed(types, len(values), column, has_null=True)
        sized = [size] * (2 * len(values))
        sized[1::2] = values  # type: ignore[assignment]  # there is no None among them
        return Packed(types, len(values), _layout(item, len(values)).pack(*sized))
    except struct.error as fault:
        raise psycopg.DataError(f"not a whole number of {size} bytes: {fault}") from fault


@functools.lru_cache(maxsize=256)
def _layout(item: str, count: int) -> Struct:
    return Struct(">" + item * count)


def _is_one(values: Sequence[Any]) -> bool:
    """
    Return whether all values are the same, as in most columns of a hot resource.
    """
    return bool(values) and values.count(values[0]) == len(values)


def _repeated(types: tuple[int, int], value: bytes | None, count: int) -> Packed:
    one = _NULL if value is None else _LENGTH.pack(len(value)) + value
    return Packed(types, count, one * count, has_null=value is None)


def _varied(types: tuple[int, int], values: Sequence[bytes | None]) -> Packed:
    if None in values:
        packed = [_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values]
        return Packed(types, len(values), b"".join(packed), has_null=True)
    plain: Sequence[bytes] = values  # type: ignore[assignment]  # there is no None among them
    lengths = set(map(len, plain))
    if len(lengths) == 1:  # joined without a step in Python for each
        before = _LENGTH.pack(lengths.pop())
        return Packed(types, len(plain), before + before.join(plain))
    return Packed(types, len(plain), b"".join([_LENGTH.pack(len(value)) + value for value in plain]))


#: The function that packs a list, by the element type that the statement declares.
PACKERS: Final[dict[str, Callable[[Sequence[Any]], Packed]]] = {
    "bigint": bigints,
    "boolean": booleans,
    "bytea": byteas,
    "integer": integers,
    "smallint": smallints,
    "text": texts,
    "tid": tids,
    "timestamptz": timestamps,
    "uuid": uuids,
}


class PackedDumper(Dumper):
    """
    Gives psycopg the type and the bytes of a Packed.
    """

    format = Format.BINARY

    def __init__(self, cls: type, context: AdaptContext | None = None, oid: int = 0) -> None:
        super().__init__(cls, context)
        self.oid = oid

    def get_key(self, obj: Packed, format: PyFormat) -> Any:  # noqa: A002, ARG002 - psycopg's names
        """
        Return the key of the dumper: packed columns of one type share one.
        """
        return (self.cls, obj.oid)

    def upgrade(self, obj: Packed, format: PyFormat) -> "PackedDumper":  # noqa: A002, ARG002 - psycopg's names
        """
        Return the dumper of this column's type.
        """
        return PackedDumper(self.cls, None, obj.oid)

    def dump(self, obj: Packed) -> bytes:
        """
        Return the bytes, which are packed already.
        """
        return obj.data


psycopg.adapters.register_dumper(Packed, PackedDumper)
