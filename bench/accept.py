"""
Measures how fast requests are accepted durably.

Compares `POST /v1/redemptions` with handlers that store nothing, and with `/v1/batches`. Also measures a
batch from its POST to its last decision.

One process serves the handlers on one port, and they are measured in turns. The first is the real route. The
second authenticates, validates and answers alike, but stores nothing. The third is empty.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from typing import TYPE_CHECKING

from bench import accept_server, charts, lab, load, system
from bench.report import Section, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.plan import Plan
    from bench.system import Teller

#: Items of one POST /v1/batches.
BATCH_ITEMS = 1_000
#: Connections that send one request at a time, and connections that send batches.
CONNECTIONS, BATCH_CONNECTIONS = 32, 4
#: The target for batches, in requests a second, unless ten times the single rate is less.
BATCHED_TARGET = 15_000
#: The most batches of one run. They are made before the clock starts.
PREPARED = 400
#: The limit for the last decision, in seconds.
DECIDED_SECONDS = 120
REAL = "/v1/redemptions"


def measure(plan: Plan, drain_hot: float | None = None) -> Section:
    """
    Measure, check and report. `drain_hot` is the rate at which one worker decides for a hot resource, if
    known.
    """
    section = Section("accept", "2 · Accept: from the POST to the 202", plan.place)
    section.say(
        f"One API process, {CONNECTIONS} connections, median of {plan.accept_rounds} round(s) of"
        f" {plan.accept_seconds:g} s each; client, API and PostgreSQL share the cores. No worker runs: only"
        " accepting is measured."
    )
    rates, batched = _handlers(plan)
    median = {path: statistics.median(found) for path, found in rates.items()}
    single = median[REAL]
    alike, empty = single / median[accept_server.ALIKE], single / median[accept_server.EMPTY]
    whole = _end_to_end(plan)
    section.figures = {"rates": rates, "batched": batched, "end_to_end": whole}
    section.table(
        ("handler", "requests/s", "share of it that accepting reaches"),
        [
            ("POST /v1/redemptions, durable", single, "100 %"),
            (
                "authenticates and validates alike, stores nothing",
                median[accept_server.ALIKE],
                f"{alike:.0%}",
            ),
            ("empty", median[accept_server.EMPTY], f"{empty:.0%}"),
            (f"POST /v1/batches, {BATCH_ITEMS:,} each: accepted", batched, ""),
            ("from POST /v1/batches to decided, one hot resource, two workers", whole, ""),
        ],
    )
    section.chart(
        "accept",
        "Bar chart: requests a second that are accepted, beside handlers that store nothing",
        charts.bars(
            "Accepted a second, one at a time",
            "One API process; more is better",
            [
                charts.Bar("empty handler", median[accept_server.EMPTY]),
                charts.Bar("alike, stores nothing", median[accept_server.ALIKE]),
                charts.Bar("POST /v1/redemptions, durable", single, "own"),
            ],
        ),
    )
    section.aim(
        "accept, against a handler that does all but store",
        "60 %",
        f"{alike:.0%}",
        met=alike >= 0.6,
        note="two threads wake for each request, the writer's and the caller's, under one interpreter lock. It"
        " would take a server that runs handlers without threads, or an interpreter without that lock",
    )
    target = min(BATCHED_TARGET, 10 * single)
    section.aim("accepted by /v1/batches", f"{target:,.0f}/s", f"{batched:,.0f}/s", met=batched >= target)
    if drain_hot is not None:
        section.aim(
            "from POST /v1/batches to decided, one hot resource, against the drain",
            "50 %",
            f"{whole / drain_hot:.0%} ({whole:,.0f}/s)",
            met=whole >= drain_hot / 2,
            note="client, API, workers and PostgreSQL's backends share the cores here, while the drain has"
            " them for itself; it would take a core for each",
        )
    return section


def _handlers(plan: Plan) -> tuple[dict[str, list[float]], float]:
    """Return requests a second of each handler by round, and the rate of requests accepted in batches."""
    rates: dict[str, list[float]] = {}
    with lab.home() as home, accept_server.alone(home, "hot") as teller:
        load.closed(teller.url, _singles(teller, REAL), CONNECTIONS, 1)  # warm
        for _ in range(plan.accept_rounds):
            for path in (REAL, accept_server.ALIKE, accept_server.EMPTY):
                answers = load.closed(teller.url, _singles(teller, path), CONNECTIONS, plan.accept_seconds)
                assert set(answers.statuses) == {202}, answers.statuses
                rates.setdefault(path, []).append(answers.rate)
                progress(f"{path}: {answers.rate:,.0f}/s")
        prepared = list(itertools.islice(batches(teller, "hot"), PREPARED))
        answers = load.closed(teller.url, iter(prepared), BATCH_CONNECTIONS, plan.accept_seconds)
        assert set(answers.statuses) == {202}, answers.statuses
        batched = answers.rate * BATCH_ITEMS
        progress(f"/v1/batches: {batched:,.0f} accepted/s")
        with teller.connect() as connection:
            [(stored,)] = connection.execute("SELECT count(*) FROM inbox").fetchall()
        posted = answers.count_all * BATCH_ITEMS
        assert stored >= posted, f"{posted - stored} were answered with 202 and are not there"
    return rates, batched


def _end_to_end(plan: Plan) -> float:
    """Return requests a second, from the first POST to the last decision."""
    with system.up(TELLER_WORKERS="2") as teller:
        teller.open("hot")
        prepared = list(itertools.islice(batches(teller, "hot"), plan.end_to_end_requests // BATCH_ITEMS))
        with teller.connect() as connection:
            before = system.decided(connection)
            began = time.perf_counter()
            answers = load.closed(teller.url, iter(prepared), BATCH_CONNECTIONS, DECIDED_SECONDS)
            assert answers.statuses == {202: len(prepared)}, answers.statuses
            asked = len(prepared) * BATCH_ITEMS
            ended = system.await_decided(connection, before + asked, DECIDED_SECONDS)
            [(taken,)] = connection.execute("SELECT sum(amount) FROM entries WHERE kind = 'debit'").fetchall()
        assert taken == asked, f"{taken} taken, {asked} asked"
    rate = asked / (ended - began)
    progress(f"from POST /v1/batches to decided: {rate:,.0f}/s")
    return rate


def _singles(teller: Teller, path: str) -> Iterator[bytes]:
    for number in itertools.count():
        body = json.dumps({"resource": "hot", "account": f"u{number}"}).encode()
        yield load.post(path, teller.host, teller.client_key, body)


def batches(teller: Teller, resource: str) -> Iterator[bytes]:
    """Batches of redemptions of one resource, each item with a key of its own."""
    for number in itertools.count():
        items = [
            {
                "kind": "redemption",
                "idempotency_key": f"{time.time_ns()}-{number}-{item}",
                "resource": resource,
                "account": f"u{item}",
            }
            for item in range(BATCH_ITEMS)
        ]
        yield load.post(
            "/v1/batches", teller.host, teller.client_key, json.dumps({"requests": items}).encode()
        )
