"""
`teller export`: the entries and balances of one snapshot, for other programs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import datetime  # noqa: TC003 - click reads it
from typing import TYPE_CHECKING, Final

import click

from processor.reading.ledger_export import open_export
from teller.arguments import identifier, moment
from teller.exports.formats import FORMATS, texts
from teller.printing import Command
from teller.reach import reached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The pause between two changes of the progress line, in seconds.
PROGRESS_SECONDS: Final = 0.5
_ERASE_LINE: Final = "\r\x1b[K"


@click.command(cls=Command, short_help="Print the ledger for hledger, beancount or a spreadsheet.")
@click.option("--format", "name", type=click.Choice(list(FORMATS)), required=True, help="The format.")
@click.option(
    "--resource",
    "resources",
    type=identifier,
    multiple=True,
    metavar="R",
    help="Only this resource. Repeatable.",
)
@click.option("--since", type=moment, metavar="T", help="Only entries from this time on.")
@click.option("--until", type=moment, metavar="T", help="Only entries before this time.")
def export(name: str, resources: tuple[str, ...], since: datetime | None, until: datetime | None) -> None:
    """
    Print the entries and balances of one snapshot on standard output.

    Times are RFC 3339, or days such as 2026-11-01 (UTC). hledger and beancount check the balances of each resource
    when they read the file. It can run at any time, and changes nothing.

    \b
    teller export --format beancount --since 2026-11-01 > november.beancount
    """  # noqa: D301 - \b makes click keep the lines
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    with (
        reached(statement_timeout_ms=None) as (connection, _),
        open_export(connection, list(resources) or None, since, until) as found,
        _progress(found.entries_max) as report,
    ):
        if found.archived_until is not None and (since is None or since <= found.archived_until):
            click.echo(
                "entries in the archive are left out: each resource begins with its last checkpoint",
                err=True,
            )
        for text, entries in texts(
            FORMATS[name], min(found.at, until or found.at), since, found.resources, found.entries
        ):
            click.echo(text, nl=False)
            report(entries)


@contextlib.contextmanager
def _progress(entries_max: int) -> Iterator[Callable[[int], None]]:
    """Count the entries on standard error, where it is a terminal and the file goes elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _: None
        return
    done, shown_at = 0, 0.0

    def report(entries: int) -> None:
        nonlocal done, shown_at
        done += entries
        if time.monotonic() - shown_at >= PROGRESS_SECONDS:
            shown_at = time.monotonic()
            click.echo(
                f"{_ERASE_LINE}exporting: {done:,} of at most {entries_max:,} entries", err=True, nl=False
            )

    yield report
    click.echo(f"{_ERASE_LINE}exported {done:,} entries", err=True)
