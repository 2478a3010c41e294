"""
Measures whether Teller stays fast: with millions of past requests, a backlog of a million, and an open
snapshot.

One Teller runs with one worker. Between the stages the server fills the database, as batches would have left
it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import charts, fill, lab, load, processes, system
from bench.report import Section, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.plan import Plan
    from bench.system import Teller
    from processor.storage.connections import Connection

#: Resources that the past is spread over. The first is the hot one, which is drained.
RESOURCES = 100
HOT = 1
CONNECTIONS = 32
#: Disk space needed for a past request, with its log and temporary files, in bytes.
ROOM_BYTES = 3_000
DRAIN_SECONDS = 300
#: Rounds of a stage, of which the better counts.
ROUNDS = 2
#: The limit of rounds when checkpoints disturb them.
ROUNDS_MAX = 5
#: The share of the past that is inserted after the checkpoint, as a divisor.
LAST_PART = 20
#: Distance between the numbers of successive accounts. It shares no factor with their count.
ACCOUNT_STEP = 61_803
_TABLES = ("requests", "decisions", "entries")


@dataclass(frozen=True)
class Stage:
    """One stage: requests that one API process accepts and one worker decides a second, and the worker's memory."""

    name: str
    accepted: float
    drained: float
    worker_mib: float


def measure(plan: Plan) -> Section:
    """Measure, check and report."""
    section = Section("growth", "5 · Growth: a long past, a long queue, a long snapshot", plan.place)
    section.say(
        f"One worker, one API process. Accept: {CONNECTIONS} connections for {plan.growth_seconds:g} s. Drain:"
        f" {plan.growth_requests:,} requests of one hot resource by the worker process, from their commit to the last"
        f" decision. The better of {ROUNDS} rounds each."
    )
    with system.up(TELLER_WORKERS="1") as teller, teller.connect() as connection:
        teller.open(*(fill.name(key) for key in range(1, RESOURCES + 1)))
        partition = teller.ask("GET", f"/v1/resources/{fill.name(HOT)}")["partition"]
        run = _Run(plan, teller, connection, partition)
        stages = []
        for past in plan.past:
            if not _has_room(past, section):
                break
            run.grow_to(past)
            stages.append(run.stage(f"{past:,} past requests"))
        after_checkpoint = run.accept_after_checkpoint()
        sizes = _bytes(connection)
        backlog = run.backlog()
        snapshot = run.snapshot()
    section.figures = {
        "stages": [stage.__dict__ for stage in stages],
        "bytes": sizes,
        "backlog": backlog.__dict__,
        "snapshot": snapshot,
        "log_bytes": run.log_bytes,
        "after_checkpoint": after_checkpoint,
    }
    _report(section, stages, backlog, snapshot, sizes, run, after_checkpoint)
    return section


class _Run:
    """One Teller whose database grows from stage to stage."""

    def __init__(self, plan: Plan, teller: Teller, connection: Connection, partition: int) -> None:
        self._plan = plan
        self._teller = teller
        self._connection = connection
        self._partition = partition
        self._numbers = itertools.count()
        #: The most memory that the worker had, in MiB.
        self.worker_mib = 0.0
        #: Bytes of log for each request: accepted one at a time, and decided.
        self.log_bytes: dict[str, float] = {}

    def grow_to(self, past: int) -> None:
        """
        Fill up to `past` decided requests.

        The last part is inserted after the clean-up and a checkpoint, because a stage shows the time between
        two checkpoints. The first change of a page after a checkpoint is logged whole.
        """
        missing = past - system.decided(self._connection)
        if missing <= 0:
            return
        last = missing // LAST_PART
        self._fill(missing - last)
        for table in (*_TABLES, "inbox", "resources", "partitions"):
            self._connection.execute(f"VACUUM ANALYZE {table}")
        self._connection.execute("CHECKPOINT")
        self._fill(last)

    def accept_after_checkpoint(self) -> float:
        """Return requests accepted a second right after a checkpoint."""
        self._connection.execute("CHECKPOINT")
        rate = self._accept()
        progress(f"right after a checkpoint: accepts {rate:,.0f}/s")
        return rate

    def _fill(self, count: int) -> None:
        fill.past(self._teller.settings.database_url, count, range(1, RESOURCES + 1), lab.PARTITIONS)

    def stage(self, name: str) -> Stage:
        """Measure accepting and draining in the present state."""
        accepted = self._between_checkpoints(self._accept)
        drained = self._between_checkpoints(lambda: self._drain(self._plan.growth_requests))
        stage = Stage(name, accepted, drained, self._memory())
        progress(
            f"{name}: accepts {accepted:,.0f}/s, drains {drained:,.0f}/s, worker {stage.worker_mib:.0f} MiB"
        )
        return stage

    def _between_checkpoints(self, measure: Callable[[], float]) -> float:
        """
        Return the best of ROUNDS rounds during which no checkpoint began, or of any rounds if ROUNDS_MAX are
        not enough.
        """
        rates: list[float] = []
        for left in reversed(range(ROUNDS_MAX)):
            before = self._checkpoints()
            rate = measure()
            if self._checkpoints() == before or left < ROUNDS - len(rates):
                rates.append(rate)
            else:
                progress("a checkpoint began meanwhile: once more")
            if len(rates) == ROUNDS:
                break
        return max(rates)

    def _checkpoints(self) -> int:
        """Return the number of checkpoints begun so far."""
        [(count,)] = self._connection.execute(
            "SELECT num_timed + num_requested FROM pg_stat_checkpointer"
        ).fetchall()
        return int(count)

    def backlog(self) -> Stage:
        """Accept behind a long queue of the same partition, then drain all of it."""
        count = self._plan.backlog
        self._teller.pause(self._partition)
        fill.inbox(self._connection, [HOT] * count, lab.PARTITIONS)
        self._connection.execute("VACUUM ANALYZE inbox")
        progress(f"{count:,} wait")
        before = system.decided(self._connection)
        waiting = self._waiting()
        accepted = max(self._accept(decides=False) for _ in range(ROUNDS))
        more = self._waiting() - waiting
        began = time.perf_counter()
        self._teller.resume(self._partition)
        ended = system.await_decided(self._connection, before + count + more, DRAIN_SECONDS)
        stage = Stage(f"a backlog of {count:,}", accepted, (count + more) / (ended - began), self._memory())
        progress(f"{stage.name}: accepts {accepted:,.0f}/s, drains {stage.drained:,.0f}/s")
        return stage

    def snapshot(self) -> dict[str, Any]:
        """Drain repeatedly while a snapshot is held, so that no dead row can be removed."""
        rates: list[tuple[float, float]] = []
        with lab.connect(self._teller.settings.database_url) as holder, contextlib.ExitStack() as held:
            holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            held.callback(holder.execute, "ROLLBACK")
            holder.execute("SELECT count(*) FROM resources")
            began = time.monotonic()
            while not rates or time.monotonic() - began < self._plan.snapshot_seconds:
                rate = self._drain(self._plan.growth_requests)
                rates.append((time.monotonic() - began, rate))
                progress(f"a snapshot held for {rates[-1][0]:.0f} s: drains {rate:,.0f}/s")
            accepted = self._accept()
        return {
            "seconds": self._plan.snapshot_seconds,
            "drained": rates,
            "accepted": accepted,
            "dead": self._plan.growth_requests * len(rates),
        }

    def _accept(self, *, decides: bool = True) -> float:
        """
        Return requests accepted a second, one at a time, for the hot resource, while its partition is paused.
        """
        self._teller.pause(self._partition)
        before, log = system.decided(self._connection), self._log()
        answers = load.closed(self._teller.url, self._requests(), CONNECTIONS, self._plan.growth_seconds)
        assert set(answers.statuses) == {202}, answers.statuses
        self.log_bytes["accept"] = (self._log() - log) / answers.count_all
        if decides:
            self._teller.resume(self._partition)
            system.await_decided(self._connection, before + answers.count_all, DRAIN_SECONDS)
        return answers.rate

    def _drain(self, count: int) -> float:
        """Return requests decided a second, from the moment when all of them wait."""
        before = system.decided(self._connection)
        self._teller.pause(self._partition)
        fill.inbox(self._connection, [HOT] * count, lab.PARTITIONS)
        log = self._log()
        began = time.perf_counter()
        self._teller.resume(self._partition)
        ended = system.await_decided(self._connection, before + count, DRAIN_SECONDS)
        self.log_bytes["drain"] = (self._log() - log) / count
        return count / (ended - began)

    def _requests(self) -> Any:
        for number in self._numbers:
            account = f"u{number * ACCOUNT_STEP % fill.ACCOUNTS}"  # in no order
            body = json.dumps({"resource": fill.name(HOT), "account": account}).encode()
            yield load.post("/v1/redemptions", self._teller.host, self._teller.client_key, body)

    def _waiting(self) -> int:
        [(count,)] = self._connection.execute("SELECT count(*) FROM inbox").fetchall()
        return int(count)

    def _log(self) -> int:
        [(position,)] = self._connection.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
        ).fetchall()
        return int(position)

    def _memory(self) -> float:
        seen = processes.tree(self._teller.pid, memory=True).values()
        now = max(one.mib for one in seen if processes.part_of(one) == "worker")
        self.worker_mib = max(self.worker_mib, now)
        return now


def _has_room(past: int, section: Section) -> bool:
    free = shutil.disk_usage(lab.ROOM).free
    if free < past * ROOM_BYTES:
        section.say(
            f"No figures with {past:,} past requests: {free / 2**30:.0f} GiB free are too few for them."
        )
        return False
    return True


def _bytes(connection: Connection) -> dict[str, float]:
    """Return bytes on the disk for each decided request, by table, indexes included."""
    [(count,)] = connection.execute("SELECT count(*) FROM requests").fetchall()
    sizes = {}
    for table in _TABLES:
        [(size,)] = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchall()
        sizes[table] = size / count
    return sizes


def _report(
    section: Section,
    stages: list[Stage],
    backlog: Stage,
    snapshot: dict[str, Any],
    sizes: dict[str, float],
    run: _Run,
    after_checkpoint: float,
) -> None:
    first = stages[0]
    times, drained = zip(*snapshot["drained"], strict=True)
    last = sum(drained[-3:]) / len(drained[-3:])
    name = f"a snapshot held for {times[-1]:.0f} s, {snapshot['dead']:,} dead inbox rows"
    held = Stage(name, snapshot["accepted"], last, run.worker_mib)
    everything = [*stages, backlog, held]
    section.table(
        ("with", "accepted/s", "share of the first", "drained/s", "share of the first", "worker, MiB"),
        [
            (
                stage.name,
                stage.accepted,
                f"{stage.accepted / first.accepted:.0%}",
                stage.drained,
                f"{stage.drained / first.drained:.0%}",
                stage.worker_mib,
            )
            for stage in everything
        ],
    )
    total = sum(sizes.values())
    section.say(
        f"On the disk a decided request takes {total:,.0f} bytes, indexes included: "
        + ", ".join(f"{table} {size:,.0f}" for table, size in sizes.items())
        + ". The log (WAL) gets "
        + ", ".join(f"{size:,.0f} bytes for each at its {step}" for step, size in run.log_bytes.items())
        + "."
    )
    section.say(
        "Accepted in the first seconds after a checkpoint, when the first change of each page is logged whole, with"
        f" the longest past: {after_checkpoint:,.0f}/s. PostgreSQL makes one every five minutes, or after about half"
        " a gigabyte of log; the stages lie between two."
    )
    section.chart(
        "snapshot",
        "Line chart: requests drained a second while a snapshot is held open",
        charts.lines(
            "Drained a second while a snapshot is held",
            "Seconds since it was taken; dead inbox rows cannot be removed meanwhile",
            [charts.Line("one hot resource, one worker", list(snapshot["drained"]))],
        ),
    )
    for stage, share in [*((stage, 0.85) for stage in (*stages[1:], backlog)), (held, 0.7)]:
        for step, now, then in (
            ("accept", stage.accepted, first.accepted),
            ("drain", stage.drained, first.drained),
        ):
            section.aim(
                f"{step} with {stage.name}",
                f"{share:.0%} of that with {first.name}",
                f"{now / then:.0%}",
                met=now >= share * then,
                note="keys and accounts come in no order, so each new one touches another page of their indexes. It"
                " would take more memory for pages, or fewer indexes",
            )
    section.aim("memory of a worker", "200 MiB", f"{run.worker_mib:.0f} MiB", met=run.worker_mib < 200)
