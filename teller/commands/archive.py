"""
`teller archive`: finished requests leave the database for verified files.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from processor.archive import run as archive_run
from processor.ids import time_of
from processor.storage import connections
from teller.arguments import moment
from teller.printing import Command, as_json, show
from teller.reach import operator, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from uuid import UUID

    from processor.archive.run import Report

#: The interval of progress lines where the output is no terminal, in seconds.
LINE_SECONDS: Final = 1.0
#: The steps of the progress bar.
STEPS: Final = 1_000
_ERASE_LINE: Final = "\r\x1b[K"


@click.command(cls=Command, short_help="Move finished requests into verified files.")
@click.option(
    "--before",
    type=moment,
    required=True,
    metavar="DATE",
    help="Requests that were finished before this time.",
)
@click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The directory of the files. It is made if it is missing.",
)
@click.option("--dry-run", is_flag=True, help="Only count the requests that would leave.")
def archive(before: datetime, directory: Path, dry_run: bool) -> None:
    """
    Move requests that were finished before DATE into compressed files in DIR.

    A file is safely on the disk, and was read back, before its requests are removed. It can run at any time, and can
    be interrupted: the next run continues. Requests that are unfinished, failed or held stay.

    DATE is RFC 3339, or a day such as 2026-11-01 (UTC). It must lie at least TELLER_KEEP_DAYS ago.

    \b
    teller archive --before 2026-10-01 --to /var/backups/teller
    """  # noqa: D301 - \b makes click keep the lines
    with (
        reached() as (_, settings),
        contextlib.closing(
            connections.connect(settings.archive_database_url, application_name="teller archive")
        ) as connection,
        _progress(before) as progress,
    ):
        if dry_run:
            report = archive_run.count(connection, before, settings.keep_days, progress)
        else:
            report = archive_run.run(
                connection, directory, before, settings.keep_days, operator().name, progress
            )
    document = {"requests": report.requests, "files": report.files, "bytes": report.bytes, "dry_run": dry_run}
    show(document, lambda: _text(report, directory, dry_run=dry_run))


def _text(report: Report, directory: Path, *, dry_run: bool) -> str:
    if dry_run:
        return f"{report.requests:,} requests would leave, in {report.files} files"
    if not report.files:
        return "no requests leave"
    return (
        f"{report.requests:,} requests left for {report.files} files in {directory} ({report.bytes:,} bytes)"
    )


@contextlib.contextmanager
def _progress(before: datetime) -> Iterator[Callable[[UUID, int], None]]:
    """Show on standard error how far the run is: a bar on a terminal, otherwise a line each second."""
    first: float | None = None

    def done(last_id: UUID) -> float:
        nonlocal first
        at = time_of(last_id).timestamp()
        first = at if first is None else first
        return min(1.0, max(0.0, (at - first) / max(1e-3, before.timestamp() - first)))

    if sys.stderr.isatty():
        shown = 0
        with click.progressbar(length=STEPS, label="archiving", file=sys.stderr) as bar:

            def draw(last_id: UUID, _requests: int) -> None:
                nonlocal shown
                steps = int(STEPS * done(last_id))
                bar.update(steps - shown)
                shown = steps

            yield draw
            click.echo(_ERASE_LINE, err=True, nl=False)
        return
    printed_at = time.monotonic()

    def report(last_id: UUID, requests: int) -> None:
        nonlocal printed_at
        if not as_json() and time.monotonic() - printed_at >= LINE_SECONDS:
            printed_at = time.monotonic()
            click.echo(f"archiving: {requests:,} requests, at {time_of(last_id):%Y-%m-%d %H:%M}", err=True)

    yield report
