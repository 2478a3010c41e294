"""
One run of the archive: file after file is written, synced, read back, and only then its requests are removed.

A run that was interrupted at any point is continued by the next one. A file that removed nothing is written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from processor.archive import files, leaving
from processor.archive.leaving import Leaving, Place, RequestsChanged
from processor.errors import TellerError
from processor.ids import first_id_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from processor.storage.connections import Connection

#: The requests that are looked at for one file. A file has as many at most, and the refunds of them.
FILE_REQUESTS: Final = 20_000
#: How often the same requests are read again after they changed meanwhile.
TRIES_MAX: Final = 5
#: The most that the clock of a host may have been ahead when it made the id of a request.
CLOCK_SLACK: Final = timedelta(hours=1)
#: The rights of a new directory and of its files: they have what the database has.
DIRECTORY_MODE: Final = 0o700


class ArchiveRefused(TellerError):
    """Nothing can be archived so; nothing was changed. The message says why."""

    code = "archive_refused"


class ArchiveUnwritable(TellerError):
    """A file cannot be written or read back. Its requests are still in the database."""

    code = "archive_unwritable"


@dataclass(slots=True)
class Report:
    """The result of a run. With `dry_run`, of what it would have done."""

    requests: int = 0
    files: int = 0
    bytes: int = 0


def check_time(place: Place, before: datetime, keep_days: int) -> None:
    """Raise ArchiveRefused if requests would leave that have to be kept. 0 days: none has to be."""
    latest = place.now - timedelta(days=keep_days)
    if keep_days and before > latest:
        raise ArchiveRefused(
            f"requests stay for {keep_days} days (TELLER_KEEP_DAYS):"
            f" --before must be at most {latest:%Y-%m-%dT%H:%M:%SZ}"
        )


def count(
    connection: Connection,
    before: datetime,
    keep_days: int,
    progress: Callable[[UUID, int], None] = lambda *_: None,
) -> Report:
    """
    Count what a run would archive, and change nothing. Raises ArchiveRefused, RoleMissing, DatabaseUnavailable.
    """
    check_time(leaving.look(connection), before, keep_days)
    report = Report()

    def take(found: Leaving) -> None:
        report.requests += found.requests
        report.files += 1

    _each(connection, before, take, lambda last: progress(last, report.requests), only_count=True)
    return report


def run(
    connection: Connection,
    directory: Path,
    before: datetime,
    keep_days: int,
    actor: str,
    progress: Callable[[UUID, int], None] = lambda *_: None,
) -> Report:
    """
    Archive the requests that were finished before a time. Returns what has left.

    `progress` is called with the id of the last request that was looked at, and the requests that have left so far.
    Raises ArchiveRefused, ArchiveUnwritable, ArchiveDamaged, RequestsChanged, RoleMissing, DatabaseUnavailable. Files
    that were finished until then stay.
    """
    place = leaving.look(connection)
    check_time(place, before, keep_days)
    report = Report()

    def take(found: Leaving) -> None:
        report.bytes += _archive(connection, directory, before, found, actor)
        report.requests += found.requests
        report.files += 1

    with _only_writer(directory):
        _reclaim(connection, directory, place)
        _each(connection, before, take, lambda last: progress(last, report.requests), only_count=False)
    return report


def _each(
    connection: Connection,
    before: datetime,
    take: Callable[[Leaving], None],
    on_looked: Callable[[UUID], None],
    *,
    only_count: bool,
) -> None:
    """
    Call `take` with the requests of each file. Those that changed until they were removed are read again.
    """
    after, bound, tries = UUID(int=0), first_id_at(before + CLOCK_SLACK), 0
    while True:
        found = leaving.read_leaving(connection, after, bound, before, FILE_REQUESTS, only_count=only_count)
        try:
            if found.requests:
                take(found)
        except RequestsChanged:
            tries += 1
            if tries == TRIES_MAX:
                raise
            continue
        tries = 0
        if found.last_id is None:
            return
        after = found.last_id
        on_looked(after)


def _archive(connection: Connection, directory: Path, before: datetime, found: Leaving, actor: str) -> int:
    """Write a file and remove what it has. Returns its bytes."""
    place = found.place
    number = place.last_number + 1
    header = {
        "format": files.FORMAT,
        "installation": str(place.installation),
        "schema_version": place.schema_version,
        "number": number,
        "before": before.isoformat(),
    }
    partial = directory / f"{_prefix(place)}{number:06}{files.PARTIAL_SUFFIX}"
    try:
        partial.unlink(missing_ok=True)
        written = files.write(partial, header, found.lines)
        digest = files.digest_of(partial)
        content = files.read(partial)
        if content.digests != written.digests:
            raise ArchiveUnwritable(f"{partial} does not have what was written to it")
        final = (
            directory / f"{_prefix(place)}{number:06}-{digest.hex()[: files.DIGEST_CHARACTERS]}{files.SUFFIX}"
        )
        partial.rename(final)
        files.sync_directory(directory)
        size = final.stat().st_size
    except OSError as fault:
        raise ArchiveUnwritable(f"{directory}: {fault.strerror or fault}") from fault
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    try:
        leaving.remove(connection, found, final.name, digest, content, actor)
    except RequestsChanged:
        with contextlib.suppress(OSError):
            final.unlink()
        raise
    return size


def _prefix(place: Place) -> str:
    """Return the beginning of the names of an installation's files."""
    return f"teller-{place.installation.hex[:8]}-"


@contextlib.contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Make the directory, and lock it against other runs. Raises ArchiveUnwritable, ArchiveRefused."""
    try:
        if not directory.exists():
            directory.mkdir(mode=DIRECTORY_MODE, parents=True)
            files.sync_directory(directory.parent)
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as fault:
        raise ArchiveUnwritable(f"{directory}: {fault.strerror or fault}") from fault
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        os.close(number)
        raise ArchiveRefused(f"another `teller archive` writes to {directory}") from fault
    try:
        yield
    finally:
        os.close(number)


def _reclaim(connection: Connection, directory: Path, place: Place) -> None:
    """
    Remove the files of a run that was interrupted before it removed their requests.

    The lock waits for the last transaction of such a run, so that its outcome is known. A file whose requests are not
    all in the database stays: it is the only place of some. Raises ArchiveRefused, ArchiveUnwritable.
    """
    try:
        with leaving.removal(connection):
            names = leaving.read_names(connection)
            for path in sorted(directory.glob(f"{_prefix(place)}*")):
                if path.name.endswith(files.PARTIAL_SUFFIX):
                    path.unlink()
                elif path.name.endswith(files.SUFFIX) and path.name not in names:
                    requests = list(files.read(path).requests)
                    if leaving.count_present(connection, requests) != len(requests):
                        raise ArchiveRefused(
                            f"{path} is not an archive of this database, and has requests that it lacks:"
                            " move the file, or restore a later backup"
                        )
                    path.unlink()
        files.sync_directory(directory)
    except OSError as fault:
        raise ArchiveUnwritable(f"{directory}: {fault.strerror or fault}") from fault
