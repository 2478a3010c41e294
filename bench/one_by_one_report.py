"""
The report of clients that send one request at a time: medians and ratios of the rounds, costs, chart and targets.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import charts

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Section

#: The number of resources of each shape.
RESOURCES = {"hot": 1, "64": 64, "1,000": 1_000, "zipf": 1_000}
DESCRIPTIONS = {
    "hot": "one hot resource",
    "64": "64 resources, evenly",
    "1,000": "1,000 resources, evenly",
    "zipf": "1,000 resources, by Zipf (exponent 1)",
}
TELLER, OTHER_BUILD = "Teller", "Teller, other build"
LOCKED, UNLOCKED = "Flask, row lock", "Flask, no lock (loses updates)"
#: Clients wait for the decision, or for the acceptance alone.
DECIDED, ACCEPTED = "decided", "accepted"
WAYS = {DECIDED: "Until the decision", ACCEPTED: "202 only, workers decide meanwhile"}
#: The number of clients to which the targets apply.
CLIENTS_OF_TARGETS = 32


@dataclass(frozen=True)
class Round:
    """One contestant in one round."""

    rate: float
    median_ms: float
    p99_ms: float
    #: Answers without the decision that the client wanted to wait for, because too many clients waited.
    unfulfilled: int
    #: Decisions a second, until all accepted requests were decided.
    decided_rate: float
    #: Microseconds of CPU for each answer, by process.
    micros: dict[str, float]


#: Rounds by way, shape, number of clients, and contestant.
Case = tuple[str, str, int]
Found = dict[Case, dict[str, list[Round]]]


def median(found: Found, case: Case, name: str) -> Round:
    """Return the medians of all rounds of a contestant."""
    rounds = found[case][name]

    def middle(read: Callable[[Round], float]) -> float:
        return statistics.median(map(read, rounds))

    parts = sorted({part for one in rounds for part in one.micros})
    return Round(
        middle(lambda one: one.rate),
        middle(lambda one: one.median_ms),
        middle(lambda one: one.p99_ms),
        sum(one.unfulfilled for one in rounds),
        middle(lambda one: one.decided_rate),
        {part: middle(lambda one: one.micros.get(part, 0.0)) for part in parts},  # noqa: B023 - called at once
    )


def _ratio(found: Found, case: Case, name: str, other: str) -> float:
    """Return the median of the ratios of the rates, round by round."""
    pairs = zip(found[case][name], found[case][other], strict=True)
    return statistics.median(one.rate / two.rate for one, two in pairs)


def report(section: Section, found: Found, lost: dict[str, int]) -> None:
    """Write tables, costs, a chart and the targets. `lost` has the lost updates by contestant."""
    for way, title in WAYS.items():
        rows = []
        for case, by_name in found.items():
            if case[0] != way:
                continue
            for name in by_name:
                middle = median(found, case, name)
                row = [
                    DESCRIPTIONS[case[1]],
                    str(case[2]),
                    name,
                    middle.rate,
                    middle.median_ms,
                    middle.p99_ms,
                ]
                if way == ACCEPTED:
                    row.append(middle.decided_rate)
                row.append("" if name == TELLER else f"{_ratio(found, case, TELLER, name):.2f}")
                row.append(str(middle.unfulfilled or ""))
                rows.append(row)
        header = ["resources", "clients", "contestant", "requests/s", "median ms", "p99 ms"]
        if way == ACCEPTED:
            header.append("decided/s, to the last")
        section.say(f"**{title}.**")
        section.table((*header, "Teller against it", "answered without a wait"), rows)
    section.say(
        f"Lost updates: {lost[UNLOCKED]:,} of the endpoint without a lock, {lost[LOCKED]:,} of the one with it,"
        f" {lost[TELLER]:,} of Teller."
    )
    section.say("**Microseconds of CPU for each request.**")
    section.table(
        ("resources", "way", "clients", "contestant", "by process"),
        [
            (DESCRIPTIONS[case[1]], case[0], str(case[2]), name, _costs(median(found, case, name)))
            for case, by_name in found.items()
            for name in by_name
        ],
    )
    _chart(section, found)
    _aim(section, found)


def _costs(middle: Round) -> str:
    largest = sorted(middle.micros.items(), key=lambda one: -one[1])
    return ", ".join(f"{part} {micros:,.0f}" for part, micros in largest if micros >= 5)


def _chart(section: Section, found: Found) -> None:
    clients = CLIENTS_OF_TARGETS
    shapes = [shape for shape in RESOURCES if (DECIDED, shape, clients) in found]
    bars = [
        charts.Bar(
            f"{DESCRIPTIONS[shape]}: {name}",
            median(found, case, name).rate,
            "own" if name == TELLER else "other",
        )
        for shape in shapes
        for case in [(DECIDED, shape, clients)]
        for name in found[case]
    ]
    if bars:
        section.chart(
            "one-by-one",
            f"Bar chart: requests decided a second, one at a time from each of {clients} clients",
            charts.bars(
                f"Decided a second, one at a time from each of {clients} clients",
                "From the POST to the decision over HTTP, the whole system on two cores; more is better",
                bars,
            ),
        )


def _aim(section: Section, found: Found) -> None:
    why = "the CPU of each process for one request stands above; they share two cores with the client"
    for shape, least in (("hot", 2.5), ("64", 1.0)):
        case = (DECIDED, shape, CLIENTS_OF_TARGETS)
        if case not in found:
            continue
        ratio = _ratio(found, case, TELLER, LOCKED)
        what = f"one by one, {DESCRIPTIONS[shape]}, {CLIENTS_OF_TARGETS} clients"
        section.aim(
            f"{what}, against {LOCKED}",
            f"{least:g} times",
            f"{ratio:.2f} times",
            met=ratio >= least,
            note=why,
        )
        mine, theirs = median(found, case, TELLER).p99_ms, median(found, case, LOCKED).p99_ms
        section.aim(f"{what}, p99", f"{theirs:.1f} ms", f"{mine:.1f} ms", met=mine <= theirs, note=why)
    base = (DECIDED, "64", CLIENTS_OF_TARGETS)
    for shape in ("1,000", "zipf"):
        case = (DECIDED, shape, CLIENTS_OF_TARGETS)
        if case in found and base in found:
            share = median(found, case, TELLER).rate / median(found, base, TELLER).rate
            what = f"one by one, {DESCRIPTIONS[shape]}, against {DESCRIPTIONS['64']}"
            section.aim(what, "90 %", f"{share:.0%}", met=share >= 0.9, note=why)
