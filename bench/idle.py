"""
Measures the CPU and memory of all of Teller's processes while no request comes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench import processes, system
from bench.report import Section, progress

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.processes import Cost

#: Time for the work of the start to end before the clock starts, in seconds.
SETTLE_SECONDS = 4
SERVERS = ("PostgreSQL", "Valkey")
#: The target for everything but PostgreSQL and Valkey, as a share of one core.
SHARE_TARGET = 0.02


def measure(plan: Plan) -> Section:
    """Measure and report."""
    section = Section("idle", "4 · Idle: the cost without requests", plan.place)
    section.say(
        f"`teller up` with two workers, over {plan.idle_seconds:g} s. Memory: shared pages divided (PSS)."
    )
    found: dict[int, dict[str, Cost]] = {}
    for partitions in plan.idle_partitions:
        with system.up(TELLER_WORKERS="2", TELLER_PARTITIONS=str(partitions)) as teller:
            time.sleep(SETTLE_SECONDS)
            found[partitions] = processes.cost(teller.pid, plan.idle_seconds)
        progress(f"{partitions} partitions: {own_share(found[partitions]):.2%} of a core")
    section.figures = {
        "parts": {
            count: {part: (cost.share, cost.mib) for part, cost in costs.items()}
            for count, costs in found.items()
        }
    }
    rows: list[list[object]] = []
    parts = sorted(
        {part for costs in found.values() for part in costs}, key=lambda part: (part in SERVERS, part)
    )
    for part in parts:
        row: list[object] = [part]
        for costs in found.values():
            cost = costs.get(part)
            row += ["", ""] if cost is None else [f"{cost.share:.2%}", cost.mib]
        rows.append(row)
    for title, counted in (("**all but PostgreSQL and Valkey**", False), ("**with them**", True)):
        row = [title]
        for costs in found.values():
            chosen = [cost for part, cost in costs.items() if counted or part not in SERVERS]
            row += [f"**{sum(cost.share for cost in chosen):.2%}**", sum(cost.mib for cost in chosen)]
        rows.append(row)
    header = ["processes"]
    for partitions in found:
        header += [f"{partitions} partitions: of a core", "MiB"]
    section.table(header, rows)
    _aim(section, found)
    return section


def own_share(costs: dict[str, Cost]) -> float:
    """Return the share of a core that everything but PostgreSQL and Valkey takes."""
    return sum(cost.share for part, cost in costs.items() if part not in SERVERS)


def _aim(section: Section, found: dict[int, dict[str, Cost]]) -> None:
    shares = {partitions: own_share(costs) for partitions, costs in found.items()}
    note = "a heartbeat and a search for lost work each second, in each worker; on a busy machine each costs more"
    if 64 in shares:
        section.aim(
            "idle, 64 partitions",
            "2 % of a core",
            f"{shares[64]:.2%}",
            met=shares[64] <= SHARE_TARGET,
            note=note,
        )
    if 64 in shares and 256 in shares:
        section.aim(
            "idle, 256 partitions, against 64",
            "twice",
            f"{shares[256] / shares[64]:.1f} times ({shares[256]:.2%})",
            met=shares[256] <= 2 * shares[64],
            note=note,
        )
