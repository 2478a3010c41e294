"""
Teller's own way: a real resource, asked for through the real intake, decided by whoever has its partition.

What it leaves in the ledger stays there, as everything in it does; the resource is closed when the race is over.
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
from processor.errors import DatabaseUnavailable, TellerError
from processor.intake.intake import Submission, fingerprint
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from processor.intake.intake import Receipt
    from processor.storage.connections import Connection

#: As whom the lab asks: the resource exists for this client alone.
CLIENT: Final = "race-lab"
KEY: Final = UUID(int=0)
#: Between two looks at what is decided, in seconds.
LOOK_SECONDS: Final = 0.002
#: What is not decided after so long will not be: its partition is paused, or no worker lives. In seconds.
PATIENCE_SECONDS: Final = 20.0


class NotDecided(TellerError):
    """The requests of a race were accepted, and nobody decided them."""

    code = "not_decided"


@dataclass(frozen=True, slots=True)
class Counter:
    """
    Where users ask: an intake, a connection to look with, and, where no worker is at work, a way to decide what
    waits in a partition.
    """

    accept: Callable[[Sequence[Submission]], list[Receipt]]
    connection: Connection
    partitions: int
    drain: Callable[[int], object] | None = None


def has_workers(connection: Connection) -> bool:
    """Whether somebody lives who decides."""
    return connection.execute(SQL["count_workers"]).fetchall() != [(0,)]


def race(counter: Counter, users: int, stock: int) -> Outcome:
    """
    One race. Raises DatabaseUnavailable, NotDecided, NotReady, and what intake refuses with.
    """
    resource = f"lab:{uuid.uuid4()}"
    look = _Look(counter, partition_of(resource, counter.partitions))
    opening = _submission("opening", resource, None, stock, {"kind": "stock", "client": CLIENT})
    look.wait_for([_accept(counter, opening)])
    try:
        results = _ask(counter, look, resource, users)
        books = counter.connection.execute(SQL["read_ledger"], {"resource": resource})
        [(final, approved)] = books.fetchall()
    finally:
        look.once([_accept(counter, _submission("closing", resource, None, None, None))])
    return Outcome("queue", stock, approved, final, results)


def _ask(counter: Counter, look: _Look, resource: str, users: int) -> list[UserResult]:
    results = [UserResult(number) for number in range(1, users + 1)]
    requests: dict[UUID, UserResult] = {}

    def ask(result: UserResult, crowd: Crowd) -> None:
        started = crowd.clock()
        try:
            asked = _accept(counter, _submission("redemption", resource, f"user-{result.user}", 1, None))
        except TellerError as fault:
            result.error = str(fault)
        else:
            result.steps.append(Step("accept", started, crowd.clock()))
            requests[asked] = result

    crowd = Crowd([functools.partial(ask, result) for result in results])

    def note(request: UUID) -> None:
        result, (status, code, sequence) = requests[request], look.decided[request]
        result.approved, result.code, result.sequence = status == "completed", code, sequence
        result.steps.append(Step("queue", result.steps[0].end_ms, crowd.clock()))

    try:
        crowd.start()
        while crowd.busy():
            look.once(list(requests), note)
            time.sleep(LOOK_SECONDS)
        crowd.join()
        look.wait_for(list(requests), note)
    except BaseException:
        crowd.call_off()
        raise
    return results


class _Look:
    """What is decided, as far as we have looked; decides it ourselves where nobody else does."""

    def __init__(self, counter: Counter, partition: int) -> None:
        self._counter = counter
        self._partition = partition
        #: Status, code and sequence of each request.
        self.decided: dict[UUID, tuple[str, str | None, int]] = {}

    def once(self, requests: Sequence[UUID], note: Callable[[UUID], None] = lambda _: None) -> bool:
        """Look; `note` is told of each that is decided now. Whether all are."""
        if self._counter.drain is not None:
            self._counter.drain(self._partition)
        open_ones = [request for request in requests if request not in self.decided]
        if open_ones:
            rows = self._counter.connection.execute(SQL["read_decisions"], {"requests": open_ones})
            for request, *decision in rows.fetchall():
                self.decided[request] = (decision[0], decision[1], decision[2])
                note(request)
        return all(request in self.decided for request in requests)

    def wait_for(self, requests: Sequence[UUID], note: Callable[[UUID], None] = lambda _: None) -> None:
        """Until all are decided. Raises NotDecided."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.once(requests, note):
            if time.monotonic() > end:
                raise NotDecided(
                    f"partition {self._partition} decided nothing for {PATIENCE_SECONDS:.0f} s: is it paused, or is"
                    " no worker running?"
                )
            time.sleep(LOOK_SECONDS)


def _accept(counter: Counter, submission: Submission) -> UUID:
    """The id of the request, which is durable."""
    with connections.faults():
        [receipt] = counter.accept([submission])
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
