"""
The faults. Each is injected into a run, checks how soon the system decides again, and leaves the system
whole.

Each returns a description. A decision that took too long becomes a problem of the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable
from processor.storage import connections
from tests.faults import degraded
from tests.faults.run import SOON_SECONDS, TAKEOVER_SECONDS
from tests.faults.system import MOVED_CLOCK, NOT_ALONE, is_behind
from tests.servers import PARTITIONS
from tests.stack import TELLER
from tests.waiting import Deadline

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from teller.embedded.postgres import Postgres
    from teller.embedded.valkey import Valkey
    from tests.faults.run import Run
    from tests.stack import Process

#: Time until a killed process is back and has decided its waiting work, in seconds. Python's start takes some
#: of it.
RESTART_SECONDS: Final = 10.0
#: Time for everything to start after a power cut, in seconds.
POWER_SECONDS: Final = 15.0
#: Shifts of one process's clock, in seconds.
CLOCK_SHIFTS: Final = (-7_200, -90, 90, 7_200)
#: Duration of a worker's suspension, in seconds: longer than its lease and every time limit.
STOPPED_SECONDS: Final = 10.0
#: Duration for which a foreign process drains beside the owners, in seconds.
FOREIGN_SECONDS: Final = 1.5
#: Partitions of one of its batches: of several owners.
FOREIGN_PARTITIONS: Final = 8

Fault = "Callable[[Run, random.Random], str]"


def kill_worker(run: Run, chance: random.Random) -> str:
    """Kill a worker with -9. Another one takes over its partitions."""
    worker = _worker_beside_others(run, chance)
    pid, takeover = worker.pid, Deadline(TAKEOVER_SECONDS)
    os.kill(pid, signal.SIGKILL)
    return f"worker {pid} killed; {run.must_decide(takeover, 'again')}"


def stop_worker(run: Run, chance: random.Random) -> str:
    """Suspend a worker for longer than its lease, then let it continue."""
    worker = _worker_beside_others(run, chance)
    with _stopped([worker.pid]):
        takeover = Deadline(TAKEOVER_SECONDS)
        meanwhile = run.must_decide(takeover, "by others")
        run.system.pause(max(0.0, STOPPED_SECONDS - takeover.passed))
        seconds = takeover.passed
    after = run.must_decide(SOON_SECONDS, "afterwards")
    return f"worker {worker.pid} stopped for {seconds:.0f} s; {meanwhile}; {after}"


def end_worker(run: Run, chance: random.Random) -> str:
    """End a worker with SIGTERM. It hands over at once."""
    worker = _worker_beside_others(run, chance)
    run.system.end(worker)
    run.system.expected.append(worker)
    return f"worker {worker.pid} ended; {run.must_decide(SOON_SECONDS, 'by others')}"


def kill_api(run: Run, chance: random.Random) -> str:
    """Kill an API with -9, either its main process or the one that serves."""
    api = chance.choice(run.system.expected_of("api"))
    pid, restart = chance.choice(api.pids()), Deadline(RESTART_SECONDS)
    os.kill(pid, signal.SIGKILL)
    return f"API {pid} killed; {run.must_decide(restart, 'again')}"


def stop_api(run: Run, chance: random.Random) -> str:
    """Suspend an API in the middle of its requests."""
    api = chance.choice(run.system.expected_of("api"))
    with run.load.standstill.lasting(), _stopped(api.pids()):
        run.system.pause(seconds := chance.uniform(2, 6))
    return f"API {api.pid} stopped for {seconds:.0f} s; {run.must_decide(SOON_SECONDS, 'afterwards')}"


def kill_courier(run: Run, chance: random.Random) -> str:
    """Kill the courier with -9 in the middle of its calls."""
    [courier] = run.system.expected_of("courier")
    pid = courier.pid
    os.kill(pid, signal.SIGKILL)
    return f"courier {pid} killed; {run.must_decide(SOON_SECONDS, 'meanwhile')}"


def stop_courier(run: Run, chance: random.Random) -> str:
    """Suspend the courier for longer than its leases."""
    [courier] = run.system.expected_of("courier")
    with _stopped([courier.pid]):
        decided = run.must_decide(SOON_SECONDS, "meanwhile")
        run.system.pause(seconds := chance.uniform(5, 8))
    return f"courier {courier.pid} stopped for {seconds:.0f} s; {decided}"


def kill_valkey(run: Run, chance: random.Random) -> str:
    """Kill Valkey with -9. The sweep finds work until it is back."""
    system = run.system
    pid = _pid(run, system.valkey)
    degraded.be_ready(run)
    system.expected.remove(system.valkey)
    os.kill(pid, signal.SIGKILL)
    system.pause(chance.uniform(0, 1))
    without = f"{run.must_decide(SOON_SECONDS, 'without it')}, {degraded.without_redis(run)}"
    system.expected.insert(0, system.valkey)
    system.until(system.valkey.alive)
    return f"Valkey {pid} killed; {without}; {run.must_decide(SOON_SECONDS, 'with it')}"


def stop_valkey(run: Run, chance: random.Random) -> str:
    """Suspend Valkey, which then accepts connections without answering."""
    pid = _pid(run, run.system.valkey)
    with _stopped([pid]):
        run.system.pause(chance.uniform(0.2, 2))
        without = run.must_decide(SOON_SECONDS, "without it")
    return f"Valkey {pid} stopped; {without}; {run.must_decide(SOON_SECONDS, 'with it')}"


def flush_valkey(run: Run, chance: random.Random) -> str:
    """Empty Valkey repeatedly, so that every notification is lost."""
    import redis  # noqa: PLC0415 - only this fault speaks to it

    times = chance.randint(1, 30)
    with redis.Redis.from_url(run.system.redis_url, socket_timeout=2) as client:
        for _ in range(times):
            with contextlib.suppress(redis.RedisError):  # a server that is not back yet is empty, too
                client.flushall()
            run.system.pause(0.02)
    return f"FLUSHALL {times} times; {run.must_decide(SOON_SECONDS, 'afterwards')}"


def kill_postgres(run: Run, chance: random.Random) -> str:
    """Stop PostgreSQL at once (immediate, or -9), and start it again later."""
    system = run.system
    pid = _pid(run, system.postgres)
    degraded.be_ready(run)
    system.expected.remove(system.postgres)
    sent, killed_at = chance.choice([signal.SIGQUIT, signal.SIGKILL]), time.monotonic()
    os.kill(pid, sent)
    system.until(lambda: not system.postgres.alive())
    outage = degraded.without_postgres(run)
    system.pause(chance.uniform(0, 3))
    system.expected.insert(0, system.postgres)
    system.until(lambda: system.query("SELECT 1") is not None)
    seconds = time.monotonic() - killed_at
    again = run.must_decide(Deadline(TAKEOVER_SECONDS), "again")
    return f"PostgreSQL {pid} {sent.name}, unavailable for {seconds:.1f} s; {outage}; {again}"


def stop_postgres(run: Run, chance: random.Random) -> str:
    """Suspend all processes of PostgreSQL, which then does not answer."""
    pid = _pid(run, run.system.postgres)
    degraded.be_ready(run)
    began = time.monotonic()
    with _stopped([pid]), _stopped(_with_children(pid)):  # first the process that starts others
        outage = degraded.without_postgres(run)
        run.system.pause(chance.uniform(0, 3))
    seconds = time.monotonic() - began
    again = run.must_decide(Deadline(TAKEOVER_SECONDS), "again")
    return f"PostgreSQL {pid} stopped for {seconds:.0f} s; {outage}; {again}"


def lose_commits(run: Run, chance: random.Random) -> str:
    """Cut connections during a COMMIT, whose outcome is then unknown."""
    proxies = [run.system.api_proxy, run.system.courier_proxy, *run.system.worker_proxies]
    for proxy in proxies:
        proxy.losses = [chance.choice(["answer", "answer", "commit"]) for _ in range(chance.randint(1, 6))]
        proxy.cuts = 0
    decided = run.must_decide(TAKEOVER_SECONDS, "all the same")
    end = time.monotonic() + TAKEOVER_SECONDS
    run.system.until(lambda: time.monotonic() > end or not any(proxy.losses for proxy in proxies))
    for proxy in proxies:
        proxy.losses = []
    return f"{sum(proxy.cuts for proxy in proxies)} connections cut during COMMIT; {decided}"


def cut_off_host(run: Run, chance: random.Random) -> str:
    """Cut some workers off from PostgreSQL in both directions. Others take over."""
    run.system.until(run.system.is_shared_by_all)
    proxy = chance.choice(run.system.worker_proxies)
    cut_off = [part for part in run.system.expected_of("worker") if is_behind(part, proxy)]
    others = len(run.system.expected_of("worker")) - len(cut_off)
    proxy.freeze()
    takeover = Deadline(TAKEOVER_SECONDS)
    try:
        decided = run.must_decide(takeover, "by others") if others else "no worker is left"
        run.system.pause(max(0.0, chance.uniform(4, 8) - takeover.passed))
    finally:
        proxy.thaw()
    seconds = takeover.passed
    after = run.must_decide(Deadline(TAKEOVER_SECONDS), "afterwards")
    return f"{len(cut_off)} workers cut off for {seconds:.0f} s; {decided}; {after}"


def drain_as_foreigner(run: Run, chance: random.Random) -> str:
    """Drain all partitions beside their owners, as during a deploy. Only the lock separates them."""
    taken, over = 0, threading.Event()

    def drain() -> None:
        nonlocal taken
        url = run.system.environment["TELLER_WORKER_DATABASE_URL"]
        try:
            with connections.connect(url, application_name="foreigner") as own:
                while not over.is_set():
                    for first in range(0, PARTITIONS, FOREIGN_PARTITIONS):
                        taken += batch.drain_once(own, busy[first : first + FOREIGN_PARTITIONS]).taken
        except DatabaseUnavailable as fault:
            if NOT_ALONE in str(fault):
                run.problems.append(f"not_alone: a foreign process drained, and {fault}")

    busy = chance.sample(range(PARTITIONS), PARTITIONS)
    foreigners = [threading.Thread(target=drain, daemon=True) for _ in range(2)]
    for foreigner in foreigners:
        foreigner.start()
    run.system.pause(FOREIGN_SECONDS)
    over.set()
    run.system.until(lambda: not any(foreigner.is_alive() for foreigner in foreigners))
    return f"foreign processes drained {taken} rows; {run.must_decide(SOON_SECONDS, 'afterwards')}"


def move_clock(run: Run, chance: random.Random) -> str:
    """Shift the clock of one process by minutes or hours."""
    kind = chance.choice(["api", "worker", "courier"])
    return move_clock_of(kind, chance.choice(CLOCK_SHIFTS), run, chance)


def move_clock_of(kind: str, shift: int, run: Run, chance: random.Random) -> str:
    """Shift the clock of a process of this kind by `shift` seconds."""
    part = chance.choice(run.system.expected_of(kind))
    sound = part.arguments, part.environment
    _restart(run, part, [*MOVED_CLOCK, kind], {**part.environment, "CLOCK_SHIFT_SECONDS": str(shift)})
    decided = run.must_decide(Deadline(RESTART_SECONDS), "meanwhile")
    run.system.pause(chance.uniform(1, 3))
    _restart(run, part, [*TELLER, kind], sound[1])
    after = run.must_decide(Deadline(RESTART_SECONDS), "afterwards")
    return f"clock of the {kind} {shift:+d} s; {decided}; {after}"


def scale_workers(run: Run, chance: random.Random) -> str:
    """Run one worker, then four, then one again. No partition waits."""
    system = run.system
    decided = []
    system.until(system.is_shared_by_all)
    began, limit = run.now(), Deadline(TAKEOVER_SECONDS)
    for _ in range(len(system.expected_of("worker")) - 1):
        system.end(system.expected_of("worker")[-1])
        decided.append(run.must_decide(TAKEOVER_SECONDS, "by fewer"))
    while len(system.expected_of("worker")) < 4:
        system.add_worker()
        decided.append(run.must_decide(TAKEOVER_SECONDS, "by more"))
    system.until(system.is_shared_by_all)
    while len(system.expected_of("worker")) > 1:
        system.end(chance.choice(system.expected_of("worker")))
        decided.append(run.must_decide(TAKEOVER_SECONDS, "by fewer"))
    system.add_worker()
    slowest = max(decided, key=lambda line: float(line.rpartition(" after ")[2].split()[0]))
    return f"workers 1 → 4 → 1; at the slowest {slowest}; {run.must_not_wait(began, limit)}"


def cut_power(run: Run, chance: random.Random) -> str:
    """Kill everything at the same moment."""
    system = run.system
    servers = [(server, _pid(run, server)) for server in (system.postgres, system.valkey)]
    for process in system.processes:
        if process.alive():
            os.kill(process.pid, signal.SIGKILL)
    for _, leader in servers:
        for pid in _with_children(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    restart = Deadline(POWER_SECONDS)
    system.until(lambda: all(server.pid != before for server, before in servers))  # dead, or back already
    return f"everything killed; {run.must_decide(restart, 'again')}"


def _worker_beside_others(run: Run, chance: random.Random) -> Process:
    """
    Choose a worker once all have started. Workers that an earlier fault ended could not take over from it.
    """
    run.system.until(run.system.is_shared_by_all)
    return chance.choice(run.system.expected_of("worker"))


def _restart(run: Run, part: Process, arguments: Sequence[str], environment: object) -> None:
    part.arguments, part.environment = arguments, environment  # type: ignore[assignment] # the same mapping, extended
    before = part.starts
    run.system.end(part, kill=True)
    run.system.expected.append(part)
    run.system.until(lambda: part.starts > before)


def _pid(run: Run, server: Postgres | Valkey) -> int:
    """Return a server's process id, once it is back after an earlier fault."""
    run.system.until(server.alive)
    assert server.pid is not None
    return server.pid


@contextlib.contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _with_children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as children:  # noqa: PTH123 - of /proc
        return [pid, *map(int, children.read().split())]
    return [pid]


#: Faults that need no special rights.
EVERYWHERE: Final = (
    kill_worker,
    stop_worker,
    end_worker,
    kill_api,
    stop_api,
    kill_courier,
    stop_courier,
    kill_valkey,
    stop_valkey,
    flush_valkey,
    kill_postgres,
    stop_postgres,
    lose_commits,
    cut_off_host,
    drain_as_foreigner,
    move_clock,
    scale_workers,
    cut_power,
)
