"""
One run: a system under load, faults in it, the time until it decides again, and the final check.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

from processor.domain.partitioning import partition_of
from tests.faults.checker import check
from tests.faults.history import History, Subscriber
from tests.faults.load import Load
from tests.faults.outside import outside
from tests.faults.reading import read_back
from tests.faults.system import FaultStack
from tests.servers import PARTITIONS
from tests.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.outside import Bank
    from tests.faults.outside import Subscriber as Hook

#: Time limit for a decision without a fault, or with a fault of Redis alone, in seconds.
SOON_SECONDS: Final = 2.0
#: Time limit until a dead worker's partitions are decided again, in seconds.
TAKEOVER_SECONDS: Final = 5.0
#: Time limit for a request to be accepted again after a fault, in seconds.
ACCEPT_SECONDS: Final = 30.0
#: Time limit for all open work once all faults are over, in seconds.
SETTLE_SECONDS: Final = 90.0

PENDING = """
SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM effects WHERE due_at IS NOT NULL),
       (SELECT count(*) FROM deliveries WHERE status = 'pending'), (SELECT count(*) FROM fanouts),
       (SELECT count(*) FROM decisions WHERE current AND stage = 'held')"""
#: The longest wait for a decision among requests accepted since a given time.
LONGEST_WAIT = """
SELECT extract(epoch FROM coalesce(d.decided_at, clock_timestamp()) - r.created_at)::float8 AS waited, r.id::text
  FROM requests r
  LEFT JOIN decisions d ON d.request_id = r.id AND d.version = 2
 WHERE r.created_at >= %s
 ORDER BY waited DESC
 LIMIT 1"""
#: Makes deliveries that wait for their next try due now.
HURRY = """
WITH hurried AS (
    UPDATE deliveries SET due_at = now() WHERE status = 'pending' AND token IS NULL AND due_at > now() RETURNING 1
) SELECT count(*) FROM hurried"""


class Run:
    """A system with its load. `problems` has the violations so far, one line each."""

    def __init__(self, system: FaultStack, load: Load, bank: Bank, hook: Hook) -> None:
        self.system = system
        self.load = load
        self.bank = bank
        self.hook = hook
        self.problems: list[str] = []
        self.probes = [_name_in(partition) for partition in range(PARTITIONS)]
        self.history: History | None = None

    # ------------------------------------------------------------ time until the next decision

    def probe(self, seconds: float) -> Deadline:
        """
        Send one request to each partition, and wait until all are decided.

        Returns the deadline of `seconds` that began with their acceptance. Raises AssertionError after a long
        time.
        """
        prober, found = self.load.prober, list[str]()
        prober.deadline = time.monotonic() + ACCEPT_SECONDS
        requests = [
            ("redemption", {"resource": name, "account": "probe", "amount": 1}) for name in self.probes
        ]
        asking = threading.Thread(target=lambda: found.extend(prober.send_items(requests)), daemon=True)
        asking.start()
        self.system.until(lambda: not asking.is_alive(), 2 * ACCEPT_SECONDS)
        assert found, f"not accepted within {ACCEPT_SECONDS:.0f} s"
        deadline = Deadline(seconds)
        self.system.until(lambda: self._are_decided(found))
        return deadline

    def probe_one(self, partition: int) -> None:
        """Send one request to this partition until it is accepted."""
        prober = self.load.prober
        prober.deadline = time.monotonic() + ACCEPT_SECONDS
        prober.send_items(
            [("redemption", {"resource": self.probes[partition], "account": "probe", "amount": 1})]
        )

    def must_decide(self, limit: Deadline | float, condition: str) -> str:
        """
        Check that one request of each partition is decided in time.

        The limit is a deadline that has begun, or the seconds from the acceptance of the requests. Returns a
        description. A decision that took longer is a problem.
        """
        try:
            accepted = self.probe(limit.seconds if isinstance(limit, Deadline) else limit)
        except AssertionError as fault:
            self.problems.append(
                f"not_decided_again {condition}: {fault}; {self.system.last_words('worker')}"
            )
            return f"NOT decided again: {fault}"
        deadline = limit if isinstance(limit, Deadline) else accepted
        took, is_met = deadline.passed, deadline.is_met()
        if not is_met:
            self.problems.append(f"decided_late {condition}: after {took:.1f} s, and not within {deadline}")
        late = "" if is_met else "LATE: "
        return f"{late}decided {condition} after {took:.2f} s (within {deadline.seconds:.0f})"

    def now(self) -> object:
        """Return the time of the clock that dates requests and decisions."""
        rows = self.system.query("SELECT clock_timestamp()")
        assert rows, "PostgreSQL is unavailable"
        return rows[0][0]

    def must_not_wait(self, since: object, limit: Deadline) -> str:
        """
        Check that no request accepted since then waited longer than the limit. Returns a description.
        """
        rows = self.system.query(LONGEST_WAIT, since)
        assert rows, "PostgreSQL is unavailable"
        [(waited, request)] = rows
        if not limit.is_met(waited):
            self.problems.append(f"decided_late {request}: after {waited:.1f} s, and not within {limit}")
        return f"no request waited for more than {waited:.2f} s (within {limit.seconds:.0f})"

    def _are_decided(self, requests: list[str]) -> bool:
        rows = self.system.query(
            "SELECT count(*) FROM decisions WHERE version = 2 AND request_id = ANY(%s::uuid[])", requests
        )
        return rows == [(len(requests),)]

    # ------------------------------------------------------------ the end

    def settle(self) -> None:
        """Stop new requests and faults, make the bank reliable, and let everything come to its end."""
        self.bank.is_reliable = True
        self.load.stop(ACCEPT_SECONDS, self.system.pause)
        self._until_nothing_waits()
        self.load.admin.replay_all()
        self._until_nothing_waits()

    def judge(self) -> list[str]:
        """Check everything and keep the history. Returns all violations, one line each."""
        history = read_back(self.system, self.bank.payouts)
        history.asked = self.load.asked()
        history.commands = self.load.commands()
        history.subscribers = [Subscriber(self.hook.name, self.system.client.client)]
        history.messages = list(self.hook.messages)
        self.history = history
        self.problems += map(str, check(history))
        self.problems += [f"verify: {line}" for line in self.system.verify()]
        self.problems += self.load.wrong()
        self.problems += [f"deadlock {line}" for line in self.system.deadlocks_logged()]
        self.problems += [f"fault_logged {line}" for line in self.system.faults_logged()]
        return self.problems

    def _until_nothing_waits(self) -> None:
        end = time.monotonic() + SETTLE_SECONDS
        while (pending := self.system.query(PENDING)) != [(0,) * 5]:
            if time.monotonic() > end:
                self.problems.append(
                    f"not_settled: {pending} inbox rows, effects, deliveries, fanouts and holds wait"
                )
                return
            self.system.query(HURRY)
            self.system.pause(0.2)


@contextlib.contextmanager
def running(home: Path, seed: int, people: int, workers: int = 2) -> Iterator[Run]:
    """Run a system in an empty home, with its resources and its subscriber, before any client starts."""
    with outside() as (bank, bank_url, hook, hook_url):
        system = FaultStack(home, bank_url, workers)
        try:
            system.begin()
            load = Load(system.ports, system.client, system.admin, seed, people)
            registered = load.prober.http.call("POST", "/v1/webhooks", {"url": hook_url})
            assert registered.status == 201, registered
            hook.name = registered.document["id"]
            load.admin.open_all()
            run = Run(system, load, bank, hook)
            for name in run.probes:
                load.admin.open(name, "stock", 10**9)
            yield run
        finally:
            system.close()


def _name_in(partition: int) -> str:
    """Return a resource of this partition."""
    number = 0
    while partition_of(name := f"probe-{number}", PARTITIONS) != partition:
        number += 1
    return name
