"""
Measures clients that send one request at a time and wait for its decision, with the whole system running.

Each client of a closed loop sends a POST, waits for the answer, and sends the next. Teller is measured with
`Prefer: wait`, and with the 202 alone while its workers decide. Plain Flask endpoints run on the same PostgreSQL and
the same HTTP server. The contestants take turns in rounds, so noise of the machine affects all of them. The ratios of
one run are comparable, and rates of different runs are not.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import lab, load, one_by_one_report, processes, system, work
from bench.one_by_one_report import (
    ACCEPTED,
    CLIENTS_OF_TARGETS,
    DECIDED,
    DESCRIPTIONS,
    LOCKED,
    OTHER_BUILD,
    RESOURCES,
    TELLER,
    UNLOCKED,
    WAYS,
    Case,
    Found,
    Round,
    median,
)
from bench.peers import flask_row_lock
from bench.report import Section, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.plan import Plan
    from bench.system import Teller
    from processor.storage.connections import Connection

#: Time for the last decisions after a round, in seconds.
DECIDED_SECONDS = 60
WARM_SECONDS = 0.5
#: The number of keys drawn before the clock starts; they repeat afterwards.
KEYS = 20_000
#: Quantity of each resource at the start: more than all requests take.
STOCK = work.STOCK
MICROS = 1_000_000


@dataclass(frozen=True)
class Contestant:
    """
    One system under test.

    `make` returns the POST for a way, a shape and the number of a resource. `decided` counts the decisions of a
    system that may answer before them.
    """

    name: str
    url: str
    #: The process below which all of its own processes are.
    top: int
    ways: tuple[str, ...]
    make: Callable[[str, str, int], bytes]
    decided: Callable[[], int] | None = None


def measure(plan: Plan) -> Section:
    """Measure, check and report."""
    section = Section("one_by_one", "9 · One request at a time, from the POST to the decision", plan.place)
    section.say(
        f"A closed loop of clients; {plan.one_rounds} round(s) of {plan.one_seconds:g} s for each contestant in turn,"
        " medians of the rounds. The whole system runs, with two workers and one courier. Client, API, workers,"
        " PostgreSQL and Valkey share the cores. The endpoints run on Granian as Teller's API does, and on the same"
        f" PostgreSQL with {flask_row_lock.CONNECTIONS} connections each. The endpoint without a lock reads, checks"
        " and writes, so concurrent requests overwrite each other."
    )
    with contextlib.ExitStack() as stack:
        teller = stack.enter_context(system.up(TELLER_WORKERS="2"))
        contestants = [_teller(TELLER, teller, stack)]
        if plan.beside is not None:
            other = stack.enter_context(_other_build(plan.beside))
            contestants.append(_teller(OTHER_BUILD, other, stack))
        owners: dict[str, Connection] = {}
        for name, lock in ((LOCKED, True), (UNLOCKED, False)):
            database = "bench_locked" if lock else "bench_unlocked"
            url = stack.enter_context(lab.empty_database(teller.settings.database_url, database))
            owners[name] = stack.enter_context(lab.connect(url))
            contestants.append(_endpoint(name, url, owners[name], stack, lock=lock))
        found = _run(plan, contestants, {one.name: one.top for one in contestants})
        lost = _check(owners) | {TELLER: _lost_by_teller(teller)}
    section.figures = {
        "rounds": [
            {
                "way": way,
                "shape": shape,
                "clients": clients,
                "contestant": name,
                "rounds": [vars(one) for one in rounds],
            }
            for (way, shape, clients), by_name in found.items()
            for name, rounds in by_name.items()
        ],
        "lost": lost,
    }
    one_by_one_report.report(section, found, lost)
    return section


# ---------------------------------------------------------------- the contestants


@contextlib.contextmanager
def _other_build(checkout: Path) -> Iterator[Teller]:
    with lab.home() as home, system.up_in(home, checkout=checkout, TELLER_WORKERS="2") as teller:
        yield teller


def _teller(name: str, teller: Teller, stack: contextlib.ExitStack) -> Contestant:
    connection = stack.enter_context(teller.connect())
    _open(teller)
    templates = {
        way: load.Template("/v1/redemptions", teller.host, teller.client_key, *headers)
        for way, headers in ((DECIDED, ("Prefer: wait=10",)), (ACCEPTED, ()))
    }
    accounts = itertools.count()

    def make(way: str, shape: str, resource: int) -> bytes:
        body = f'{{"resource":"{_resource(shape, resource)}","account":"u{next(accounts)}"}}'
        return templates[way].post(body.encode())

    return Contestant(name, teller.url, teller.pid, tuple(WAYS), make, lambda: system.decided(connection))


def _resource(shape: str, number: int) -> str:
    return f"{shape.replace(',', '')}:{number}"


def _open(teller: Teller) -> None:
    template = load.Template("/v1/resources", teller.host, teller.admin_key, "Prefer: wait=20")
    names = [_resource(shape, number) for shape, count in RESOURCES.items() for number in range(1, count + 1)]
    posts = [
        template.post(b'{"id":"%b","kind":"stock","available":%d}' % (name.encode(), STOCK)) for name in names
    ]
    answers = load.closed(teller.url, iter(posts), CLIENTS_OF_TARGETS, DECIDED_SECONDS)
    assert answers.statuses == {200: len(names)}, answers.statuses


def _endpoint(
    name: str, url: str, owner: Connection, stack: contextlib.ExitStack, *, lock: bool
) -> Contestant:
    work.prepare(owner, [])
    owner.execute("CREATE SEQUENCE asked_number")
    endpoint = stack.enter_context(flask_row_lock.serving(url, lock=lock))
    template = load.Template("/redemptions", endpoint.url.removeprefix("http://"), "none")

    def make(_way: str, _shape: str, resource: int) -> bytes:
        return template.post(b'{"resource":%d,"account":"u_42"}' % resource)

    return Contestant(name, endpoint.url, endpoint.pid, (DECIDED,), make)


def _check(owners: dict[str, Connection]) -> dict[str, int]:
    """Return the number of lost updates of each endpoint. Raises AssertionError for faults of the one that locks."""
    lost = {}
    for name, owner in owners.items():
        [(asked, taken)] = owner.execute(
            "SELECT (SELECT sum(amount) FROM ledger), (SELECT sum(%s - available) FROM stock)", (STOCK,)
        ).fetchall()
        lost[name] = int(asked - taken)
    assert not (faults := work.check(owners[LOCKED]).faults), faults
    return lost


def _lost_by_teller(teller: Teller) -> int:
    """Return the number of redemptions that changed no resource. Raises AssertionError if any is not completed."""
    with teller.connect() as connection:
        [(asked, completed, taken)] = connection.execute(
            "SELECT (SELECT count(*) FROM requests WHERE kind = 'redemption'),"
            " (SELECT count(*) FROM requests r JOIN decisions d ON d.request_id = r.id AND d.current"
            "   WHERE r.kind = 'redemption' AND d.status = 'completed'),"
            " (SELECT sum(%s - available) FROM resources)",
            (STOCK,),
        ).fetchall()
    assert completed == asked, f"{asked - completed} of {asked} are not completed"
    return int(asked - taken)


# ---------------------------------------------------------------- the rounds


def _run(plan: Plan, contestants: list[Contestant], tops: dict[str, int]) -> Found:
    found: Found = {}
    for way, shape, clients in itertools.product(WAYS, plan.one_shapes, plan.one_clients):
        keys = _keys(shape, plan.seed)
        rounds: dict[str, list[Round]] = defaultdict(list)
        for number in range(plan.one_rounds + 1):
            for one in contestants:
                if way in one.ways:
                    seconds = plan.one_seconds if number else WARM_SECONDS
                    measured = _round(one, (way, shape, clients), keys, seconds, set(tops.values()))
                    if number:
                        rounds[one.name].append(measured)
        found[way, shape, clients] = dict(rounds)
        rates = ", ".join(
            f"{name} {median(found, (way, shape, clients), name).rate:,.0f}/s" for name in rounds
        )
        progress(f"{way}, {DESCRIPTIONS[shape]}, {clients} clients: {rates}")
    return found


def _keys(shape: str, seed: int) -> list[int]:
    drawn = random.Random(f"{seed}/{shape}")
    everyone = range(1, RESOURCES[shape] + 1)
    if shape != "zipf":
        return drawn.choices(everyone, k=KEYS)
    return drawn.choices(
        everyone, cum_weights=list(itertools.accumulate(1 / rank for rank in everyone)), k=KEYS
    )


def _round(one: Contestant, case: Case, keys: list[int], seconds: float, tops: set[int]) -> Round:
    way, shape, clients = case
    before = one.decided() if one.decided is not None else 0
    cpu_before, began = _cpu(tops), time.perf_counter()
    posts = (one.make(way, shape, key) for key in itertools.cycle(keys))
    client_before = time.process_time()
    answers = load.closed(one.url, posts, clients, seconds)
    client = time.process_time() - client_before
    count = answers.count_all
    ended = time.perf_counter()
    if one.decided is not None:
        end = ended + DECIDED_SECONDS
        while one.decided() < before + count:
            assert time.perf_counter() < end, "not all requests were decided"
            time.sleep(system.LOOK_SECONDS)
        ended = max(ended, time.perf_counter() - system.LOOK_SECONDS)
    cpu = {part: used - cpu_before.get(part, 0.0) for part, used in _cpu(tops).items()} | {"client": client}
    expected = {200, 202} if way == DECIDED else {202}
    assert set(answers.statuses) <= expected, answers.statuses
    unfulfilled = answers.statuses.get(202, 0) if way == DECIDED else 0
    return Round(
        rate=(count - unfulfilled) / answers.seconds,
        median_ms=answers.quantile(0.5),
        p99_ms=answers.quantile(0.99),
        unfulfilled=unfulfilled,
        decided_rate=count / (ended - began),
        micros={part: used / count * MICROS for part, used in cpu.items()},
    )


def _cpu(tops: set[int]) -> dict[str, float]:
    """Return the CPU of all processes by part, in seconds."""
    used: dict[str, float] = defaultdict(float)
    for top in tops:
        for seen in processes.tree(top).values():
            used[_part(seen)] += seen.user + seen.system
    return dict(used)


def _part(seen: processes.Seen) -> str:
    if seen.name == "postgres":
        # A backend names its role in its title, as in `postgres: teller_worker teller [local] idle`.
        role = seen.command.removeprefix("postgres: ").split(" ")[0]
        return f"PostgreSQL for {role}" if role.startswith("teller_") else "PostgreSQL, other"
    if "flask_row_lock" in seen.command:
        return "endpoint"
    return processes.part_of(seen)
