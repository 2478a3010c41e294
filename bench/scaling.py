"""
Measures the cost of each request by process, and holds a simulation of the workers against the measured waits.

`bench.queueing` then predicts the waits of larger systems. docs/scaling.md is written from these tables.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from bench import fill, lab, load, processes, queueing, system, work
from bench.report import Section, progress

if TYPE_CHECKING:
    from pathlib import Path

    from bench.plan import Plan
    from bench.queueing import Durations, Waits
    from bench.system import Teller
    from processor.storage.connections import Connection

WORKERS = 2
#: More connections than are ever busy at once.
CONNECTIONS = 64
EXPONENT = 1.0
#: Requests that wait at once, for the duration of large batches.
BACKLOG = 40_000
DECIDED_SECONDS = 60
#: The systems of the prediction: requests a second, resources, partitions and workers.
PREDICTED = (
    (1_000, 1_000, 64, 1),
    (1_000, 1_000, 64, 2),
    (10_000, 1_000, 64, 2),
    (10_000, 10_000, 64, 4),
    (10_000, 10_000, 256, 4),
    (100_000, 10_000, 256, 4),
    (100_000, 100_000, 256, 8),
    (100_000, 100_000, 256, 16),
)
PREDICTED_SECONDS = 2.0
#: The share of its time from which on a worker has too much to do.
FULL = 0.97
MICROS = 1_000_000

_WAITS = """
SELECT extract(epoch FROM d.decided_at - r.created_at)::float8 * 1000
  FROM requests r
  JOIN decisions d ON d.request_id = r.id AND d.current
 WHERE r.kind = 'redemption' AND r.created_at >= %s
"""


def measure(plan: Plan) -> Section:
    """Measure, simulate and report."""
    section = Section("scaling", "10 · Scaling: the cost of a request, and waits by rate", plan.place)
    section.say(
        f"{work.RESOURCES:,} resources by Zipf (exponent {EXPONENT:g}), {WORKERS} workers,"
        f" {plan.scaling_seconds:g} s at each rate. The client sends at even intervals, with `Prefer: wait`."
        " It shares the cores with all processes."
    )
    runs: dict[int, dict[str, Any]] = {}
    with system.up(TELLER_WORKERS=str(WORKERS)) as teller, teller.connect() as connection:
        fill.open_resources(connection, range(1, work.RESOURCES + 1), lab.PARTITIONS)
        log = teller.home / "up.log"
        for rate in plan.scaling_rates:
            runs[rate] = _run(plan, teller, connection, rate, log)
        large = _backlog(plan, teller, connection, log)
    first = runs[plan.scaling_rates[0]]
    durations = _durations(
        [*itertools.chain(*(run["batches"] for run in runs.values())), *large], first["waits"]
    )
    section.say("**The cost of a request.** Microseconds of CPU by process, and bytes of the log.")
    parts = sorted({part for run in runs.values() for part in run["micros"]})
    section.table(
        ("rate", *parts, "log bytes"),
        [
            (f"{rate:,}/s", *(run["micros"].get(part, 0.0) for part in parts), run["log"])
            for rate, run in runs.items()
        ],
    )
    section.say("**The duration of a batch**, by its rows.")
    section.table(("rows", "ms"), [(f"{rows:,.0f}", took * 1_000) for rows, took in durations.points])
    _hold_against(section, plan, runs, durations)
    _predict(section, plan, durations)
    section.figures = {
        "points": durations.points,
        "wake_up": durations.wake_up,
        "runs": {rate: {"micros": run["micros"], "log": run["log"]} for rate, run in runs.items()},
    }
    return section


def _run(plan: Plan, teller: Teller, connection: Connection, rate: int, log: Path) -> dict[str, Any]:
    """Send requests at one rate. Returns the waits in ms, the batches, and the costs."""
    template = load.Template("/v1/redemptions", teller.host, teller.client_key, "Prefer: wait=10")
    count = int(rate * plan.scaling_seconds)
    drawn = random.Random(f"{plan.seed}/{rate}")
    weights = list(itertools.accumulate(rank**-EXPONENT for rank in range(1, work.RESOURCES + 1)))
    keys = iter(drawn.choices(range(1, work.RESOURCES + 1), cum_weights=weights, k=count))
    accounts = itertools.count()

    def redemption() -> bytes:
        body = f'{{"resource":"{fill.name(next(keys))}","account":"u{next(accounts)}"}}'
        return template.post(body.encode())

    [(began,)] = connection.execute("SELECT clock_timestamp()").fetchall()
    size, before = log.stat().st_size, _cpu(teller)
    answers = load.paced(teller.url, redemption, rate, plan.scaling_seconds, CONNECTIONS)
    cpu = {part: used - before.get(part, 0.0) for part, used in _cpu(teller).items()}
    assert set(answers.statuses) <= {200, 202}, answers.statuses
    waits = [ms for (ms,) in connection.execute(_WAITS, (began,)).fetchall()]
    progress(
        f"{rate:,}/s: answered at {answers.rate:,.0f}/s, median {answers.quantile(0.5):.1f} ms,"
        f" p99 {answers.quantile(0.99):.1f} ms"
    )
    return {
        "waits": waits,
        "answered": answers,
        "batches": _batches(log, size),
        "micros": {part: used / count * MICROS for part, used in cpu.items()},
        "log": (log.stat().st_size - size) / count,
    }


def _backlog(plan: Plan, teller: Teller, connection: Connection, log: Path) -> list[tuple[int, float]]:
    """Let requests wait, and return the batches that decide them."""
    size, before = log.stat().st_size, system.decided(connection)
    keys = work.keys("zipf", BACKLOG, plan.seed)
    fill.inbox(connection, keys, lab.PARTITIONS)
    teller.ring(range(lab.PARTITIONS))
    system.await_decided(connection, before + len(keys), DECIDED_SECONDS)
    time.sleep(0.2)  # the last lines of the log
    return _batches(log, size)


def _batches(log: Path, offset: int) -> list[tuple[int, float]]:
    """Return rows and seconds of each batch in the log beyond an offset."""
    found = []
    with log.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if b'"batch_applied"' in line:
                entry = json.loads(line)
                if entry["taken"]:
                    found.append((entry["taken"], entry["duration_ms"] / 1_000))
    return found


def _durations(batches: list[tuple[int, float]], waits: list[float]) -> Durations:
    """Return the median duration by number of rows, in classes that double. The wake-up is the median quiet wait."""
    classes: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for rows, took in batches:
        classes[rows.bit_length()].append((rows, took))
    points = [
        (statistics.mean(rows for rows, _ in ones), statistics.median(took for _, took in ones))
        for _, ones in sorted(classes.items())
    ]
    return queueing.Durations(tuple(points), statistics.median(waits) / 1_000)


def _hold_against(
    section: Section, plan: Plan, runs: dict[int, dict[str, Any]], durations: Durations
) -> None:
    section.say(
        "**Simulated and measured.** Milliseconds from the acceptance to the batch that takes a request. The"
        " simulation's wake-up is the measured median of the first rate; all else is predicted."
    )
    rows = []
    for rate, run in runs.items():
        requests = queueing.arrivals(
            rate, plan.scaling_seconds, work.RESOURCES, EXPONENT, lab.PARTITIONS, plan.seed, even=True
        )
        simulated = queueing.simulate(requests, lab.PARTITIONS, WORKERS, durations)
        taken = [rows for rows, _ in run["batches"]]
        rows.append(
            (
                f"{rate:,}/s",
                *_quantiles([one * 1_000 for one in simulated.until_taken]),
                *_quantiles(run["waits"]),
                simulated.rows,
                statistics.mean(taken),
                f"{max(simulated.busy):.0%}",
            )
        )
    section.table(
        (
            "rate",
            "simulated median",
            "p99",
            "measured median",
            "p99",
            "simulated rows in a batch",
            "measured rows",
            "busiest worker",
        ),
        rows,
    )


def _predict(section: Section, plan: Plan, durations: Durations) -> None:
    section.say(
        "**Predicted for larger systems**, by Zipf. Milliseconds from the acceptance to the end of the batch, with a"
        " core for each worker, and PostgreSQL as fast as here. Where the busiest worker has too much, waits grow"
        " without end."
    )
    rows = []
    for rate, resources, partitions, workers in PREDICTED:
        requests = queueing.arrivals(rate, PREDICTED_SECONDS, resources, EXPONENT, partitions, plan.seed)
        found: Waits = queueing.simulate(requests, partitions, workers, durations)
        rows.append(
            (
                f"{rate:,}/s",
                f"{resources:,}",
                str(partitions),
                str(workers),
                *(
                    _quantiles([one * 1_000 for one in found.until_decided])
                    if max(found.busy) < FULL
                    else ("", "")
                ),
                found.rows,
                f"{max(found.busy):.0%}",
            )
        )
    section.table(
        ("rate", "resources", "partitions", "workers", "median", "p99", "rows in a batch", "busiest worker"),
        rows,
    )


def _quantiles(found: list[float]) -> tuple[float, float]:
    """Return the median and the p99."""
    ordered = sorted(found)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _cpu(teller: Teller) -> dict[str, float]:
    """Return the CPU of its processes by part, in seconds."""
    used: dict[str, float] = defaultdict(float)
    for seen in processes.tree(teller.pid).values():
        used[processes.part_of(seen)] += seen.user + seen.system
    return dict(used)
