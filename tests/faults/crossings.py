"""
Exchanges over 2 to 10 partitions that cross each other, while partitions change hands: the search for a deadlock.

Four workers own the partitions, and a foreign process drains random ones beside them, as during a takeover.
PostgreSQL looks for deadlocks much earlier than a wait for a lock ends, and the verdict of the run reads its log.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable
from processor.storage import connections
from tests.faults.run import TAKEOVER_SECONDS
from tests.faults.system import NOT_ALONE
from tests.servers import PARTITIONS
from tests.waiting import Deadline

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.faults.clients import Client
    from tests.faults.run import Run

WORKERS: Final = 4
LEGS_MAX: Final = 10
#: Requests of one call of a trader. Most of them are exchanges.
ITEMS: Final = 8
#: The longest pause of a trader between two calls, in seconds. Without it, the requests would pile up.
TRADER_PAUSE_SECONDS: Final = 0.4
#: The time for which exchanges cross before and after the act on a worker, in seconds.
BEFORE_SECONDS: Final = 1.0
AFTER_SECONDS: Final = 2.5
#: Duration of a worker's suspension, in seconds: longer than its lease.
STOPPED_SECONDS: Final = 4.0


def crossing(run: Run, chance: random.Random) -> str:
    """Let exchanges cross between four workers, of which one is killed, suspended or ended, or all stay."""
    system = run.system
    while len(system.expected_of("worker")) < WORKERS:
        system.add_worker()
    system.until(system.is_shared_by_all)
    began, limit = run.now(), Deadline(TAKEOVER_SECONDS)
    act = chance.choice([_kill, _kill, _stop, _end, _nothing])
    with _trading(run), _draining(run, chance) as foreign:
        system.pause(BEFORE_SECONDS)
        done = act(run, chance)
        system.pause(AFTER_SECONDS)
    after = run.must_decide(TAKEOVER_SECONDS, "afterwards")
    waited = run.must_not_wait(began, limit)
    return f"{done}; foreign batches: {_counted(foreign)}; {after}; {waited}"


def _kill(run: Run, chance: random.Random) -> str:
    worker = chance.choice(run.system.expected_of("worker"))
    os.kill(worker.pid, signal.SIGKILL)
    return "a worker killed"


def _end(run: Run, chance: random.Random) -> str:
    run.system.end(chance.choice(run.system.expected_of("worker")))
    return "a worker ended"


def _stop(run: Run, chance: random.Random) -> str:
    pid = chance.choice(run.system.expected_of("worker")).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        run.system.pause(STOPPED_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return "a worker suspended"


def _nothing(_run: Run, _chance: random.Random) -> str:
    return "no worker touched"


@contextlib.contextmanager
def _trading(run: Run) -> Iterator[None]:
    """Let all traders send until the end of the block."""
    over = threading.Event()

    def trade(trader: Client) -> None:
        trader.deadline = float("inf")
        while not over.is_set():
            trader.send_items([_item(run.probes, trader.chance) for _ in range(ITEMS)])
            time.sleep(trader.chance.uniform(0, TRADER_PAUSE_SECONDS))

    with _threads(run, [functools.partial(trade, one) for one in run.load.traders], over):
        yield


def _item(names: list[str], chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return an exchange over 2 to 10 partitions, or sometimes a plain request."""
    if chance.random() < 0.25:
        return "redemption", {"resource": chance.choice(names), "account": "trader", "amount": 1}
    legs: list[dict[str, Any]] = [
        {"resource": name, chance.choice(["take", "give"]): 1}
        for name in chance.sample(names, chance.randint(2, LEGS_MAX))
    ]
    return "exchange", {"account": "trader", "legs": legs}


@contextlib.contextmanager
def _draining(run: Run, chance: random.Random) -> Iterator[Counter[str]]:
    """Drain random partitions beside their owners, with and without waiting for their locks. Yields the results."""
    over, found = threading.Event(), Counter[str]()
    seeds = [chance.random() for _ in range(2)]

    def drain(seed: float) -> None:
        own_chance = type(chance)(seed)
        url = run.system.environment["TELLER_WORKER_DATABASE_URL"]
        while not over.is_set():
            try:
                with connections.connect(url, application_name="foreigner") as own:
                    while not over.is_set():
                        some = own_chance.sample(range(PARTITIONS), own_chance.randint(2, LEGS_MAX))
                        report = batch.drain_once(own, some, 500, needs_all=own_chance.random() < 0.5)
                        found["locked" if report.locked else "taken" if report.taken else "empty"] += 1
            except DatabaseUnavailable as fault:
                if NOT_ALONE in str(fault):
                    run.problems.append(f"not_alone: a foreign process drained, and {fault}")
                time.sleep(0.1)

    with _threads(run, [functools.partial(drain, seed) for seed in seeds], over):
        yield found


@contextlib.contextmanager
def _threads(run: Run, targets: list[Callable[[], None]], over: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        run.system.until(lambda: not any(thread.is_alive() for thread in threads))


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "none"
