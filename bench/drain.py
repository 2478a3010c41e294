"""
How fast what waits is decided: Teller's batches against what pgbench does with a row lock, in one run.

Both check, take, write a ledger entry and the state of the request, durably, on the same server. Teller's
rows are in the inbox already; pgbench's requests are in their table already.

    python -m bench.drain [--requests 50000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from bench import lab
from processor import batch, database, ids
from workers.main import rest_collector

if TYPE_CHECKING:
    from processor.settings import Settings

#: What pgbench does, for each request, as a transaction: read what is asked, lock the row, look, take, write.
ROW_LOCK = """
\\set request random(1, {requests})
BEGIN;
SELECT resource_id, amount FROM asked WHERE id = :request;
SELECT available FROM stock WHERE id = {resource} FOR UPDATE;
UPDATE stock SET available = available - 1, version = version + 1 WHERE id = {resource} AND available >= 1;
INSERT INTO ledger (resource_id, request, amount, available)
SELECT id, :request, 1, available FROM stock WHERE id = {resource};
UPDATE asked SET status = 'completed', decided_at = clock_timestamp() WHERE id = :request;
COMMIT;
"""
#: The same as one statement: the update decides, and what follows hangs on it.
ONE_STATEMENT = """
\\set request random(1, {requests})
WITH taken AS (
    UPDATE stock SET available = available - 1, version = version + 1
     WHERE id = {resource} AND available >= 1 RETURNING id, available
), entry AS (
    INSERT INTO ledger (resource_id, request, amount, available) SELECT id, :request, 1, available FROM taken
)
UPDATE asked SET status = CASE WHEN EXISTS (SELECT FROM taken) THEN 'completed' ELSE 'rejected' END,
                 decided_at = clock_timestamp()
 WHERE id = :request;
"""
PEER_TABLES = """
CREATE TABLE stock (id integer PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0), version bigint NOT NULL)
  WITH (fillfactor = 50);
CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource_id integer NOT NULL,
                     request bigint NOT NULL, amount bigint NOT NULL, available bigint NOT NULL,
                     at timestamptz NOT NULL DEFAULT now());
CREATE TABLE asked (id bigint PRIMARY KEY, resource_id integer NOT NULL, account text NOT NULL,
                    amount bigint NOT NULL,
                    status text NOT NULL DEFAULT 'processing', created_at timestamptz NOT NULL DEFAULT now(),
                    decided_at timestamptz) WITH (fillfactor = 80);
INSERT INTO stock SELECT i, 1000000000, 0 FROM generate_series(1, 1000) i;
INSERT INTO asked (id, resource_id, account, amount) SELECT i, 1, 'u' || i, 1 FROM generate_series(1, {requests}) i;
"""
#: Requests and their inbox rows as intake writes them, made by the server: what is measured is the draining.
FILL = """
WITH asked AS (
    SELECT uuidv7() AS id, i, ids[1 + mod(i, cardinality(ids))] AS resource_id,
           partitions[1 + mod(i, cardinality(ids))] AS partition
      FROM generate_series(1, %(count)s) i, (SELECT %(ids)s::text[] AS ids, %(partitions)s::int[] AS partitions) r
), made AS (
    INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,
                          account, amount)
    SELECT id, 'bench', gen_random_uuid(), id::text, sha256('x'), 'redemption', partition, resource_id, 'u' || i, 1
      FROM asked
)
INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, 'decide' FROM asked ORDER BY i
"""


HOT = "one hot resource"
#: What is drained: its name, how many resources, and whether somebody wants to be told of each request.
CASES = (
    (HOT, 1, False),
    ("1,000 resources in 64 partitions", 1_000, False),
    ("one hot resource, one webhook subscribed", 1, True),
)


def main() -> None:
    """Measure, check, and print the table; the better of two rounds counts."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=50_000)
    arguments.add_argument("--seconds", type=int, default=5, help="of each pgbench run")
    asked = arguments.parse_args()

    rest_collector()  # as a worker does
    with lab.servers() as servers:
        rates: dict[str, float] = {}
        best: dict[str, float] = {}
        with lab.fresh_database(servers, "bench_peer") as settings:
            with database.connect(settings.database_url, application_name="bench") as owner:
                owner.execute(PEER_TABLES.format(requests=asked.requests))
                owner.execute("VACUUM ANALYZE")
                on = lab.machine(owner)
            for name, script in (("row lock", ROW_LOCK), ("one statement", ONE_STATEMENT)):
                for clients in (1, 8, 16):
                    rate = lab.pgbench(
                        settings.database_url,
                        script.format(resource=1, requests=asked.requests),
                        clients,
                        asked.seconds,
                    )
                    print(f"pgbench, one hot row, {name}, {clients} clients: {rate:,.0f}/s", flush=True)
                    best[name] = max(best.get(name, 0.0), rate)
        for name, resources, webhook in (*CASES, *CASES):
            with lab.fresh_database(servers, "bench_drain") as settings:
                rate = drain(settings, resources, asked.requests, webhook=webhook)
            print(f"Teller, {name}: {rate:,.0f}/s", flush=True)
            rates[name] = max(rates.get(name, 0.0), rate)

    hot = rates[HOT]
    table = [
        ("pgbench, row lock, one row, best of 1, 8, 16 clients", best["row lock"], hot / best["row lock"]),
        ("pgbench, one statement, one row, likewise", best["one statement"], hot / best["one statement"]),
        *((f"Teller, {name}", rate, hot / rate) for name, rate in rates.items()),
    ]
    report = lab.table(
        ("what decides", "requests/s", "the hot resource is faster by"),
        [(name, rate, f"{ratio:.1f} times") for name, rate, ratio in table],
    )
    lab.publish("drain", f"# Drain\n\n{asked.requests:,} requests in the inbox. {on}.\n\n{report}")


def drain(settings: Settings, resources: int, requests: int, *, webhook: bool = False) -> float:
    """
    Requests per second of one connection that drains `requests` of `resources`, after checking that each
    was decided once and that the ledger adds up.
    """
    names = [f"r{number}" for number in range(resources)]
    partitions = [ids.partition_of(name, lab.PARTITIONS) for name in names]
    with database.connect(settings.database_url, application_name="bench") as owner:
        for name, partition in zip(names, partitions, strict=True):
            owner.execute(
                "INSERT INTO resources (id, kind, partition, available, created_at, digest)"
                " VALUES (%s, 'stock', %s, 1000000000, now(), %s)",
                (name, partition, bytes(32)),
            )
        if webhook:
            owner.execute(
                "INSERT INTO webhooks (id, client_id, url, secret)"
                " VALUES (gen_random_uuid(), 'bench', 'https://example.com/', sha256('x'))"
            )
        owner.execute(FILL, {"count": requests, "ids": names, "partitions": partitions})
        owner.execute("VACUUM ANALYZE")
        owner.execute("CHECKPOINT")
        with database.connect(settings.worker_database_url, application_name="bench") as worker:
            started = time.perf_counter()
            decided = sum(_drain_partition(worker, partition) for partition in sorted(set(partitions)))
            seconds = time.perf_counter() - started
        [(taken, completed, waiting)] = owner.execute(
            "SELECT (SELECT sum(amount) FROM entries), (SELECT count(*) FROM decisions WHERE status = 'completed'),"
            " (SELECT count(*) FROM inbox)"
        ).fetchall()
        [(told,)] = owner.execute("SELECT coalesce(sum(cardinality(request_ids)), 0) FROM fanouts").fetchall()
        assert told == (requests if webhook else 0), "somebody was not told"
        assert (decided, taken, completed, waiting) == (requests, requests, requests, 0), (
            "something was lost or doubled"
        )
    return requests / seconds


def _drain_partition(worker: database.Connection, partition: int) -> int:
    """As the workers do it: until a batch says that there is no more."""
    decided = 0
    while True:
        report = batch.drain_once(worker, partition)
        decided += report.taken
        if not report.more:
            return decided


if __name__ == "__main__":
    main()
