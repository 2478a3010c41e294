"""
The records of a file, one at a time: CSV with a header line, or JSON lines.

A record has the fields of a body of the API. A line that is no record has its problem instead, and reading goes on
after it. Memory does not grow with the file.
"""

from __future__ import annotations

import csv
import json
import re
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The longest line, in bytes: the limit of a body of the API.
LINE_BYTES_MAX: Final = 1 << 20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)


class Record(NamedTuple):
    """One line of a file. `problem` is set if it is no record, and `is_header` if then no line is."""

    line: int
    fields: dict[str, Any]
    problem: str | None = None
    is_header: bool = False


def read_records(file: IO[bytes], types: Mapping[str, str], required: frozenset[str]) -> Iterator[Record]:
    """
    Read the records of a file from its beginning. Blank lines are none.

    `types` has the JSON type of each field, and `required` the fields that every record has. In CSV they must be
    columns, an empty cell is a field that is left out, and objects are written as JSON.
    """
    file.seek(0)
    first = file.read(4096).removeprefix(_BYTE_ORDER_MARK).lstrip()
    file.seek(0)
    if first.startswith(b"{"):
        return _json_lines(file)
    return _csv(file, types, required)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Read the lines with their numbers; None for one that is too long."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES_MAX)
            yield number, None
        else:
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _json_lines(file: IO[bytes]) -> Iterator[Record]:
    for number, line in _lines(file):
        if line is None:
            yield Record(number, {}, "is longer than 1 MiB")
        elif line.strip():
            try:
                document = json.loads(line)
            except UnicodeDecodeError:
                yield Record(number, {}, "is not UTF-8")
            except (ValueError, RecursionError):
                yield Record(number, {}, "is not JSON")
            else:
                is_object = isinstance(document, dict)
                yield Record(number, document if is_object else {}, None if is_object else "is no object")


def _csv(file: IO[bytes], types: Mapping[str, str], required: frozenset[str]) -> Iterator[Record]:
    # Bytes that are not UTF-8 become surrogates, so that the lines after them are read, too.
    texts = ("\0" if line is None else line.decode(errors="surrogateescape") for _, line in _lines(file))
    reader = csv.reader(texts, strict=True)
    columns: list[str] | None = None
    while True:
        began = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as fault:
            yield Record(began, {}, f"is not CSV: {fault}", is_header=columns is None)
            if columns is None:
                return
            continue
        if cells is None:
            if columns is None:
                yield Record(1, {}, "the file is empty", is_header=True)
            return
        if not any(cells):
            continue
        if columns is None:
            columns = [cell.strip() for cell in cells]
            problem = _problem_of_header(columns, types, required)
            if problem is not None:
                yield Record(began, {}, problem, is_header=True)
                return
        else:
            yield _record(began, columns, cells, types)


def _problem_of_header(columns: list[str], types: Mapping[str, str], required: frozenset[str]) -> str | None:
    if any(not _is_text(column) for column in columns):
        return "is not UTF-8"
    missing = sorted(required.difference(columns))
    if missing:
        return f"lacks the column {', '.join(missing)}"
    unknown = [column for column in columns if column not in types]
    if unknown:
        return f"has a column that is no field: {unknown[0] or 'one without a name'}"
    doubled = [column for column in columns if columns.count(column) > 1]
    return f"has the column {doubled[0]} twice" if doubled else None


def _record(line: int, columns: list[str], cells: list[str], types: Mapping[str, str]) -> Record:
    if any("\0" in cell for cell in cells):
        return Record(line, {}, "has a NUL, or is longer than 1 MiB")
    if not all(map(_is_text, cells)):
        return Record(line, {}, "is not UTF-8")
    if len(cells) != len(columns):
        return Record(line, {}, f"has {len(cells)} cells, and the header {len(columns)}")
    fields: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        text = cell.strip()
        if not text:
            continue
        if types[column] == "integer" and _WHOLE_NUMBER.fullmatch(text):
            fields[column] = int(text)
        elif types[column] == "object":
            try:
                fields[column] = json.loads(text)
            except (ValueError, RecursionError):
                return Record(line, {}, f"{column}: is not JSON")
        else:
            fields[column] = text
    return Record(line, fields)


def _is_text(cell: str) -> bool:
    return cell.isascii() or not any("\udc80" <= character <= "\udcff" for character in cell)
