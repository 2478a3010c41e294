"""
`teller verify`: compare all stored state with the entries.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from processor.errors import TellerError
from processor.verify import checks as verification
from processor.verify.archive import verify_archive
from processor.visible import visible
from teller.printing import Command, as_json, show
from teller.reach import reached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from processor.verify.checks import Counts, Discrepancy, Progress

#: Erases the progress bar before a discrepancy is written; the bar is drawn again below it.
ERASE_LINE: Final = "\r\x1b[K"
#: Interval of progress lines where the output is not a terminal, in seconds.
LINE_SECONDS: Final = 1.0


class ArchiveUnreadable(TellerError):
    """A file of the archive cannot be read."""

    code = "archive_unreadable"


@click.command(cls=Command, short_help="Derive all balances again and compare them.")
@click.option(
    "--archive",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also check the files of the archive in DIR.",
)
def verify(directory: Path | None) -> int:
    """
    Derive every balance, hold, count and status from the entries, and compare them with the stored ones.

    It can run at any time: it reads one snapshot and changes nothing. It prints one line for each discrepancy on
    standard output. The exit status is 1 if there is any.

    With --archive, it also reads all files of the archive, and follows the chain of each resource through them.
    """
    found: list[Discrepancy] = []
    with reached(statement_timeout_ms=None) as (connection, _), _progress() as progress:
        run = verification.verify(connection, progress)
        total = 0
        for discrepancy in itertools.chain(run, _of_archive(connection, directory, progress)):
            total += 1
            if as_json():
                found.append(discrepancy)
            else:
                if sys.stderr.isatty():
                    click.echo(ERASE_LINE, err=True, nl=False)
                click.echo(visible(str(discrepancy)))
    counts = run.counts
    assert counts is not None  # noqa: S101 - it was iterated over
    document = {
        "ok": total == 0,
        "checked": counts._asdict(),
        "discrepancies": [one._asdict() for one in found],
    }
    if as_json() or not total:
        show(document, lambda: f"OK: everything adds up ({_named(counts)})")
    else:
        click.echo(f"{total} discrepancies among {_named(counts)}", err=True)
    return 1 if total else 0


def _of_archive(connection: Connection, directory: Path | None, progress: Progress) -> Iterator[Discrepancy]:
    if directory is None:
        return
    if not directory.is_dir():
        raise ArchiveUnreadable(f"{directory} is not a directory")
    try:
        yield from verify_archive(connection, directory, progress)
    except OSError as fault:
        raise ArchiveUnreadable(f"{fault.filename or directory}: {fault.strerror or fault}") from fault


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
