"""
Output of commands: one JSON document for programs, tables for people, plain columns for a pipe.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from processor.records.documents import timestamp
from processor.visible import escaped, escaped_json, isolated, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The key of --json in the context of click.
_AS_JSON: Final = "teller.as_json"
#: Space between two columns of a table.
GAP: Final = "  "
#: Least width of a cell that is cut on a narrow terminal, in characters.
CELL_CHARACTERS_MIN: Final = 8

Cell = str | int | datetime | None


class Amount(str):
    """An amount as people write it. Columns of amounts are aligned to the right, as those of numbers are."""

    __slots__ = ()


class Command(click.Command):
    """A command with the option --json."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_remember,
                help="Print JSON: one document on standard output, errors on standard error.",
            )
        )


class Group(click.Group):
    """The commands of one noun."""

    command_class = Command


def _remember(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.meta[_AS_JSON] = value


def as_json() -> bool:
    """Return whether the running command prints JSON."""
    return bool(click.get_current_context().meta.get(_AS_JSON))


def show(document: Any, text: Callable[[], str]) -> None:
    """Print the document as JSON, or the text for people."""
    if as_json():
        click.echo(escaped_json(json.dumps(document, ensure_ascii=False)))
    elif lines := text():
        click.echo(lines)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, spare: Sequence[str] = (), caption: str = ""
) -> str:
    """
    Align rows under a heading, numbers to the right, for a terminal. Its width leaves out the columns of `spare`, in
    this order, and then cuts the widest texts. Ids, numbers, amounts and times are never cut.

    `caption` stands above it, such as "20 of 50 requests". Where the output is not a terminal, each row is one line
    with all columns, separated by tabs.
    """
    if not sys.stdout.isatty():
        cells = [["" if cell is None else escaped(_text(cell)) for cell in row] for row in rows]
        return "\n".join("\t".join(row) for row in cells)
    if not rows:
        return click.style("none", dim=True)
    columns, rows = _fitting(columns, rows, spare)
    cells = [["" if cell is None else escaped(_text(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    room = shutil.get_terminal_size().columns - len(GAP) * (len(columns) - 1)
    texts = [i for i in range(1, len(columns)) if not _is_whole(rows, i)]
    while sum(widths) > room and any(widths[i] > CELL_CHARACTERS_MIN for i in texts):
        widths[max(texts, key=lambda i: widths[i])] -= 1
    numbers = [all(isinstance(row[i], int | Amount | None) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        parts = zip(map(_cut, row, widths), widths, numbers, strict=True)
        return GAP.join(
            " " * (width - len(part)) + isolated(part)
            if number
            else isolated(part) + " " * (width - len(part))
            for part, width, number in parts
        )

    # Isolates have no width, so they come last.
    heading = click.style(line(columns).rstrip(), bold=True)
    above = [click.style(caption, dim=True)] if caption else []
    return "\n".join([*above, heading, *(line(row).rstrip() for row in cells)])


def caption_of(count: int, noun: str, *, is_cut: bool) -> str:
    """
    Return the caption of a list, such as "1 webhook", or "the newest 20 webhooks; --limit shows more".
    """
    words = f"{count} {noun}{'' if count == 1 else 's'}"
    return f"the newest {words}; --limit shows more" if is_cut else words


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], spare: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[Cell]]]:
    """
    Leave out columns of `spare` while the others do not fit, and those of them that are empty.
    """
    for name in ("", *spare):
        left_out = {i for i, column in enumerate(columns) if column == name}
        left_out |= {
            i for i, one in enumerate(columns) if one in spare and all(row[i] is None for row in rows)
        }
        columns = [column for i, column in enumerate(columns) if i not in left_out]
        rows = [[cell for i, cell in enumerate(row) if i not in left_out] for row in rows]
        least = sum(_least_width(columns, rows, i) for i in range(len(columns)))
        if least + len(GAP) * (len(columns) - 1) <= shutil.get_terminal_size().columns:
            break
    return columns, rows


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[Cell]], place: int) -> int:
    width = max(
        len(columns[place]),
        *(0 if cell is None else len(_text(cell)) for cell in (row[place] for row in rows)),
    )
    return width if place == 0 or _is_whole(rows, place) else min(width, CELL_CHARACTERS_MIN)


def _is_whole(rows: Sequence[Sequence[Cell]], place: int) -> bool:
    """
    Return whether a column has only numbers, amounts and times, which are never cut.
    """
    return all(isinstance(row[place], int | Amount | datetime | None) for row in rows)


def _text(cell: str | int | datetime) -> str:
    """Format a cell: times to the second for people, to the microsecond for programs."""
    if isinstance(cell, datetime):
        return _short(cell.astimezone(UTC)) if sys.stdout.isatty() else str(timestamp(cell))
    return str(cell)


def _short(moment: datetime) -> str:
    """
    Return a time in UTC. Today it is the time alone.
    """
    return f"{moment:%H:%M:%SZ}" if moment.date() == datetime.now(UTC).date() else f"{moment:%Y-%m-%d %H:%MZ}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def fields(pairs: Sequence[tuple[str, Cell]]) -> str:
    """Format names and values, one pair a line, for a single object. Values that are None are left out."""
    present = [(name, visible(_text(value))) for name, value in pairs if value is not None]
    if not sys.stdout.isatty():
        return "\n".join(f"{name}\t{value}" for name, value in present)
    width = max(len(name) for name, _ in present)
    return "\n".join(f"{click.style(name.ljust(width), bold=True)}{GAP}{value}" for name, value in present)
