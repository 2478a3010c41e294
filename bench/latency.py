"""
Measures how long a client waits for a decision, with requests at a fixed rate however long the answers take.

Teller and the Flask endpoint are measured over HTTP, with `Prefer: wait`. A latency counts from the time at
which the request should have been sent. The job queues are measured without HTTP, from that time to the
decision.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from bench import charts, lab, load, system, work
from bench.drain import flask_request
from bench.peers import flask_row_lock, run
from bench.peers.catalog import PEERS
from bench.report import Section, progress

if TYPE_CHECKING:
    from bench.peers.install import Installed
    from bench.plan import Plan
    from teller.embedded.servers import Servers

#: Resources that the requests are spread over.
RESOURCES = 64
#: Connections that send: more than are ever busy at once.
CONNECTIONS = 48
SHARES = (0.5, 0.99, 0.999)
TELLER = "Teller, over HTTP"
FLASK = "Flask with a row lock, over HTTP"

#: Milliseconds at each of SHARES, by rate, by system.
Latencies = dict[str, dict[int, list[float]]]


def measure(plan: Plan, servers: Servers, installed: Installed) -> Section:
    """Measure, check and report."""
    section = Section("latency", "3 · Latency: from the POST to the decision", plan.place)
    section.say(
        f"Over {RESOURCES} resources, {plan.latency_seconds:g} s at each rate, the others"
        f" {plan.peer_latency_seconds:g} s; two workers. The client is on the same cores."
    )
    found: Latencies = {TELLER: _teller(plan), FLASK: _flask(plan, servers)}
    if plan.peers:
        for peer in PEERS:
            if peer.is_paced:
                name = f"{peer.name}, without HTTP"
                found[name] = {}
                for rate in plan.latency_rates:
                    try:
                        took = run.latencies(
                            peer, installed, servers, rate, plan.peer_latency_seconds, RESOURCES
                        )
                    except run.PeerFailed as fault:
                        section.say(f"{peer.name} at {rate}/s: no figure, {fault}.")
                        continue
                    _note(found[name], name, rate, sorted(took))
    section.figures = {"milliseconds": found}
    _report(section, plan, found)
    return section


def _teller(plan: Plan) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    with system.up(TELLER_WORKERS="2") as teller:
        names = [f"r{number}" for number in range(RESOURCES)]
        teller.open(*names)
        numbers = itertools.count()

        def redemption() -> bytes:
            number = next(numbers)
            body = json.dumps({"resource": names[number % RESOURCES], "account": f"u{number}"}).encode()
            return load.post("/v1/redemptions", teller.host, teller.client_key, body, "Prefer: wait=10")

        load.paced(teller.url, redemption, 50, 2, CONNECTIONS)  # warm
        for rate in plan.latency_rates:
            answers = load.paced(teller.url, redemption, rate, plan.latency_seconds, CONNECTIONS)
            assert answers.statuses == {200: int(rate * plan.latency_seconds)}, answers.statuses
            _note(found, TELLER, rate, sorted(latency * 1_000 for latency in answers.latencies))
        assert teller.ask("GET", "/v1/requests?status=failed")["data"] == []
    return found


def _flask(plan: Plan, servers: Servers) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    with lab.empty_database(servers.settings.database_url, "bench_peer") as url, lab.connect(url) as owner:
        work.prepare(owner, [])
        owner.execute("CREATE SEQUENCE asked_number")
        with flask_row_lock.serving(url) as endpoint:
            keys = itertools.cycle(range(1, RESOURCES + 1))

            def redemption() -> bytes:
                return flask_request(endpoint.url, next(keys))

            load.paced(endpoint.url, redemption, 50, 1, CONNECTIONS)  # warm
            for rate in plan.latency_rates:
                answers = load.paced(endpoint.url, redemption, rate, plan.peer_latency_seconds, CONNECTIONS)
                assert set(answers.statuses) == {200}, answers.statuses
                _note(found, FLASK, rate, sorted(latency * 1_000 for latency in answers.latencies))
        assert not work.check(owner).faults
    return found


def _note(found: dict[int, list[float]], name: str, rate: int, ordered: list[float]) -> None:
    found[rate] = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in SHARES]
    progress(f"{name}, {rate}/s: median, p99, p99.9 = {', '.join(f'{one:.1f}' for one in found[rate])} ms")


def _report(section: Section, plan: Plan, found: Latencies) -> None:
    rows = [
        (name, f"{rate}/s", *by_rate[rate])
        for name, by_rate in found.items()
        for rate in plan.latency_rates
        if rate in by_rate
    ]
    section.table(("system", "rate", "median ms", "p99 ms", "p99.9 ms"), rows)
    at = plan.latency_rates[min(1, len(plan.latency_rates) - 1)]
    section.chart(
        "latency",
        f"Bar chart: milliseconds from a request to its decision at {at}/s, p99",
        charts.bars(
            f"From the request to the decision at {at}/s, p99",
            "Milliseconds; less is better. Teller and Flask with HTTP, the others without",
            [
                charts.Bar(name, by_rate[at][1], "own" if name == TELLER else "other")
                for name, by_rate in found.items()
                if at in by_rate
            ],
        ),
    )
    busy = "client, API, workers, PostgreSQL and Valkey share the cores; it would take one more core for each"
    limits = {100: ((0, "median", 8), (1, "p99", 30)), 500: ((1, "p99", 60),)}
    for rate, targets in limits.items():
        for place, share, most in targets:
            if rate in found[TELLER]:
                took = found[TELLER][rate][place]
                section.aim(
                    f"latency at {rate}/s, {share}",
                    f"{most} ms",
                    f"{took:.1f} ms",
                    met=took <= most,
                    note=busy,
                )
