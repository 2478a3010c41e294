"""
Measures how fast waiting requests are decided: Teller, row locks, a plain endpoint and job queues, in one
run.

Every system checks, takes, and writes a ledger entry and the state of the request, durably, on the same
server. For Teller and the queues, all requests wait when the clock starts. The endpoint receives them over
HTTP and answers with the decision.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

from bench import charts, fill, lab, load, work
from bench.peers import flask_row_lock, pgbench, run
from bench.peers.catalog import PEERS
from bench.report import Section, progress
from processor.batch import run as batch
from processor.storage import connections
from workers.collector import rest_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.peers.install import Installed
    from bench.plan import Plan
    from processor.settings import Settings
    from teller.embedded.servers import Servers

#: Variants of Teller beside the plain run, with the features that a resource or a client may add to each
#: request.
EXTRAS = {
    "one webhook subscribed": {"webhook": True},
    "a limit for each account": {"limit": True},
    "both": {"webhook": True, "limit": True},
}
FLASK_CONNECTIONS = 16
#: Worker processes that `teller up` starts on two cores.
WORKERS = 2
TELLER = "Teller, one worker"
TELLER_WORKERS = f"Teller, {WORKERS} workers"

#: Requests a second and the number of requests out of order, by system.
Rates = dict[str, tuple[float, int]]


def measure(plan: Plan, servers: Servers, installed: Installed) -> Section:
    """Measure, check and report."""
    section = Section("drain", "1 · Drain: deciding what waits", plan.place)
    section.say(
        f"{plan.drain_requests:,} requests wait. Teller decides them by the loop of one worker, or of the {WORKERS}"
        f" that `teller up` starts here, in batches of at most {batch.BATCH_LIMIT:,}. pgbench decides"
        f" {plan.pgbench_requests:,} with each of 1, 8 and 16 clients; the best of them counts. All run in turns,"
        f" best of {plan.drain_rounds} rounds. The job queues run the fastest of these transactions, the single"
        f" statement, as their job, for about {plan.peer_seconds:g} s."
    )
    found: dict[str, Rates] = {}
    for shape in plan.shapes:
        rates = found[shape] = {}
        for _ in range(plan.drain_rounds):  # in turns, so that a disturbance of the machine affects all
            _keep_best(rates, {TELLER: (_teller(plan, servers, shape), 0)})
            _keep_best(rates, {TELLER_WORKERS: (_teller(plan, servers, shape, workers=WORKERS), 0)})
            _keep_best(rates, _postgres(plan, servers, shape))
        rates |= _flask(plan, servers, shape)
        if plan.peers:
            rates |= _peers(plan, servers, installed, shape, section)
    extras = {
        name: max(_teller(plan, servers, "hot", **options) for _ in range(plan.drain_rounds))
        for name, options in EXTRAS.items()
    }
    section.figures = {"rates": found, "extras": extras}
    _report(section, found, extras)
    _aim(section, found)
    return section


# ---------------------------------------------------------------- Teller


def _keep_best(rates: Rates, more: Rates) -> None:
    for name, found in more.items():
        rates[name] = max(rates.get(name, (0.0, 0)), found)


def _teller(plan: Plan, servers: Servers, shape: str, **options: Any) -> float:
    wanted = work.keys(shape, plan.drain_requests, plan.seed)
    resources = 1 if shape == "hot" else work.RESOURCES
    with lab.fresh_database(servers, "bench_drain") as settings:
        rate = drain(settings, resources, plan.drain_requests, wanted, **options)
    named = "".join(f", {name}" for name in options)
    progress(f"Teller, {work.SHAPES[shape]}{named}: {rate:,.0f}/s")
    return rate


def drain(
    settings: Settings,
    resources: int,
    requests: int,
    wanted: Sequence[int] | None = None,
    *,
    webhook: bool = False,
    limit: bool = False,
    workers: int = 1,
) -> float:
    """
    Drain `requests` of `resources` with `workers` processes. Returns requests per second.

    Checks that each request was decided once and in order, and that the ledger adds up. `wanted` has the
    resource of each request; without it, the resources come in turn.
    """
    keys = wanted or [1 + number % resources for number in range(requests)]
    rules = {"per_account_limit": 1_000_000} if limit else {}
    with connections.connect(settings.database_url, application_name="bench") as owner:
        fill.open_resources(owner, range(1, resources + 1), lab.PARTITIONS, **rules)
        if webhook:
            owner.execute(
                "INSERT INTO webhooks (id, client_id, url, secret)"
                " VALUES (gen_random_uuid(), %s, 'https://example.com/', sha256('x'))",
                (fill.CLIENT,),
            )
        fill.inbox(owner, keys, lab.PARTITIONS)
        owner.execute("VACUUM ANALYZE")
        owner.execute("CHECKPOINT")
        partitions = sorted({fill.partition(key, lab.PARTITIONS) for key in set(keys)})
        with lab.together(
            [(settings.worker_database_url, partitions[first::workers]) for first in range(workers)],
            _drain_partitions,
        ) as release:
            started = time.perf_counter()
            decided = sum(release())
            seconds = time.perf_counter() - started
        _check(owner, decided, requests, notified=requests if webhook else 0)
    return requests / seconds


def _check(owner: connections.Connection, decided: int, requests: int, notified: int) -> None:
    [counts] = owner.execute(
        "SELECT (SELECT sum(amount) FROM entries), (SELECT sum(1000000000 - available) FROM resources),"
        " (SELECT count(*) FROM decisions WHERE status = 'completed'), (SELECT count(*) FROM inbox),"
        " (SELECT coalesce(sum(cardinality(request_ids)), 0) FROM fanouts)"
    ).fetchall()
    assert (decided, *counts) == (*[requests] * 4, 0, notified), "something was lost or doubled"
    [(late,)] = owner.execute(
        "SELECT count(*) FROM (SELECT request_id < lag(request_id) OVER (PARTITION BY resource_id ORDER BY version)"
        " AS is_late FROM entries) e WHERE is_late"
    ).fetchall()
    assert late == 0, f"{late} were decided out of order"


def _drain_partitions(share: tuple[str, list[int]], wait: Callable[[], object]) -> int:
    """Drain one process's share of the partitions once all processes are ready, as a worker does."""
    url, partitions = share
    rest_collector()  # as a worker does
    decided = 0
    with connections.connect(url, application_name="bench") as worker:
        wait()
        while partitions:
            report = batch.drain_once(worker, partitions)
            decided += report.taken
            partitions = sorted(report.more)
    return decided


# ---------------------------------------------------------------- the others


def _postgres(plan: Plan, servers: Servers, shape: str) -> Rates:
    best: Rates = {}
    for name, script in pgbench.SCRIPTS.items():
        for clients in pgbench.CLIENTS:
            wanted = work.keys(shape, plan.pgbench_requests, plan.seed)
            with (
                lab.empty_database(servers.settings.database_url, "bench_peer") as url,
                lab.connect(url) as owner,
            ):
                work.prepare(owner, wanted)
                rate = pgbench.run(url, script, clients, plan.pgbench_requests)
                checked = work.check(owner)
            assert not checked.faults, checked.faults
            label = f"pgbench, {name}"
            progress(f"{label}, {clients} clients, {work.SHAPES[shape]}: {rate:,.0f}/s")
            best[label] = max(best.get(label, (0.0, 0)), (rate, checked.out_of_order))
    return best


def _flask(plan: Plan, servers: Servers, shape: str) -> Rates:
    wanted = itertools.cycle(work.keys(shape, 50_000, plan.seed))
    with lab.empty_database(servers.settings.database_url, "bench_peer") as url, lab.connect(url) as owner:
        work.prepare(owner, [])
        owner.execute("CREATE SEQUENCE asked_number")
        with flask_row_lock.serving(url) as endpoint:
            requests = (flask_request(endpoint.url, next(wanted)) for _ in itertools.count())
            load.closed(endpoint.url, requests, FLASK_CONNECTIONS, 0.5)  # warm
            answers = load.closed(endpoint.url, requests, FLASK_CONNECTIONS, plan.peer_seconds)
        assert set(answers.statuses) == {200}, answers.statuses
        checked = work.check(owner)
    assert not checked.faults, checked.faults
    progress(f"Flask with a row lock, {work.SHAPES[shape]}: {answers.rate:,.0f}/s")
    return {"Flask with a row lock, over HTTP": (answers.rate, 0)}


def flask_request(address: str, key: int) -> bytes:
    """Return one request for the endpoint with the row lock."""
    body = json.dumps({"resource": key, "account": "u_42"}).encode()
    return load.post("/redemptions", address.removeprefix("http://"), "none", body)


def _peers(plan: Plan, servers: Servers, installed: Installed, shape: str, section: Section) -> Rates:
    rates: Rates = {}
    for peer in PEERS:
        wanted = work.keys(shape, max(100, int(peer.rate * plan.peer_seconds)), plan.seed)
        try:
            checked = run.drain(peer, installed, servers, wanted, many=shape != "hot")
        except run.PeerFailed as fault:
            section.say(f"{peer.name}, {work.SHAPES[shape]}: no figure, {fault}.")
            continue
        late = (
            f", {checked.out_of_order:,} of {checked.decided:,} out of order" if checked.out_of_order else ""
        )
        progress(f"{peer.name}, {work.SHAPES[shape]}: {checked.rate:,.0f}/s{late}")
        rates[peer.name] = (checked.rate, checked.out_of_order)
    return rates


# ---------------------------------------------------------------- the report


def _report(section: Section, found: dict[str, Rates], extras: dict[str, float]) -> None:
    shapes = list(found)
    hot = found["hot"]
    teller = hot[TELLER][0]
    names = list(dict.fromkeys(name for rates in found.values() for name in rates))
    rows: list[list[object]] = []
    for name in names:
        cells: list[Any] = [found[shape][name][0] if name in found[shape] else "" for shape in shapes]
        factor = f"{teller / hot[name][0]:.1f} times" if name in hot else ""
        rows.append([name, *cells, factor, "yes" if name.startswith("Teller") else _order(name, found)])
    section.table(
        [
            "system",
            *(f"{work.SHAPES[shape]}, /s" for shape in shapes),
            "Teller, hot, is faster by",
            "in order",
        ],
        rows,
    )
    section.table(
        ["Teller, one hot resource", "/s", "share of the plain run"],
        [
            ["plain", teller, "100 %"],
            *([name, rate, f"{rate / teller:.0%}"] for name, rate in extras.items()),
        ],
    )
    order = sorted(hot, key=lambda name: -hot[name][0])
    section.chart(
        "drain",
        "Bar chart: requests a second that are decided for one hot resource",
        charts.bars(
            "Decided a second, one hot resource",
            "Durable, on the same PostgreSQL; more is better",
            [charts.Bar(name, hot[name][0], _kind(name)) for name in order],
        ),
    )
    settings = [
        f"- {peer.name}: {peer.setting}."
        for peer in PEERS
        if any(peer.name in rates for rates in found.values())
    ]
    settings.append(
        f"- Flask with a row lock: Granian as Teller's, {flask_row_lock.CONNECTIONS} connections to"
        f" PostgreSQL, {FLASK_CONNECTIONS} to the client, which waits for the decision."
    )
    section.say("The settings:\n\n" + "\n".join(settings))


def _order(name: str, found: dict[str, Rates]) -> str:
    if name.startswith(("pgbench", "Flask")):
        return "not promised"
    late = {shape: rates[name][1] for shape, rates in found.items() if name in rates and rates[name][1]}
    return (
        f"**no** ({', '.join(f'{count:,} late, {shape}' for shape, count in late.items())})"
        if late
        else "yes"
    )


def _kind(name: str) -> str:
    return "own" if name.startswith("Teller") else "reference" if name.startswith("pgbench") else "other"


def _aim(section: Section, found: dict[str, Rates]) -> None:
    hot = found["hot"]
    teller = hot[TELLER][0]
    queues = {peer.name: hot[peer.name][0] for peer in PEERS if peer.name in hot and not hot[peer.name][1]}
    wants = [
        ("pgbench's best row lock", hot["pgbench, row lock"][0], 12, 20),
        ("pgbench's best single statement", hot["pgbench, one statement"][0], 6, 10),
    ]
    if queues:
        best = max(queues, key=lambda name: queues[name])
        wants.append((f"the best job queue that keeps order ({best})", queues[best], 20, 40))
    for what, rate, least, goal in wants:
        section.aim(
            f"drain, one hot resource, against {what}",
            f"{least} times (goal: {goal})",
            f"{teller / rate:.1f} times",
            met=teller >= least * rate,
            note="where a sync costs little (see above), a commit for each request costs little too; a slower disk"
            " widens the gap. The rest is PostgreSQL's own writing (*Where the time goes*)",
        )
    with contextlib.suppress(KeyError):
        uniform = found["uniform"]
        section.aim(
            "hot not slower than uniform, one worker each",
            "100 %",
            f"{teller / uniform[TELLER][0]:.0%}",
            met=teller >= uniform[TELLER][0],
            note="",
        )
        section.aim(
            f"uniform not more than a fifth slower than hot, the {WORKERS} workers of `teller up`",
            "80 %",
            f"{uniform[TELLER_WORKERS][0] / hot[TELLER_WORKERS][0]:.0%}",
            met=uniform[TELLER_WORKERS][0] >= 0.8 * hot[TELLER_WORKERS][0],
            note="64 partitions make batches of 780 rows, not 2,000, and their index entries lie further apart",
        )
