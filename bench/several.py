"""
Measures exchanges, reservations and imports: several resources in one request, and many at once.

Exchanges are compared with pgbench, whose transaction locks both rows in order, and with plain requests on the same
workers. All requests wait when the clock starts.
"""

from __future__ import annotations

import csv
import os
import random
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bench import fill, lab, system, work
from bench.peers import pgbench
from bench.report import Section, progress
from processor.domain.partitioning import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.plan import Plan
    from bench.system import Teller
    from processor.storage.connections import Connection
    from teller.embedded.servers import Servers

#: Worker processes that `teller up` starts on two cores.
WORKERS = 2
#: Time limit of a stage, in seconds.
STAGE_SECONDS = 900
#: Plain requests for each exchange in the mix.
MIXED = 100
#: Time from the last hold to the common end of all holds, in seconds.
HELD_SECONDS = 3.0
LOOK_SECONDS = 0.05

#: Locks both rows in order, checks, takes and gives, and writes two entries.
LOCK_BOTH = """
\\set n :n + 1
\\set request :n * :clients + :client_id + 1
BEGIN;
SELECT resource_id, other_id, amount FROM asked WHERE id = :request \\gset
SELECT id FROM stock WHERE id IN (:resource_id, :other_id) ORDER BY id FOR UPDATE;
UPDATE stock SET available = available - :amount, version = version + 1
 WHERE id = :resource_id AND available >= :amount;
UPDATE stock SET available = available + :amount, version = version + 1 WHERE id = :other_id;
INSERT INTO ledger (resource_id, request, amount, available)
SELECT id, :request, CASE id WHEN :resource_id THEN -1 ELSE 1 END * :amount, available
  FROM stock WHERE id IN (:resource_id, :other_id);
UPDATE asked SET status = 'completed', decided_at = clock_timestamp() WHERE id = :request;
COMMIT;
"""

#: Waiting requests as intake leaves them, in the order of the arrays. A request without a second resource is plain.
_WAITING = """
WITH sent AS (
    SELECT gen_random_uuid() AS id, i, one, home, other, kind, ttl
      FROM unnest(%(ones)b::text[], %(homes)b::int[], %(others)b::text[], %(kinds)b::text[], %(ttls)b::int[])
           WITH ORDINALITY AS s(one, home, other, kind, ttl, i)
), made AS (
    INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,
                          account, amount, details)
    SELECT id, %(client)s, '00000000-0000-4000-8000-000000000000', id::text, sha256('x'), kind, home, one,
           'u' || i, CASE kind WHEN 'exchange' THEN NULL ELSE 1 END,
           CASE kind WHEN 'exchange'
                THEN jsonb_build_object('legs', jsonb_build_array(jsonb_build_object('resource', one, 'take', 1),
                                                                  jsonb_build_object('resource', other, 'give', 1)))
                WHEN 'reservation' THEN jsonb_build_object('ttl_seconds', ttl) END
      FROM sent
     ORDER BY i
)
INSERT INTO inbox (partition, request_id, verb) SELECT home, id, 'decide' FROM sent ORDER BY i
"""


class Sent(NamedTuple):
    """A request to be decided. Without `other` it is plain."""

    one: int
    other: int | None = None
    kind: str = "redemption"


def measure(plan: Plan) -> Section:
    """Measure, check and report."""
    section = Section("several", "11 · Several resources in one request, and many at once", plan.place)
    section.say(
        f"{plan.exchange_requests:,} requests wait over {work.RESOURCES:,} resources in {lab.PARTITIONS} partitions,"
        f" and the {WORKERS} workers of `teller up` decide them. An exchange takes from one resource and gives to"
        " another."
        f" pgbench locks both rows in order and does the same. It has each of {', '.join(map(str, pgbench.CLIENTS))}"
        " clients; the best of them counts."
    )
    with lab.servers() as servers:
        best = _pgbench(plan, servers)
    rates = {name: _rate(plan, name) for name in SHAPES}
    plain = rates["plain"]
    section.table(
        ("requests", "decided/s", "share of the plain rate"),
        [(SHAPES[name], rate, f"{rate / plain:.0%}") for name, rate in rates.items()]
        + [("pgbench, both rows locked in order", best, "")],
    )
    held = _expire(plan)
    imported, memory = _import(plan)
    section.table(
        ("what", "number", "seconds"),
        [
            ("holds that expire at one moment, to the last", f"{plan.holds:,}", held),
            (
                "coupon codes by `teller import`, to the last decision",
                f"{plan.imported:,}",
                plan.imported / imported,
            ),
        ],
    )
    section.say(f"The import used at most {memory:,.0f} MiB of memory.")
    section.figures = {
        "rates": rates,
        "pgbench": best,
        "expiry_seconds": held,
        "import_rate": imported,
        "import_mib": memory,
    }
    mixed = rates["mixed"] / plain
    section.aim(
        "exchanges over 64 partitions, against pgbench",
        "5 times",
        f"{rates['crossing'] / best:.1f} times",
        met=rates["crossing"] >= 5 * best,
    )
    section.aim(
        "exchanges within one partition, against plain requests",
        "50 %",
        f"{rates['within'] / plain:.0%}",
        met=rates["within"] >= plain / 2,
    )
    section.aim(
        "plain requests beside one crossing exchange in a hundred", "90 %", f"{mixed:.0%}", met=mixed >= 0.9
    )
    section.aim("100,000 holds expire", "5 s", f"{held:.1f} s for {plan.holds:,}", met=held <= 5)
    section.aim("import of coupon codes", "10,000/s", f"{imported:,.0f}/s", met=imported >= 10_000)
    return section


# ---------------------------------------------------------------- exchanges

SHAPES = {
    "plain": "plain requests",
    "mixed": f"plain requests, beside one crossing exchange for {MIXED} of them",
    "within": "exchanges of two legs, each within one partition",
    "crossing": "exchanges of two legs over 64 partitions",
}


def _sent(shape: str, count: int, seed: int) -> list[Sent]:
    drawn = random.Random(f"{seed}/{shape}")
    everyone = range(1, work.RESOURCES + 1)
    by_partition: dict[int, list[int]] = {}
    for key in everyone:
        by_partition.setdefault(fill.partition(key, lab.PARTITIONS), []).append(key)

    def pair(*, within: bool) -> Sent:
        some = drawn.choice(list(by_partition.values())) if within else everyone
        one, other = drawn.sample(some, 2)
        return Sent(one, other, "exchange")

    if shape in ("within", "crossing"):
        return [pair(within=shape == "within") for _ in range(count)]
    sent = [Sent(drawn.choice(everyone)) for _ in range(count)]
    if shape == "mixed":
        for place in range(count - MIXED, -1, -MIXED):
            sent.insert(place, pair(within=False))
    return sent


def _rate(plan: Plan, shape: str) -> float:
    """Return decisions a second of this shape; of the mix, those of the plain requests alone."""
    sent = _sent(shape, plan.exchange_requests, plan.seed)
    with system.up(TELLER_WORKERS=str(WORKERS)) as teller, teller.connect() as connection:
        fill.open_resources(connection, range(1, work.RESOURCES + 1), lab.PARTITIONS)
        seconds = decide(teller, connection, sent)
        _check(connection, sent)
    rate = plan.exchange_requests / seconds
    progress(f"{SHAPES[shape]}: {rate:,.0f}/s")
    return rate


def decide(teller: Teller, connection: Connection, sent: Sequence[Sent], ttl_seconds: int = 600) -> float:
    """Let these requests wait, notify the workers, and return the seconds until all are decided."""
    before = system.decided(connection)
    with connection.transaction():
        waiting(connection, sent, ttl_seconds)
    connection.execute("ANALYZE inbox, requests, legs")
    began = time.perf_counter()
    teller.ring(range(lab.PARTITIONS))
    return system.await_decided(connection, before + len(sent), STAGE_SECONDS) - began


def waiting(connection: Connection, sent: Sequence[Sent], ttl_seconds: int = 600) -> None:
    """Insert waiting requests in this order."""
    names = [fill.name(one.one) for one in sent]
    connection.execute(
        _WAITING,
        {
            "ones": names,
            "homes": [partition_of(name, lab.PARTITIONS) for name in names],
            "others": [None if one.other is None else fill.name(one.other) for one in sent],
            "kinds": [one.kind for one in sent],
            "ttls": [ttl_seconds] * len(sent),
            "client": fill.CLIENT,
        },
    )


def _check(connection: Connection, sent: Sequence[Sent]) -> None:
    exchanges = sum(one.kind == "exchange" for one in sent)
    [found] = connection.execute(
        "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM decisions WHERE status = 'completed'),"
        " (SELECT sum(1000000000 - available) FROM resources)"
    ).fetchall()
    assert found == (len(sent) + exchanges, len(sent), len(sent) - exchanges), "something was lost or doubled"


def _pgbench(plan: Plan, servers: Servers) -> float:
    """Return transactions a second with the best number of clients."""
    best = 0.0
    for clients in pgbench.CLIENTS:
        sent = _sent("crossing", plan.pgbench_requests, plan.seed)
        with (
            lab.empty_database(servers.settings.database_url, "bench_peer") as url,
            lab.connect(url) as owner,
        ):
            work.prepare(owner, [one.one for one in sent])
            owner.execute("ALTER TABLE asked ADD other_id integer")
            with owner.cursor() as cursor:
                cursor.executemany(
                    "UPDATE asked SET other_id = %s WHERE id = %s",
                    [(one.other, number) for number, one in enumerate(sent, start=1)],
                )
            owner.execute("VACUUM FULL ANALYZE asked")
            rate = pgbench.run(url, LOCK_BOTH, clients, plan.pgbench_requests)
            [found] = owner.execute(
                "SELECT (SELECT count(*) FROM ledger), (SELECT sum(amount) FROM ledger),"
                " (SELECT count(*) FROM asked WHERE status = 'completed')"
            ).fetchall()
            assert found == (2 * len(sent), 0, len(sent)), found
        progress(f"pgbench, both rows locked, {clients} clients: {rate:,.0f}/s")
        best = max(best, rate)
    return best


# ---------------------------------------------------------------- reservations


def _expire(plan: Plan) -> float:
    """Return the seconds from the common end of all holds until the last of them is given back."""
    drawn = random.Random(plan.seed)
    sent = [Sent(drawn.randint(1, work.RESOURCES), kind="reservation") for _ in range(plan.holds)]
    with system.up(TELLER_WORKERS=str(WORKERS)) as teller, teller.connect() as connection:
        fill.open_resources(connection, range(1, work.RESOURCES + 1), lab.PARTITIONS)
        seconds = decide(teller, connection, sent, ttl_seconds=3_600)
        progress(f"{plan.holds:,} are held after {seconds:.1f} s")
        connection.execute(
            "UPDATE reservations SET expires_at = clock_timestamp() + %s * interval '1 second'",
            (HELD_SECONDS,),
        )
        [(late,)] = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - max(expires_at))::float8 FROM reservations"
        ).fetchall()
        over = time.perf_counter() - float(late)
        while connection.execute("SELECT EXISTS (SELECT FROM reservations)").fetchone() == (True,):
            assert time.perf_counter() < over + STAGE_SECONDS, "not all holds ended"
            time.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - over
        [found] = connection.execute(
            "SELECT (SELECT sum(held) FROM resources), (SELECT sum(available) FROM resources),"
            " (SELECT count(*) FROM decisions WHERE current AND code = 'reservation_expired')"
        ).fetchall()
        assert found == (0, work.RESOURCES * work.STOCK, plan.holds), found
    progress(f"{plan.holds:,} holds have expired after {seconds:.1f} s")
    return seconds


# ---------------------------------------------------------------- the command that imports


def _import(plan: Plan) -> tuple[float, float]:
    """Return coupon codes a second from the start of the command to the last decision, and its memory in MiB."""
    with (
        lab.home() as home,
        system.up_in(home, TELLER_WORKERS=str(WORKERS)) as teller,
        teller.connect() as connection,
    ):
        file = home / "codes.csv"
        _write_codes(file, plan.imported)
        before = system.decided(connection)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "teller", "import", "resources", str(file)],
            env={**os.environ, "TELLER_HOME": str(home)},
            check=True,
            capture_output=True,
        )
        progress(f"{plan.imported:,} coupon codes are accepted after {time.perf_counter() - began:.1f} s")
        seconds = system.await_decided(connection, before + plan.imported, STAGE_SECONDS) - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1_024
    rate = plan.imported / seconds
    progress(f"import of coupon codes: {rate:,.0f}/s")
    return rate, memory


def _write_codes(file: Path, count: int) -> None:
    with file.open("w", newline="") as opened:
        written = csv.writer(opened)
        written.writerow(["id", "kind", "available"])
        written.writerows([f"CODE-{number:08}", "coupon", 1] for number in range(count))
