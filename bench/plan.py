"""
The sizes of each part: the long run of about a quarter of an hour, and the quick one of three minutes.

The quick run shows that everything works, and roughly where a figure lies. Only the long one is for
comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import PARTIAL

if TYPE_CHECKING:
    from pathlib import Path

#: The default seed of everything random.
SEED = 20_261_122


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes in requests, durations in seconds. Without `peers`, only Teller and PostgreSQL run."""

    name: str
    #: The folder of the report.
    place: Path = PARTIAL
    seed: int = SEED
    peers: bool = True
    #: Distributions of the requests' keys: `hot`, `uniform`, `zipf`.
    shapes: tuple[str, ...]
    #: Requests of Teller's drain in one process, its rounds, and transactions of pgbench for each number of
    #: clients.
    drain_requests: int
    drain_rounds: int
    pgbench_requests: int
    #: Approximate duration of a peer's work, by the rate that its file names.
    peer_seconds: float
    accept_seconds: float
    accept_rounds: int
    #: Requests sent by /v1/batches, from the first POST to the last decision.
    end_to_end_requests: int
    latency_rates: tuple[int, ...] = (10, 100, 500)
    latency_seconds: float
    peer_latency_seconds: float
    idle_partitions: tuple[int, ...] = (64, 256)
    idle_seconds: float
    #: Past requests of each stage in turn, requests drained at each, and seconds of accepting at each.
    past: tuple[int, ...]
    growth_requests: int
    growth_seconds: float
    backlog: int
    snapshot_seconds: float
    scale_requests: int
    scale_workers: tuple[int, ...] = (1, 2, 4)
    batch_sizes: tuple[int, ...] = (1, 10, 100, 500, 1_000, 2_000, 5_000)
    #: Time for which each batch size drains, at least one batch.
    batch_seconds: float
    deliveries: int
    gateway_calls: int
    #: Requests whose time is accounted for, at intake, drain and settle.
    where_requests: int
    #: Clients that send one request at a time: their numbers, the shapes, rounds, and seconds of each.
    one_clients: tuple[int, ...]
    one_shapes: tuple[str, ...]
    one_rounds: int
    one_seconds: float
    #: Requests a second, by Zipf, and seconds at each rate.
    scaling_rates: tuple[int, ...] = (50, 200, 400, 800)
    scaling_seconds: float
    #: Exchanges, and plain requests beside them; reservations that expire at one moment; coupon codes of an import.
    exchange_requests: int
    holds: int
    imported: int
    #: Another checkout of this repository, to be measured beside this one.
    beside: Path | None = None


FULL = Plan(
    name="full",
    shapes=("hot", "uniform", "zipf"),
    drain_requests=50_000,
    drain_rounds=2,
    pgbench_requests=9_600,
    peer_seconds=3,
    accept_seconds=4,
    accept_rounds=3,
    end_to_end_requests=60_000,
    latency_seconds=8,
    peer_latency_seconds=5,
    idle_seconds=15,
    past=(10_000, 1_000_000, 5_000_000),
    growth_requests=50_000,
    growth_seconds=4,
    backlog=1_000_000,
    snapshot_seconds=60,
    scale_requests=100_000,
    batch_seconds=2,
    deliveries=15_000,
    gateway_calls=8_000,
    where_requests=20_000,
    one_clients=(1, 32, 200),
    one_shapes=("hot", "64", "1,000", "zipf"),
    one_rounds=3,
    one_seconds=2,
    scaling_seconds=10,
    exchange_requests=20_000,
    holds=100_000,
    imported=1_000_000,
)
QUICK = Plan(
    name="quick",
    shapes=("hot",),
    drain_requests=20_000,
    drain_rounds=1,
    pgbench_requests=3_200,
    peer_seconds=1,
    accept_seconds=1.5,
    accept_rounds=1,
    end_to_end_requests=20_000,
    latency_rates=(100, 500),
    latency_seconds=2,
    peer_latency_seconds=1,
    idle_seconds=4,
    past=(10_000, 100_000),
    growth_requests=20_000,
    growth_seconds=1.5,
    backlog=100_000,
    snapshot_seconds=4,
    scale_requests=20_000,
    batch_sizes=(1, 100, 1_000, 5_000),
    batch_seconds=0.5,
    deliveries=3_000,
    gateway_calls=2_000,
    where_requests=8_000,
    one_clients=(32,),
    one_shapes=("hot", "64"),
    one_rounds=1,
    one_seconds=1.5,
    scaling_seconds=2,
    exchange_requests=4_000,
    holds=5_000,
    imported=20_000,
)
