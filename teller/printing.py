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


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """
    Align rows under a heading, numbers to the right, for a terminal. The widest cells are cut to its width.

    Returns one line for each row, separated by tabs, where the output is not a terminal.
    """
    cells = [["" if cell is None else escaped(_text(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        return "\n".join("\t".join(row) for row in cells)
    if not rows:
        return click.style("none", dim=True)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    # The first column is never cut: it is the argument of other commands.
    room = shutil.get_terminal_size().columns - len(GAP) * (len(columns) - 1) - widths[0]
    if sum(min(width, CELL_CHARACTERS_MIN) for width in widths[1:]) <= room:
        while sum(widths[1:]) > room:
            widths[widths.index(max(widths[1:]), 1)] -= 1
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
    return "\n".join([heading, *(line(row).rstrip() for row in cells)])


def _text(cell: str | int | datetime) -> str:
    """Format a cell: times to the second for people, to the microsecond for programs."""
    if isinstance(cell, datetime):
        return f"{cell.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if sys.stdout.isatty() else str(timestamp(cell))
    return str(cell)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def fields(pairs: Sequence[tuple[str, Cell]]) -> str:
    """Format names and values, one pair a line, for a single object. Values that are None are left out."""
    present = [(name, visible(_text(value))) for name, value in pairs if value is not None]
    if not sys.stdout.isatty():
        return "\n".join(f"{name}\t{value}" for name, value in present)
    width = max(len(name) for name, _ in present)
    return "\n".join(f"{click.style(name.ljust(width), bold=True)}{GAP}{value}" for name, value in present)
