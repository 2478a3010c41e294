"""
Measures batches in which PostgreSQL refuses some of the rows.

    python -m bench.refused [--rows 930] [--refused 0,1,30] [--rounds 5]

One worker's loop decides the waiting requests of three resources. A constraint of the measured database refuses the
entries of some accounts, spread evenly. The table has the time until the inbox is empty, and the runs of rows that
were tried, each in a savepoint.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench import fill, lab
from processor.batch import run as batch
from processor.batch import store
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processor.storage.connections import Connection

RESOURCES = (1, 2, 3)


def measure(owner: Connection, worker: Connection, rows: int, refused: int) -> tuple[float, int]:
    """
    Let `rows` requests wait, of which PostgreSQL refuses `refused`, and drain them.

    Returns the seconds, and the number of runs that were tried. Checks that only the refused ones failed.
    """
    accounts = [f"u{1 + place * rows // refused}" for place in range(refused)]
    _refuse(owner, accounts)
    fill.inbox(owner, [RESOURCES[number % len(RESOURCES)] for number in range(rows)], lab.PARTITIONS)
    owner.execute("VACUUM ANALYZE")
    owner.execute("CHECKPOINT")
    partitions = sorted({fill.partition(key, lab.PARTITIONS) for key in RESOURCES})
    taken = failed = 0
    with patch.object(store, "read", wraps=store.read) as tried:
        began = time.perf_counter()
        while taken < rows:
            report = batch.drain_once(worker, partitions)
            taken, failed = taken + report.taken, failed + report.failed
        seconds = time.perf_counter() - began
    assert (taken, failed) == (rows, refused), "a good request failed, or a refused one did not"
    return seconds, tried.call_count


def _refuse(owner: Connection, accounts: Sequence[str]) -> None:
    """Let PostgreSQL refuse new entries of these accounts, and of no others."""
    owner.execute("ALTER TABLE entries DROP CONSTRAINT IF EXISTS bench_refused")
    if accounts:
        names = ", ".join(f"'{account}'" for account in accounts)
        owner.execute(
            f"ALTER TABLE entries ADD CONSTRAINT bench_refused CHECK (account NOT IN ({names})) NOT VALID".encode()
        )


def main() -> None:
    """Start a PostgreSQL, and print a row of the table for each number of refused rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.refused", description=__doc__)
    parser.add_argument("--rows", type=int, default=930)
    parser.add_argument(
        "--refused", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 30]
    )
    parser.add_argument("--rounds", type=int, default=5)
    asked: Any = parser.parse_args()
    lab.forget_environment()
    found: dict[int, list[tuple[float, int]]] = {refused: [] for refused in asked.refused}
    with (
        lab.servers() as servers,
        lab.fresh_database(servers, "bench_refused") as settings,
        connections.connect(settings.database_url, application_name="bench") as owner,
        connections.connect(settings.worker_database_url, application_name="bench") as worker,
    ):
        fill.open_resources(owner, RESOURCES, lab.PARTITIONS)
        measure(owner, worker, asked.rows, 0)  # the first batch prepares its statements
        for _ in range(asked.rounds):
            for refused in asked.refused:
                found[refused].append(measure(owner, worker, asked.rows, refused))
    print(f"| refused of {asked.rows} | median | longest | runs tried |")
    print("|---|---|---|---|")
    for refused, rounds in found.items():
        times = [seconds * 1_000 for seconds, _ in rounds]
        runs = max(tried for _, tried in rounds)
        print(f"| {refused} | {statistics.median(times):.0f} ms | {max(times):.0f} ms | {runs} |")


if __name__ == "__main__":
    main()
