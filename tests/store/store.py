"""
A Teller without processes, for the tests of the store.

Requests enter through the intake as the API's role. Batches decide them as the workers' role when the test
calls for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from processor.batch import run as batch
from processor.clients.keys import Caller
from processor.domain import ledger
from processor.domain.partitioning import partition_of
from processor.errors import DatabaseUnavailable
from processor.intake import intake
from processor.intake.intake import Intake, Receipt, Submission
from processor.storage import connections as postgres
from tests.servers import PARTITIONS
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from processor.batch.run import BatchReport
    from processor.storage.connections import Connection
    from tests.servers import Database

#: A limit above the backlog of any test, so that the intake is never saturated.
NO_LIMIT = 10**9
#: Time limit of a test's thread, in seconds. A deadlock or a lost answer exceeds it.
THREAD_SECONDS = TIMEOUT_SECONDS
KEY_ID = uuid.UUID(int=1)
#: An operator of another client than `shop`, which makes the requests.
OPERATOR = Caller(uuid.UUID(int=2), "staff", "olga", "operator")


class Decided(NamedTuple):
    """The present state of a decided request."""

    status: str
    code: str | None
    sequence: int


@dataclass
class Store:
    """One database, with an intake and a connection of a worker."""

    database: Database
    intake: Intake
    owner: Connection
    worker: Connection
    keys: itertools.count[int]

    # ---------------------------------------------------------------- submitting

    def asks(
        self,
        kind: str,
        resource: str,
        account: str | None = None,
        amount: int | None = None,
        *,
        client: str = "shop",
        key: str | None = None,
        apply_before: datetime | None = None,
        details: dict[str, Any] | None = None,
    ) -> Submission:
        """Return a request that is not submitted yet. Without `key` it gets its own."""
        key = key or f"key-{next(self.keys)}"
        body = {"resource": resource, "account": account, "amount": amount}
        return Submission(
            client,
            KEY_ID,
            key,
            intake.fingerprint(kind, body),
            kind,
            resource,
            account,
            amount,
            apply_before=apply_before,
            details=details,
        )

    def redeems(self, resource: str, account: str, amount: int = 1, **more: Any) -> Submission:
        """Return a redemption that is not submitted yet."""
        return self.asks("redemption", resource, account, amount, **more)

    def exchanges(self, account: str, *legs: tuple[str, int], **more: Any) -> Submission:
        """Return an exchange that is not submitted yet. The leg `("points", -100)` takes 100 points."""
        sent = [
            {"resource": resource, "give" if change > 0 else "take": abs(change)} for resource, change in legs
        ]
        return self.asks("exchange", legs[0][0], account, details={"legs": sent}, **more)

    def reserves(self, account: str, *legs: tuple[str, int], ttl: int = 600, **more: Any) -> Submission:
        """Return a reservation with legs that is not submitted yet. The leg `("seat", 1)` holds one."""
        sent = [{"resource": resource, "take": amount} for resource, amount in legs]
        details = {"ttl_seconds": ttl, "legs": sent}
        return self.asks("reservation", legs[0][0], account, details=details, **more)

    def accept(self, *submissions: Submission) -> list[uuid.UUID]:
        """Submit in one call. All must be accepted."""
        return [accepted_id(receipt) for receipt in self.intake.accept(submissions)]

    def open(self, resource: str, kind: str = "stock", available: int = 10, **rules: Any) -> int:
        """Open a resource and decide it at once. Returns its partition."""
        self.accept(self.asks("opening", resource, amount=available, details={"kind": kind, **rules}))
        self.drain(resource)
        return partition_of(resource, PARTITIONS)

    # ---------------------------------------------------------------- deciding

    def drain(self, resource: str, limit: int = batch.BATCH_LIMIT) -> list[BatchReport]:
        """Run batches until the partition of a resource is empty. Returns their reports."""
        return list(until_empty(self.worker, partition_of(resource, PARTITIONS), limit))

    def reconnect(self) -> None:
        """Give the worker a new connection, as after a fault."""
        self.worker.close()
        self.worker = worker_connection(self.database)

    # ---------------------------------------------------------------- reading

    def decided(self, requests: Iterable[uuid.UUID]) -> list[Decided | None]:
        """Return the present state of each request, or None before its decision."""
        asked = list(requests)
        found = {
            row[0]: Decided(*row[1:])
            for row in self.owner.execute(
                "SELECT request_id, status, code, sequence FROM decisions WHERE current AND request_id = ANY(%s)",
                (asked,),
            )
        }
        return [found.get(request) for request in asked]

    def statuses(self, requests: Iterable[uuid.UUID]) -> list[str | None]:
        """Return `completed`, or the code of any other outcome, for each request."""
        return [state and (state.code or state.status) for state in self.decided(requests)]

    def one(self, query: str, *parameters: object) -> Any:
        """Return the single value of a query, as the owner."""
        [(value,)] = self.owner.execute(query, parameters).fetchall()
        return value

    def available(self, resource: str) -> int:
        """Return the available quantity of a resource."""
        value: int = self.one("SELECT available FROM resources WHERE id = %s", resource)
        return value

    def used(self, resource: str) -> dict[str, int]:
        """Return the usage of a resource by account."""
        return dict(
            self.owner.execute(
                "SELECT account, used FROM usages WHERE resource_id = %s ORDER BY account", (resource,)
            ).fetchall()
        )

    def entries(self, resource: str) -> list[Any]:
        """Return the ledger of a resource, oldest entry first."""
        return self.owner.execute(
            "SELECT version, kind, request_id, account, amount, available, held, created_at, digest"
            "  FROM entries WHERE resource_id = %s ORDER BY version",
            (resource,),
        ).fetchall()

    def waiting(self) -> int:
        """Return the number of inbox rows."""
        value: int = self.one("SELECT count(*) FROM inbox")
        return value

    def contents(self) -> str:
        """Return a digest of everything that a batch can change."""
        digest = hashlib.sha256()
        for table in ("resources", "usages", "daily_usages", "entries", "decisions", "inbox", "partitions"):
            query = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(table))
            rows = self.owner.execute(query).fetchall()
            digest.update(repr((table, rows)).encode())
        return digest.hexdigest()

    def check_ledger(self) -> None:
        """
        Check that entries add up at every version, digests chain, and decisions are single and numbered
        without gaps.
        """
        for resource, version, available, held, last in self.owner.execute(
            "SELECT id, version, available, held, digest FROM resources"
        ).fetchall():
            before, sums = bytes(32), (0, 0)
            entries = self.entries(resource)
            for number, (at_version, kind, request, account, amount, *after, at, digest) in enumerate(
                entries, 1
            ):
                moves = ledger.MOVES[kind]
                sums = (sums[0] + moves[0] * amount, sums[1] + moves[1] * amount)
                assert (at_version, tuple(after)) == (number, sums)
                before = ledger.digest_of(
                    before, resource, at_version, kind, request, account, amount, after[0], after[1], at
                )
                assert digest == before
            assert (version, available, held, last) == (len(entries), *sums, before)
        assert self.one("SELECT count(*) = count(DISTINCT request_id) FROM decisions WHERE current")
        numbers = self.owner.execute(
            "SELECT p.sequence, array_agg(d.sequence ORDER BY d.sequence) FROM decisions d"
            "  JOIN requests r ON r.id = d.request_id JOIN partitions p ON p.id = r.partition"
            " WHERE d.version = 2 GROUP BY p.id"
        ).fetchall()
        for last_number, given in numbers:
            assert given == list(range(1, last_number + 1))


def accepted_id(receipt: Receipt) -> uuid.UUID:
    """Return the id of a request that must have been accepted."""
    assert receipt.request is not None, receipt.problem
    return receipt.request.id


def until_empty(connection: Connection, partition: int, limit: int) -> Iterator[BatchReport]:
    """Run batches while they find work, or another backend holds the lock. Yields the reports of those with work."""
    while True:
        report = batch.drain_once(connection, [partition], limit)
        if report.taken:
            yield report
        elif not report.locked:
            return


def worker_connection(database: Database) -> Connection:
    """Connect as the workers do."""
    return postgres.connect(database.worker_url, application_name="test worker")


def intake_of(
    database: Database,
    backlog_limit: int = NO_LIMIT,
    accepted: Callable[[Iterable[int]], None] = lambda _: None,
) -> Intake:
    """Return an intake as the API has it in one process."""

    def connect() -> Connection:
        return postgres.connect(database.api_url, application_name="test intake")

    return Intake(connect, PARTITIONS, backlog_limit, accepted)


@contextlib.contextmanager
def started(*intakes: Intake) -> Iterator[Sequence[Intake]]:
    """Start these intakes, and stop them at the end."""
    for one in intakes:
        one.start()
    try:
        yield intakes
    finally:
        for one in intakes:
            one.stop()


@contextlib.contextmanager
def open_store(database: Database) -> Iterator[Store]:
    """Open a store on a fresh database."""
    owner = postgres.connect(database.url, application_name="test owner")
    with started(intake_of(database)) as [accepting]:
        store = Store(database, accepting, owner, worker_connection(database), itertools.count(1))
        try:
            yield store
        finally:
            store.worker.close()
            owner.close()


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """
    Run each job in a thread, all released at the same instant.

    Returns for each job its result, or the DatabaseUnavailable that it raised. Any other exception fails the
    test, as does a thread that does not end.
    """
    results: list[object] = [None] * len(jobs)
    faults: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def run(number: int) -> None:
        try:
            barrier.wait(THREAD_SECONDS)
            results[number] = jobs[number]()
        except DatabaseUnavailable as fault:
            results[number] = fault
        except BaseException as fault:  # noqa: BLE001 - raised below, in the thread of the test
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(THREAD_SECONDS)
        assert not thread.is_alive(), "a thread hangs"
    if faults:
        raise faults[0]
    return results
