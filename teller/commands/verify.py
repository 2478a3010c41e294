"""
`teller verify`: is what is stored what follows from the entries?
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from processor.verify import checks as verification
from teller.printing import Command, as_json, clean, show
from teller.reach import reached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.verify.checks import Counts, Discrepancy, Progress

#: Erases the bar, before a discrepancy is written in its place; the bar is drawn again below.
ERASE_LINE: Final = "\r\x1b[K"
#: Without a terminal, a line says how far it is, so often, in seconds.
LINE_SECONDS: Final = 1.0


@click.command(cls=Command, short_help="Derive all balances anew, and compare.")
def verify() -> int:
    """
    Derive every balance, hold, count and status anew from the entries, and compare with what is stored.

    Works while everything runs: it looks at one moment, and only reads. One line for each discrepancy on standard
    output; exit status 1 when there is one.
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
                click.echo(clean(str(discrepancy)))
    counts = run.counts
    assert counts is not None  # noqa: S101 - it was iterated over
    document = {
        "ok": run.found == 0,
        "checked": counts._asdict(),
        "discrepancies": [one._asdict() for one in found],
    }
    if as_json() or not run.found:
        show(document, lambda: f"all is as it must be: {_named(counts)}")
    else:
        click.echo(f"{run.found} discrepancies among {_named(counts)}", err=True)
    return 1 if run.found else 0


def _named(counts: Counts) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts._asdict().items())


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Says on standard error how far it is: a bar on a terminal, else a line now and then, for people alone."""
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

    said_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said_at
        if not as_json() and time.monotonic() - said_at >= LINE_SECONDS:
            said_at = time.monotonic()
            click.echo(f"verifying: {100 * done // total} %", err=True)

    yield tell
