"""
Teller's strategy: a real resource and real requests, which the owner of the partition decides.

The resource is closed when the race is over. Its entries stay in the ledger, like all entries.
"""

from __future__ import annotations

import functools
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from lab.arena import Crowd
from lab.outcomes import Outcome, Step, UserResult
from lab.strategies import SQL
from processor.domain.partitioning import partition_of
from processor.domain.roles import LAB_CLIENT
from processor.errors import DatabaseUnavailable, TellerError
from processor.intake.intake import Submission, fingerprint
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from processor.intake.intake import Receipt
    from processor.storage.connections import Connection

#: The client of the lab, which alone can use the resource of a race.
CLIENT: Final = LAB_CLIENT
KEY: Final = UUID(int=0)
#: The pause between two reads of the decisions.
POLL_SECONDS: Final = 0.002
#: The time for decisions. A request that takes longer is in a paused partition, or no worker is running.
DECISION_TIMEOUT_SECONDS: Final = 20.0


class NotDecided(TellerError):
    """The requests of a race were accepted, but not decided."""

    code = "not_decided"


@dataclass(frozen=True, slots=True)
class QueueAccess:
    """
    The access to Teller's queue: intake, and a connection that reads decisions.

    Where no worker is running, `drain` decides the requests of a partition.
    """

    accept: Callable[[Sequence[Submission]], list[Receipt]]
    connection: Connection
    partitions: int
    drain: Callable[[int], object] | None = None


def has_workers(connection: Connection) -> bool:
    """Return whether a worker is running."""
    return connection.execute(SQL["count_workers"]).fetchall() != [(0,)]


def race(queue: QueueAccess, users: int, stock: int) -> Outcome:
    """
    Run one race. Raises DatabaseUnavailable, NotDecided, NotReady, and the errors of intake.
    """
    resource = f"lab:{uuid.uuid4()}"
    decisions = _Decisions(queue, partition_of(resource, queue.partitions))
    opening = _submission("opening", resource, None, stock, {"kind": "stock", "client": CLIENT})
    decisions.wait_for([_accept(queue, opening)])
    try:
        results = _ask(queue, decisions, resource, users)
        ledger = queue.connection.execute(SQL["read_ledger"], {"resource": resource})
        [(final, approved)] = ledger.fetchall()
    finally:
        decisions.read([_accept(queue, _submission("closing", resource, None, None, None))])
    return Outcome("queue", stock, approved, final, results)


def _ask(queue: QueueAccess, decisions: _Decisions, resource: str, users: int) -> list[UserResult]:
    results = [UserResult(number) for number in range(1, users + 1)]
    requests: dict[UUID, UserResult] = {}

    def ask(result: UserResult, crowd: Crowd) -> None:
        started = crowd.clock()
        try:
            request = _accept(queue, _submission("redemption", resource, f"user-{result.user}", 1, None))
        except TellerError as fault:
            result.error = str(fault)
        else:
            result.steps.append(Step("accept", started, crowd.clock()))
            requests[request] = result

    crowd = Crowd([functools.partial(ask, result) for result in results])

    def note(request: UUID) -> None:
        result, (status, code, sequence) = requests[request], decisions.decided[request]
        result.approved, result.code, result.sequence = status == "completed", code, sequence
        result.steps.append(Step("queue", result.steps[0].end_ms, crowd.clock()))

    try:
        crowd.start()
        while crowd.busy():
            decisions.read(list(requests), note)
            time.sleep(POLL_SECONDS)
        crowd.join()
        decisions.wait_for(list(requests), note)
    except BaseException:
        crowd.cancel()
        raise
    return results


class _Decisions:
    """The decisions that were read so far. Drains the partition where no worker does."""

    def __init__(self, queue: QueueAccess, partition: int) -> None:
        self._queue = queue
        self._partition = partition
        #: Status, code and sequence of each request.
        self.decided: dict[UUID, tuple[str, str | None, int]] = {}

    def read(self, requests: Sequence[UUID], note: Callable[[UUID], None] = lambda _: None) -> bool:
        """
        Read new decisions, and pass each to `note`.

        Returns whether all requests are decided.
        """
        if self._queue.drain is not None:
            self._queue.drain(self._partition)
        open_ones = [request for request in requests if request not in self.decided]
        if open_ones:
            rows = self._queue.connection.execute(SQL["read_decisions"], {"requests": open_ones})
            for request, *decision in rows.fetchall():
                self.decided[request] = (decision[0], decision[1], decision[2])
                note(request)
        return all(request in self.decided for request in requests)

    def wait_for(self, requests: Sequence[UUID], note: Callable[[UUID], None] = lambda _: None) -> None:
        """Wait until all requests are decided. Raises NotDecided."""
        end = time.monotonic() + DECISION_TIMEOUT_SECONDS
        while not self.read(requests, note):
            if time.monotonic() > end:
                raise NotDecided(
                    f"partition {self._partition} decided nothing for {DECISION_TIMEOUT_SECONDS:.0f} s: is it paused,"
                    " or is no worker running?"
                )
            time.sleep(POLL_SECONDS)


def _accept(queue: QueueAccess, submission: Submission) -> UUID:
    """Make a durable request. Returns its id."""
    with connections.faults():
        [receipt] = queue.accept([submission])
    if receipt.request is None:
        raise receipt.problem or DatabaseUnavailable("intake gave no reason")
    return receipt.request.id


def _submission(
    kind: str, resource: str, account: str | None, amount: int | None, details: dict[str, str] | None
) -> Submission:
    return Submission(
        client_id=CLIENT,
        key_id=KEY,
        idempotency_key=f"{resource}/{kind}/{account or ''}",
        fingerprint=fingerprint(kind, {"resource": resource, "account": account}),
        kind=kind,
        resource_id=resource,
        account=account,
        amount=amount,
        details=details,
    )
