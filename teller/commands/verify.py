"""
`teller verify`: compare all stored state with the entries.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from processor.verify import checks as verification
from processor.visible import visible
from teller.printing import Command, as_json, show
from teller.reach import reached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.verify.checks import Counts, Discrepancy, Progress

#: Erases the progress bar before a discrepancy is written; the bar is drawn again below it.
ERASE_LINE: Final = "\r\x1b[K"
#: Interval of progress lines where the output is not a terminal, in seconds.
LINE_SECONDS: Final = 1.0


@click.command(cls=Command, short_help="Derive all balances again and compare them.")
def verify() -> int:
    """
    Derive every balance, hold, count and status from the entries, and compare them with the stored ones.

    It can run at any time: it reads one snapshot and changes nothing. It prints one line for each discrepancy on
    standard output. The exit status is 1 if there is any.
    """
    found: list[Discrepancy] = []
    with reached(statement_timeout_ms=None) as (connection, _), _progress() as progress:
        run = verification.verify(connection, progress)
        for discrepancy in run:
            if as_json():
                found.append(discrepancy)
            else:
                if sys.stderr.isatty():
                    click.echo(ERASE_LINE, err=True, nl=False)
                click.echo(visible(str(discrepancy)))
    counts = run.counts
    assert counts is not None  # noqa: S101 - it was iterated over
    document = {
        "ok": run.found == 0,
        "checked": counts._asdict(),
        "discrepancies": [one._asdict() for one in found],
    }
    if as_json() or not run.found:
        show(document, lambda: f"OK: everything adds up ({_named(counts)})")
    else:
        click.echo(f"{run.found} discrepancies among {_named(counts)}", err=True)
    return 1 if run.found else 0


def _named(counts: Counts) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts._asdict().items())


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on standard error: a bar on a terminal, otherwise a line each second, and none with --json."""
    if sys.stderr.isatty():
        shown = 0
        with click.progressbar(length=100, label="verifying", file=sys.stderr) as bar:

            def draw(done: int, total: int) -> None:
                nonlocal shown
                percent = 100 * done // total
                bar.update(percent - shown)
                shown = percent

            yield draw
            click.echo(ERASE_LINE, err=True, nl=False)
        return

    printed_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed_at
        if not as_json() and time.monotonic() - printed_at >= LINE_SECONDS:
            printed_at = time.monotonic()
            click.echo(f"verifying: {100 * done // total} %", err=True)

    yield report
