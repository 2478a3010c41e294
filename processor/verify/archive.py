"""
Verification of the archive: every file is as it was written, and the chains go through the files into the database.

Memory holds one file at a time. The chains and usages of all are collected in a temporary file of SQLite.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from processor.archive import files
from processor.archive.content import ArchiveDamaged, Content
from processor.storage import connections, statements
from processor.storage.connections import Connection
from processor.verify.checks import FETCH_ROWS, Discrepancy
from processor.verify.checks import SQL as CHECKS

SQL: Final = statements.beside(__file__)
#: The digest before the first entry.
NO_DIGEST: Final = bytes(32)

_COLLECTED: Final = """
CREATE TABLE runs (resource TEXT, first INTEGER, last INTEGER, before BLOB, after BLOB, place TEXT);
CREATE TABLE usages (resource TEXT, client TEXT, account TEXT, used TEXT, day TEXT, day_used TEXT);
CREATE TABLE decisions (partition INTEGER, decisions INTEGER, sequences INTEGER, last INTEGER);
CREATE TABLE ids (id BLOB, name TEXT);
CREATE TABLE resources (id TEXT PRIMARY KEY, version INTEGER, digest BLOB);
"""
_Row = tuple[Any, ...]


def verify_archive(
    connection: Connection, directory: Path, progress: Callable[[int, int], None] | None = None
) -> Iterator[Discrepancy]:
    """
    Yield what is wrong with the files of a directory, and with the way in which the database goes on from them.

    All is compared with one snapshot of the database. `progress(done, total)` counts files. The iteration raises
    DatabaseUnavailable, OSError.
    """
    with connections.faults(), connection.transaction(), sqlite3.connect("") as collected:
        connection.execute(CHECKS["take_snapshot"])
        collected.executescript(_COLLECTED)
        archives = connection.execute(SQL["read_archives"]).fetchall()
        names = {name for _, name, *_ in archives}
        for done, archive in enumerate(archives, start=1):
            yield from _of_file(connection, directory, archive, collected)
            if progress is not None:
                progress(done, len(archives))
        for path in sorted(directory.iterdir()):
            if path.name not in names and path.name.endswith(files.SUFFIX):
                yield from _of_unknown(connection, path)
        yield from _of_doubled_requests(collected)
        yield from _of_chains(connection, collected)
        yield from _of_sums(connection, collected)


def _of_file(
    connection: Connection, directory: Path, archive: _Row, collected: sqlite3.Connection
) -> Iterator[Discrepancy]:
    number, name, digest, before, requests, entries = archive
    path = directory / name
    try:
        has_digest = files.digest_of(path) == digest
    except FileNotFoundError:
        yield Discrepancy("archive_missing", name, f"the file is not in {directory}")
        return
    if not has_digest:
        yield Discrepancy(
            "archive_changed", name, "the digest of the file is not that of its row in archives"
        )
    try:
        content = files.read(path)
    except ArchiveDamaged as fault:
        yield Discrepancy("archive_damaged", name, str(fault))
        return
    stated = (
        content.header["number"],
        content.header["before"],
        len(content.requests),
        content.rows["entries"],
    )
    if stated != (number, before.isoformat(), requests, entries):
        yield Discrepancy(
            "archive_row_wrong",
            name,
            f"its row has number {number}, before {before}, {requests} requests and {entries} entries; the file has"
            f" number {stated[0]}, before {stated[1]}, {stated[2]} and {stated[3]}",
        )
    stored: list[tuple[bytes, str]] = connection.execute(SQL["read_ids"], {"number": number}).fetchall()
    if dict(stored) != {request.bytes: one.client_id for request, one in content.requests.items()}:
        yield Discrepancy(
            "archive_ids_wrong", name, "the ids or clients of its row are not those of the file"
        )
    [(present,)] = connection.execute(SQL["count_requests"], {"ids": list(content.requests)}).fetchall()
    if present:
        yield Discrepancy("archive_doubled", name, f"{present} of its requests are in the database, too")
    _collect(content, name, collected)


def _collect(content: Content, name: str, collected: sqlite3.Connection) -> None:
    collected.executemany(
        "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
        (
            (one.resource_id, one.first, one.last, one.before.digest, one.after.digest, name)
            for one in content.chains
        ),
    )
    collected.executemany(
        "INSERT INTO usages VALUES (?, ?, ?, ?, ?, ?)",
        (
            # As text, since sums may exceed the integers of SQLite.
            (*key, str(one.used), None if one.day is None else one.day.isoformat(), str(one.day_used))
            for key, one in content.usages.items()
        ),
    )
    collected.executemany(
        "INSERT INTO decisions VALUES (?, ?, ?, ?)",
        ((partition, *sums) for partition, sums in content.decisions.items()),
    )
    collected.executemany("INSERT INTO ids VALUES (?, ?)", ((one.bytes, name) for one in content.requests))


def _of_unknown(connection: Connection, path: Path) -> Iterator[Discrepancy]:
    """
    Report a file that the database does not refer to, except that of an interrupted run, which removed nothing.
    """
    try:
        requests = list(files.read(path).requests)
    except ArchiveDamaged:
        requests = []
    [(present,)] = connection.execute(SQL["count_requests"], {"ids": requests}).fetchall()
    if not requests or present != len(requests):
        yield Discrepancy("archive_unexpected", path.name, "the file is in no row of archives")


def _of_doubled_requests(collected: sqlite3.Connection) -> Iterator[Discrepancy]:
    query = "SELECT count(*), min(name), max(name) FROM ids GROUP BY id HAVING count(*) > 1 LIMIT 10"
    for count, first, last in collected.execute(query):
        yield Discrepancy("archive_doubled", last, f"a request of it is in {count} files, also in {first}")


def _of_chains(connection: Connection, collected: sqlite3.Connection) -> Iterator[Discrepancy]:
    """Follow each chain through the files and the database, from its first entry to its last."""
    collected.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, NULL)", _runs_of_database(connection))
    with connection.cursor(name="read_resources", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        collected.executemany("INSERT INTO resources VALUES (?, ?, ?)", cursor.execute(SQL["read_resources"]))
    collected.execute("CREATE INDEX runs_in_order ON runs (resource, first)")
    rows = collected.execute(
        "SELECT resource, first, last, before, after, place FROM runs ORDER BY resource, first, last"
    )
    for resource, runs in groupby(rows, key=itemgetter(0)):
        version, digest = 0, NO_DIGEST
        for _, first, last, before, after, place in runs:
            where = "the database" if place is None else place
            if first != version + 1:
                yield Discrepancy(
                    "archive_chain_broken", f"{resource}/{first}", f"in {where} it follows version {version}"
                )
            elif before != digest:
                yield Discrepancy(
                    "archive_chain_broken",
                    f"{resource}/{first}",
                    f"in {where} it goes on from another digest",
                )
            version, digest = last, after
        ends = collected.execute("SELECT version, digest FROM resources WHERE id = ?", (resource,)).fetchone()
        if ends != (version, digest):
            yield Discrepancy(
                "archive_chain_broken",
                resource,
                f"its chain ends with version {version}, not as the resource does",
            )


def _runs_of_database(connection: Connection) -> Iterator[_Row]:
    """Yield the unbroken runs of entries that stay. The digest before each is that of its checkpoint."""
    with connection.cursor(name="read_links", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        rows: Iterable[_Row] = cursor.execute(SQL["read_links"])
        for resource, links in groupby(rows, key=itemgetter(0)):
            run: list[Any] | None = None
            before, version = NO_DIGEST, 0
            for _, at_version, digest, is_checkpoint in links:
                if run is not None and (is_checkpoint or at_version != version + 1):
                    yield tuple(run)
                    run = None
                if not is_checkpoint:
                    run = [resource, at_version, at_version, before, digest] if run is None else run
                    run[2], run[4] = at_version, digest
                before, version = digest, at_version
            if run is not None:
                yield tuple(run)


def _of_sums(connection: Connection, collected: sqlite3.Connection) -> Iterator[Discrepancy]:
    """Compare the sums that the database keeps with those of the files."""
    with connection.cursor(name="read_usages") as cursor:
        stored: Iterator[_Row] = iter(cursor.execute(SQL["read_usages"]))
        yield from _differences("archived_usages", stored, _usages(collected))
    numbers = iter(connection.execute(SQL["read_decisions"]).fetchall())
    yield from _differences("archived_decisions", numbers, _decisions(collected))


def _usages(collected: sqlite3.Connection) -> Iterator[_Row]:
    rows = collected.execute("SELECT * FROM usages ORDER BY resource, client, account")
    for key, group in groupby(rows, key=itemgetter(0, 1, 2)):
        parts = list(group)
        day = max((part[4] for part in parts if part[4] is not None), default=None)
        day_used = sum(int(part[5]) for part in parts if part[4] == day and day is not None)
        yield (*key, sum(int(part[3]) for part in parts), day, day_used)


def _decisions(collected: sqlite3.Connection) -> Iterator[_Row]:
    rows = collected.execute("SELECT * FROM decisions ORDER BY partition")
    for partition, group in groupby(rows, key=itemgetter(0)):
        parts = list(group)
        yield (
            partition,
            sum(part[1] for part in parts),
            sum(part[2] for part in parts),
            max(part[3] for part in parts),
        )


def _differences(table: str, stored: Iterator[_Row], derived: Iterator[_Row]) -> Iterator[Discrepancy]:
    """Compare rows in one order. The first difference is reported: after it, rows may be shifted."""
    while True:
        one, other = next(stored, None), next(derived, None)
        if one != other:
            yield Discrepancy("archive_sum_wrong", table, f"the row is {one}, but the files say {other}")
            return
        if one is None:
            return
