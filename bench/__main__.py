"""
Measures every part in turn and writes one report.

    python -m bench [--quick] [--only drain,accept] [--no-peers] [--past 10000,1000000] [--seed N]

Whole, full runs are kept in bench/results, quick and partial ones in bench/results/partial. Ctrl-C stops the
run within some seconds. It leaves no process and no server behind, and writes the results so far.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import (
    accept,
    courier,
    drain,
    growth,
    idle,
    lab,
    latency,
    one_by_one,
    plan,
    report,
    scale,
    scaling,
    several,
    where,
)
from bench.peers import install
from bench.peers.install import Installed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from bench.plan import Plan
    from bench.report import Section

PARTS = (
    "drain",
    "accept",
    "latency",
    "idle",
    "growth",
    "scale",
    "courier",
    "where",
    "one_by_one",
    "scaling",
    "several",
)
#: Parts that compare with the job queues.
WITH_PEERS = ("drain", "latency")
#: Parts that need servers beside a whole Teller, or instead of one.
WITH_SERVERS = ("drain", "latency", "scale", "courier")

#: Parts that start what they measure.
WITHOUT_SERVERS: Final[dict[str, Callable[[Plan], Section]]] = {
    "idle": idle.measure,
    "growth": growth.measure,
    "where": where.measure,
    "one_by_one": one_by_one.measure,
    "scaling": scaling.measure,
    "several": several.measure,
}


def main() -> int:
    """Run the chosen parts. Returns 0 if all of them finished."""
    asked = _asked()
    lab.forget_environment()
    chosen = _plan(asked)
    parts = [part for part in PARTS if asked.only is None or part in asked.only]
    _stop_on_signals()
    sections: list[Section] = []
    machine: dict[str, Any] = {}
    try:
        with_peers = chosen.peers and bool(set(parts) & set(WITH_PEERS))
        installed = install.install() if with_peers else Installed()
        for kind, why in installed.missing.items():
            print(f"The {kind} peers cannot be installed: {why}.", flush=True)
        with lab.servers() as servers:
            machine = lab.machine(servers) | {"run": chosen.name, "seed": chosen.seed}
        for number, part in enumerate(parts, start=1):
            print(f"\n== {number} of {len(parts)}: {part}", flush=True)
            section = _guarded(part, lambda: _measure(part, chosen, installed, sections))  # noqa: B023
            if section is not None:
                sections.append(section)
            _write(chosen, sections, machine, parts)
    except KeyboardInterrupt:
        print("\nstopped; the results so far are kept", flush=True)
        _write(chosen, sections, machine, parts)
        return 130
    path = _write(chosen, sections, machine, parts)
    missed = [target for section in sections for target in section.targets if not target.met]
    print(f"\nall of it: {path}; targets missed: {len(missed)}", flush=True)
    return 0 if len(sections) == len(parts) else 1


def _measure(part: str, chosen: Plan, installed: Installed, sections: list[Section]) -> Section:
    if part in WITH_SERVERS:
        with lab.servers() as servers:
            match part:
                case "drain":
                    return drain.measure(chosen, servers, installed)
                case "latency":
                    return latency.measure(chosen, servers, installed)
                case "scale":
                    return scale.measure(chosen, servers)
                case _:
                    return courier.measure(chosen, servers)
    if part == "accept":
        hot = [one.figures["rates"]["hot"][drain.TELLER][0] for one in sections if one.name == "drain"]
        return accept.measure(chosen, *hot)
    return WITHOUT_SERVERS[part](chosen)


def _guarded(part: str, measure: Callable[[], Section]) -> Section | None:
    """Measure one part. Returns None if it fails, after printing why; the other parts still run."""
    try:
        return measure()
    except Exception:  # noqa: BLE001 - any fault is printed, and the exit status shows it
        traceback.print_exc()
        print(f"{part} has no result", flush=True)
        return None


def _write(chosen: Plan, sections: list[Section], machine: dict[str, Any], parts: list[str]) -> Path:
    done = {section.name for section in sections}
    unfinished = [part for part in parts if part not in done]
    return report.write(chosen.place, sections, machine, unfinished=unfinished)


def _asked() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Teller and its alternatives."
    )
    arguments.add_argument(
        "--quick", action="store_true", help="three minutes, to check that everything works"
    )
    arguments.add_argument(
        "--only", type=lambda text: text.split(","), help=f"only these of {','.join(PARTS)}"
    )
    arguments.add_argument("--no-peers", action="store_true", help="Teller and PostgreSQL alone")
    arguments.add_argument("--past", type=_whole_numbers, help="past requests, one stage after the other")
    arguments.add_argument("--backlog", type=int, help="requests that wait at once")
    arguments.add_argument("--requests", type=int, help="requests that are drained")
    arguments.add_argument("--exchanges", type=int, help="exchanges and plain requests beside them")
    arguments.add_argument("--holds", type=int, help="reservations that expire at one moment")
    arguments.add_argument("--imported", type=int, help="coupon codes of an import")
    arguments.add_argument("--clients", type=_whole_numbers, help="clients that send one request at a time")
    arguments.add_argument(
        "--shapes", type=lambda text: text.split("/"), help="their resources, as in hot/64"
    )
    arguments.add_argument("--rounds", type=int, help="rounds in which they take turns")
    arguments.add_argument("--seconds", type=float, help="seconds of each round")
    arguments.add_argument(
        "--beside", type=Path, help="another checkout, measured as a contestant of one_by_one"
    )
    arguments.add_argument("--seed", type=int, help="for the order of keys")
    asked = arguments.parse_args()
    if wrong := set(asked.only or ()) - set(PARTS):
        arguments.error(f"no such part: {', '.join(sorted(wrong))}")
    return asked


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _plan(asked: argparse.Namespace) -> Plan:
    chosen = plan.QUICK if asked.quick else plan.FULL
    whole = asked.only is None and not (asked.quick or asked.no_peers or asked.requests or asked.backlog)
    given = {
        "place": report.RESULTS if whole else report.PARTIAL,
        "past": asked.past,
        "backlog": asked.backlog,
        "drain_requests": asked.requests,
        "exchange_requests": asked.exchanges,
        "holds": asked.holds,
        "imported": asked.imported,
        "seed": asked.seed,
        "one_clients": asked.clients,
        "one_shapes": asked.shapes,
        "one_rounds": asked.rounds,
        "one_seconds": asked.seconds,
        "beside": asked.beside,
        "peers": False if asked.no_peers else None,
    }
    return dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})


def _stop_on_signals() -> None:
    """End the run in order at the first signal, and ignore further ones."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    sys.exit(main())
