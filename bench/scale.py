"""
Measures the gain of more workers, and the gain and cost of larger batches.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from bench import charts, fill, lab, system, work
from bench.report import Section, progress
from processor.batch import run as batch
from processor.storage import connections
from workers.collector import rest_collector

if TYPE_CHECKING:
    from bench.plan import Plan
    from teller.embedded.servers import Servers

#: Time for all requests to be decided, in seconds.
DRAIN_SECONDS = 180
#: The most requests that wait for one batch size. Small sizes need fewer.
WAITING = 40_000
HOT = "one hot resource"
SPREAD = "1,000 resources in 64 partitions"


def measure(plan: Plan, servers: Servers) -> Section:
    """Measure, check and report."""
    section = Section("scale", "6 · Scale: workers, and sizes of batches", plan.place)
    section.say(
        f"Worker processes of a whole Teller, with API and courier idle beside them. {plan.scale_requests:,} requests"
        " are committed at once. The clock runs from there to the last decision, with the wake-up of the workers"
        " included."
    )
    workers = {count: _workers(plan, count) for count in plan.scale_workers}
    section.table(
        ("worker processes", f"{HOT}, /s", f"{SPREAD}, /s"),
        [(str(count), *rates) for count, rates in workers.items()],
    )
    section.say(
        "One loop as a worker runs it, over one connection. A request that finds a queue of this length waits at"
        " least for the time of one batch."
    )
    rest_collector()
    sizes = {size: _sizes(plan, servers, size) for size in plan.batch_sizes}
    section.table(
        ("rows in a batch", "decided/s", "one batch, median ms", "one batch, p99 ms"),
        [(f"{size:,}", *found) for size, found in sizes.items()],
    )
    section.figures = {"workers": workers, "batch_sizes": sizes}
    section.chart(
        "batch-sizes",
        "Line chart: requests decided a second, by the rows of a batch",
        charts.lines(
            "Decided a second, by the size of a batch",
            "One hot resource, one worker's loop; rows of a batch",
            [charts.Line("decided a second", [(float(size), found[0]) for size, found in sizes.items()])],
            log_x=True,
        ),
    )
    section.chart(
        "batch-latency",
        "Line chart: milliseconds of one batch, by its rows",
        charts.lines(
            "Milliseconds of one batch, by its size",
            "One hot resource, one worker's loop; rows of a batch",
            [
                charts.Line("median", [(float(size), found[1]) for size, found in sizes.items()]),
                charts.Line("p99", [(float(size), found[2]) for size, found in sizes.items()]),
            ],
            log_x=True,
        ),
    )
    return section


def _workers(plan: Plan, count: int) -> tuple[float, float]:
    """Return requests decided a second with `count` workers: for one hot resource, and for a thousand."""
    with system.up(TELLER_WORKERS=str(count)) as teller, teller.connect() as connection:
        fill.open_resources(connection, range(1, work.RESOURCES + 1), lab.PARTITIONS)
        rates = []
        for shape in ("hot", "uniform"):
            keys = work.keys(shape, plan.scale_requests, plan.seed)
            before = system.decided(connection)
            fill.inbox(connection, keys, lab.PARTITIONS)
            began = time.perf_counter()
            teller.ring({fill.partition(key, lab.PARTITIONS) for key in set(keys)})
            ended = system.await_decided(connection, before + len(keys), DRAIN_SECONDS)
            rates.append(len(keys) / (ended - began))
            progress(f"{count} worker(s), {work.SHAPES[shape]}: {rates[-1]:,.0f}/s")
        [(entries, taken)] = connection.execute(
            "SELECT (SELECT count(*) FROM entries), (SELECT sum(1000000000 - available) FROM resources)"
        ).fetchall()
        assert entries == taken == 2 * plan.scale_requests, "something was lost or doubled"
    return rates[0], rates[1]


def _sizes(plan: Plan, servers: Servers, size: int) -> tuple[float, float, float]:
    """
    Return requests decided a second by batches of at most `size` rows, and the median and p99 of a batch in
    ms.
    """
    took: list[float] = []
    decided = 0
    waiting = min(WAITING, size * 2_000)
    with (
        lab.fresh_database(servers, "bench_sizes") as settings,
        lab.connect(settings.database_url) as owner,
        connections.connect(settings.worker_database_url, application_name="bench") as worker,
    ):
        fill.open_resources(owner, [1], lab.PARTITIONS)
        fill.inbox(owner, [1] * waiting, lab.PARTITIONS)
        owner.execute("VACUUM ANALYZE")
        partition = fill.partition(1, lab.PARTITIONS)
        elapsed = 0.0
        while elapsed < plan.batch_seconds and decided < waiting:
            began = time.perf_counter()
            decided += batch.drain_once(worker, [partition], limit=size).taken
            took.append(time.perf_counter() - began)
            elapsed += took[-1]
        [(entries,)] = owner.execute("SELECT count(*) FROM entries").fetchall()
        assert entries == decided, "something was lost or doubled"
    milliseconds = [one * 1_000 for one in took]
    late = statistics.quantiles(milliseconds, n=100)[98] if len(took) > 1 else milliseconds[0]
    rate, middle = decided / elapsed, statistics.median(milliseconds)
    progress(f"batches of {size:,}: {rate:,.0f}/s, {middle:.1f} ms each")
    return rate, middle, late
