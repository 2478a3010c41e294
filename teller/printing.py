"""
What a command says: one JSON document for programs, tables for people, plain columns for a pipe.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from processor.records.documents import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Where the answer to "was --json given?" is kept.
_AS_JSON: Final = "teller.as_json"
#: Between two columns of a table.
GAP: Final = "  "
#: What a cell is cut to at the least where a terminal is too narrow, in characters.
CELL_CHARACTERS_MIN: Final = 8

Cell = str | int | datetime | None


class Command(click.Command):
    """A command of Teller's: it takes --json."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_remember,
                help="Speak JSON: one document on standard output, errors on standard error.",
            )
        )


class Group(click.Group):
    """Commands around one noun."""

    command_class = Command


def _remember(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.meta[_AS_JSON] = value


def as_json() -> bool:
    """Whether the command that runs shall speak JSON."""
    return bool(click.get_current_context().meta.get(_AS_JSON))


def show(document: Any, text: Callable[[], str]) -> None:
    """Print the document, or what `text` makes for people."""
    if as_json():
        click.echo(json.dumps(document, ensure_ascii=False))
    elif said := text():
        click.echo(said)


def clean(text: str) -> str:
    """One line without anything that a terminal would obey: gateways and clients have their words in here."""
    return "".join(character if character.isprintable() else " " for character in text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """
    Aligned under a heading on a terminal, numbers to the right, the widest cells cut where that makes them fit; else
    one line a row, separated by tabs, for awk and the like.
    """
    cells = [["" if cell is None else _text(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        return "\n".join("\t".join(row) for row in cells)
    if not rows:
        return click.style("none", dim=True)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    # Never the first: it is what other commands are told.
    room = shutil.get_terminal_size().columns - len(GAP) * (len(columns) - 1) - widths[0]
    if sum(min(width, CELL_CHARACTERS_MIN) for width in widths[1:]) <= room:
        while sum(widths[1:]) > room:
            widths[widths.index(max(widths[1:]), 1)] -= 1
    numbers = [all(isinstance(row[i], int | None) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        parts = zip(map(_cut, row, widths), widths, numbers, strict=True)
        return GAP.join(part.rjust(width) if number else part.ljust(width) for part, width, number in parts)

    heading = click.style(line(columns).rstrip(), bold=True)
    return "\n".join([heading, *(line(row).rstrip() for row in cells)])


def _text(cell: str | int | datetime) -> str:
    """Times to the second for people, to the microsecond for programs."""
    if isinstance(cell, datetime):
        return f"{cell.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if sys.stdout.isatty() else str(timestamp(cell))
    return clean(str(cell))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def fields(pairs: Sequence[tuple[str, Cell]]) -> str:
    """One name and value a line, for a single thing; what it does not have is left out."""
    known = [(name, _text(value)) for name, value in pairs if value is not None]
    if not sys.stdout.isatty():
        return "\n".join(f"{name}\t{value}" for name, value in known)
    width = max(len(name) for name, _ in known)
    return "\n".join(f"{click.style(name.ljust(width), bold=True)}{GAP}{value}" for name, value in known)
