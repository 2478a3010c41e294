"""
The faults: what is done to a run, and how soon it must decide again. Each leaves the system whole.

Each returns what happened, in words; what took too long it has added to the run's problems.
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
from tests.faults.system import MOVED_CLOCK, NOT_ALONE, PARTITIONS, TELLER

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from teller.embedded.postgres import Postgres
    from teller.embedded.valkey import Valkey
    from tests.faults.parts import Part
    from tests.faults.run import Run

#: A part that was killed is there again, and what it had at hand is decided, within this, in seconds: a Python that
#: starts takes some of them on a busy machine.
RESTART_SECONDS: Final = 10.0
#: After a power cut everything has to start, in seconds.
POWER_SECONDS: Final = 15.0
#: How far the clock of one process is wrong, in seconds.
CLOCK_SHIFTS: Final = (-7_200, -90, 90, 7_200)
#: How long a worker that is stopped stands still, in seconds: long enough to be given up by everybody.
STOPPED_SECONDS: Final = 10.0
#: How long a stranger drains beside the owners, in seconds.
STRANGER_SECONDS: Final = 1.5

Fault = "Callable[[Run, random.Random], str]"


def kill_worker(run: Run, chance: random.Random) -> str:
    """A kill -9 of a worker; another one takes its partitions over."""
    worker = _worker_beside_others(run, chance)
    pid, since = worker.pid, time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return f"worker {pid} killed; {run.must_decide(since, TAKEOVER_SECONDS, 'again')}"


def stop_worker(run: Run, chance: random.Random) -> str:
    """SIGSTOP of a worker, wherever it is, for longer than its lease; then it goes on."""
    worker = _worker_beside_others(run, chance)
    with _stopped([worker.pid]):
        since = time.monotonic()
        meanwhile = run.must_decide(since, TAKEOVER_SECONDS, "by others")
        run.system.pause(max(0.0, since + STOPPED_SECONDS - time.monotonic()))
        seconds = time.monotonic() - since
    after = run.must_decide(None, SOON_SECONDS, "afterwards")
    return f"worker {worker.pid} stopped for {seconds:.0f} s; {meanwhile}; {after}"


def end_worker(run: Run, chance: random.Random) -> str:
    """SIGTERM: it hands over at once."""
    worker = _worker_beside_others(run, chance)
    worker.end()
    worker.wanted = True
    return f"worker {worker.pid} ended; {run.must_decide(None, SOON_SECONDS, 'by others')}"


def kill_api(run: Run, chance: random.Random) -> str:
    """A kill -9 of an API: of its main process, or of the one that serves."""
    api = chance.choice(run.system.living("api"))
    pid, since = chance.choice(api.pids()), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return f"API {pid} killed; {run.must_decide(since, RESTART_SECONDS, 'again')}"


def stop_api(run: Run, chance: random.Random) -> str:
    """SIGSTOP of an API, with everything that it has at hand."""
    api = chance.choice(run.system.living("api"))
    with run.load.standstill.lasting(), _stopped(api.pids()):
        run.system.pause(seconds := chance.uniform(2, 6))
    return f"API {api.pid} stopped for {seconds:.0f} s; {run.must_decide(None, SOON_SECONDS, 'afterwards')}"


def kill_courier(run: Run, chance: random.Random) -> str:
    """A kill -9 of the courier, in the middle of its calls."""
    [courier] = run.system.living("courier")
    pid = courier.pid
    os.kill(pid, signal.SIGKILL)
    return f"courier {pid} killed; {run.must_decide(None, SOON_SECONDS, 'meanwhile')}"


def stop_courier(run: Run, chance: random.Random) -> str:
    """SIGSTOP of the courier, for longer than its leases."""
    [courier] = run.system.living("courier")
    with _stopped([courier.pid]):
        decided = run.must_decide(None, SOON_SECONDS, "meanwhile")
        run.system.pause(seconds := chance.uniform(5, 8))
    return f"courier {courier.pid} stopped for {seconds:.0f} s; {decided}"


def kill_valkey(run: Run, chance: random.Random) -> str:
    """A kill -9 of Valkey; the sweep decides until it is back."""
    system = run.system
    pid = _pid(run, system.valkey)
    degraded.be_ready(run)
    system.wanted.remove(system.valkey)
    os.kill(pid, signal.SIGKILL)
    system.pause(chance.uniform(0, 1))
    without = f"{run.must_decide(None, SOON_SECONDS, 'without it')}, {degraded.without_redis(run)}"
    system.wanted.append(system.valkey)
    system.until(system.valkey.alive)
    return f"Valkey {pid} killed; {without}; {run.must_decide(None, SOON_SECONDS, 'with it')}"


def stop_valkey(run: Run, chance: random.Random) -> str:
    """SIGSTOP of Valkey: it takes connections and says nothing."""
    pid = _pid(run, run.system.valkey)
    with _stopped([pid]):
        run.system.pause(chance.uniform(0.2, 2))
        without = run.must_decide(None, SOON_SECONDS, "without it")
    return f"Valkey {pid} stopped; {without}; {run.must_decide(None, SOON_SECONDS, 'with it')}"


def flush_valkey(run: Run, chance: random.Random) -> str:
    """FLUSHALL, again and again: every bell is forgotten."""
    import redis  # noqa: PLC0415 - only this fault speaks to it

    times = chance.randint(1, 30)
    with redis.Redis.from_url(run.system.redis_url, socket_timeout=2) as client:
        for _ in range(times):
            with contextlib.suppress(redis.RedisError):  # one that is not back yet has forgotten all, too
                client.flushall()
            run.system.pause(0.02)
    return f"FLUSHALL {times} times; {run.must_decide(None, SOON_SECONDS, 'afterwards')}"


def kill_postgres(run: Run, chance: random.Random) -> str:
    """PostgreSQL stopped at once (immediate, or -9), and started again after a while."""
    system = run.system
    pid = _pid(run, system.postgres)
    degraded.be_ready(run)
    system.wanted.remove(system.postgres)
    sent, killed_at = chance.choice([signal.SIGQUIT, signal.SIGKILL]), time.monotonic()
    os.kill(pid, sent)
    system.until(lambda: not system.postgres.alive())
    away = degraded.without_postgres(run)
    system.pause(chance.uniform(0, 3))
    system.wanted.insert(0, system.postgres)
    system.until(lambda: system.query("SELECT 1") is not None)
    since = time.monotonic()
    again = run.must_decide(since, TAKEOVER_SECONDS, "again")
    return f"PostgreSQL {pid} {sent.name}, away for {since - killed_at:.1f} s; {away}; {again}"


def stop_postgres(run: Run, chance: random.Random) -> str:
    """SIGSTOP of PostgreSQL and all that belongs to it: it is there, and says nothing."""
    pid = _pid(run, run.system.postgres)
    degraded.be_ready(run)
    began = time.monotonic()
    with _stopped([pid]), _stopped(_with_children(pid)):  # first who makes new ones
        away = degraded.without_postgres(run)
        run.system.pause(chance.uniform(0, 3))
    since = time.monotonic()
    again = run.must_decide(since, TAKEOVER_SECONDS, "again")
    return f"PostgreSQL {pid} stopped for {since - began:.0f} s; {away}; {again}"


def lose_commits(run: Run, chance: random.Random) -> str:
    """Connections are cut during a COMMIT: it was done, or not, and nobody is told."""
    proxies = [run.system.api_proxy, run.system.courier_proxy, *run.system.worker_proxies]
    for proxy in proxies:
        proxy.losses = [chance.choice(["answer", "answer", "commit"]) for _ in range(chance.randint(1, 6))]
        proxy.cuts = 0
    decided = run.must_decide(None, TAKEOVER_SECONDS, "all the same")
    end = time.monotonic() + TAKEOVER_SECONDS
    run.system.until(lambda: time.monotonic() > end or not any(proxy.losses for proxy in proxies))
    for proxy in proxies:
        proxy.losses = []
    return f"{sum(proxy.cuts for proxy in proxies)} connections cut during COMMIT; {decided}"


def cut_off_host(run: Run, chance: random.Random) -> str:
    """Some of the workers hear nothing more of PostgreSQL, and it nothing of them; others take over."""
    run.system.until(run.system.is_shared_by_all)
    proxy = chance.choice(run.system.worker_proxies)
    cut_off = [part for part in run.system.living("worker") if run.system.is_behind(part, proxy)]
    others = len(run.system.living("worker")) - len(cut_off)
    proxy.freeze()
    since = time.monotonic()
    try:
        decided = run.must_decide(since, TAKEOVER_SECONDS, "by others") if others else "nobody is left"
        run.system.pause(max(0.0, since + chance.uniform(4, 8) - time.monotonic()))
    finally:
        proxy.thaw()
    seconds = time.monotonic() - since
    after = run.must_decide(time.monotonic(), TAKEOVER_SECONDS, "afterwards")
    return f"{len(cut_off)} workers cut off for {seconds:.0f} s; {decided}; {after}"


def drain_as_stranger(run: Run, chance: random.Random) -> str:
    """Somebody else drains all partitions beside their owners, as in a deploy: only the lock keeps them apart."""
    taken, over = 0, threading.Event()

    def drain() -> None:
        nonlocal taken
        url = run.system.environment["TELLER_WORKER_DATABASE_URL"]
        try:
            with connections.connect(url, application_name="stranger") as own:
                while not over.is_set():
                    for partition in busy:
                        taken += batch.drain_once(own, partition).taken
        except DatabaseUnavailable as fault:
            if NOT_ALONE in str(fault):
                run.problems.append(f"not_alone: a stranger drained, and {fault}")

    busy = chance.sample(range(PARTITIONS), PARTITIONS)
    strangers = [threading.Thread(target=drain, daemon=True) for _ in range(2)]
    for stranger in strangers:
        stranger.start()
    run.system.pause(STRANGER_SECONDS)
    over.set()
    run.system.until(lambda: not any(stranger.is_alive() for stranger in strangers))
    return f"strangers drained {taken} rows; {run.must_decide(None, SOON_SECONDS, 'afterwards')}"


def move_clock(run: Run, chance: random.Random) -> str:
    """The clock of one process is wrong, by minutes or hours."""
    kind = chance.choice(["api", "worker", "courier"])
    return move_clock_of(kind, chance.choice(CLOCK_SHIFTS), run, chance)


def move_clock_of(kind: str, shift: int, run: Run, chance: random.Random) -> str:
    """The clock of a process of this kind is wrong, by so many seconds."""
    part = chance.choice(run.system.living(kind))
    sound = part.arguments, part.environment
    _restart(run, part, [*MOVED_CLOCK, kind], {**part.environment, "CLOCK_SHIFT_SECONDS": str(shift)})
    decided = run.must_decide(time.monotonic(), RESTART_SECONDS, "meanwhile")
    run.system.pause(chance.uniform(1, 3))
    _restart(run, part, [*TELLER, kind], sound[1])
    after = run.must_decide(time.monotonic(), RESTART_SECONDS, "afterwards")
    return f"clock of the {kind} {shift:+d} s; {decided}; {after}"


def scale_workers(run: Run, chance: random.Random) -> str:
    """One worker, four, and one again; no partition waits."""
    system = run.system
    decided = []
    system.until(system.is_shared_by_all)
    began = run.now()
    for _ in range(len(system.living("worker")) - 1):
        system.living("worker")[-1].end()
        decided.append(run.must_decide(None, TAKEOVER_SECONDS, "by fewer"))
    while len(system.living("worker")) < 4:
        system.add_worker()
        decided.append(run.must_decide(None, TAKEOVER_SECONDS, "by more"))
    system.until(system.is_shared_by_all)
    while len(system.living("worker")) > 1:
        chance.choice(system.living("worker")).end()
        decided.append(run.must_decide(None, TAKEOVER_SECONDS, "by fewer"))
    system.add_worker()
    slowest = max(decided, key=lambda line: float(line.rpartition(" after ")[2].split()[0]))
    return f"workers 1 → 4 → 1; at the slowest {slowest}; {run.must_not_wait(began, TAKEOVER_SECONDS)}"


def cut_power(run: Run, chance: random.Random) -> str:
    """Everything is killed at the same moment."""
    system = run.system
    servers = [(server, _pid(run, server)) for server in (system.postgres, system.valkey)]
    for part in system.parts:
        if part.alive():
            os.kill(part.pid, signal.SIGKILL)
    for _, leader in servers:
        for pid in _with_children(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    since = time.monotonic()
    system.until(lambda: all(server.pid != before for server, before in servers))  # dead, or there again
    return f"everything killed; {run.must_decide(since, POWER_SECONDS, 'again')}"


def _worker_beside_others(run: Run, chance: random.Random) -> Part:
    """One of the workers, when all have begun: those that an earlier fault ended could not take over from it."""
    run.system.until(run.system.is_shared_by_all)
    return chance.choice(run.system.living("worker"))


def _restart(run: Run, part: Part, arguments: Sequence[str], environment: object) -> None:
    part.arguments, part.environment = arguments, environment  # type: ignore[assignment] # the same mapping, extended
    before = part.starts
    part.end(kill=True)
    part.wanted = True
    run.system.until(lambda: part.starts > before)


def _pid(run: Run, server: Postgres | Valkey) -> int:
    """Of a server that an earlier fault killed, when it is there again: all decided without it."""
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


#: All that can be done anywhere.
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
    drain_as_stranger,
    move_clock,
    scale_workers,
    cut_power,
)
