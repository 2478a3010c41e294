"""
The work of the peers: the same requests, tables, statement and checks for each.

A job checks the stock, takes from it, and writes a ledger entry and the state of the request, in one
transaction.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from processor.storage.connections import Connection

#: Resources that `uniform` and `zipf` are spread over.
RESOURCES = 1_000
#: Stock of each resource at the start: more than all requests take.
STOCK = 1_000_000_000
SHAPES = {
    "hot": "one hot resource",
    "uniform": "1,000 resources, evenly",
    "zipf": "1,000 resources, by Zipf (exponent 1)",
}

TABLES = """
CREATE TABLE stock (id integer PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0),
                    version bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource_id integer NOT NULL,
                     request bigint NOT NULL, amount bigint NOT NULL, available bigint NOT NULL,
                     at timestamptz NOT NULL DEFAULT now());
CREATE TABLE asked (id bigint PRIMARY KEY, resource_id integer NOT NULL, account text NOT NULL,
                    amount bigint NOT NULL, status text NOT NULL DEFAULT 'processing',
                    created_at timestamptz NOT NULL DEFAULT now(), decided_at timestamptz) WITH (fillfactor = 80);
"""
#: Decides one request in one statement, the fastest of all variants. Everything depends on the UPDATE of the
#: resource. It is safe to run twice, as a queue that delivers at least once may do. $1 is the request.
STATEMENT = """
WITH request AS (
    SELECT id, resource_id, amount FROM asked WHERE id = $1 AND status = 'processing'
), taken AS (
    UPDATE stock SET available = stock.available - request.amount, version = stock.version + 1
      FROM request WHERE stock.id = request.resource_id AND stock.available >= request.amount
    RETURNING stock.id, stock.available, request.amount
), entry AS (
    INSERT INTO ledger (resource_id, request, amount, available) SELECT id, $1, amount, available FROM taken
)
UPDATE asked SET status = CASE WHEN EXISTS (SELECT FROM taken) THEN 'completed' ELSE 'rejected' END,
                 decided_at = clock_timestamp()
 WHERE id = $1 AND status = 'processing'
"""
#: Inserts a new request of the paced runs. $1 is its id, $2 the resource, $3 the time at which it should be
#: sent.
ASK = """
INSERT INTO asked (id, resource_id, account, amount, created_at)
VALUES ($1::bigint, $2, 'u' || $1::bigint, 1, to_timestamp($3))
"""

_COUNT = """
SELECT (SELECT count(*) FROM asked WHERE status = 'completed'),
       (SELECT count(*) FROM asked WHERE status <> 'completed'),
       (SELECT count(*) FROM ledger), (SELECT count(DISTINCT request) FROM ledger),
       (SELECT coalesce(sum(amount), 0) FROM ledger), (SELECT sum(%(stock)s - available) FROM stock),
       (SELECT count(DISTINCT (resource_id, available)) FROM ledger),
       (SELECT extract(epoch FROM max(decided_at) - min(decided_at))::float8 FROM asked)
"""
#: Counts requests that came too late, in the order of their decisions. Each leaves one less than the one
#: before.
_BACKWARDS = """
SELECT count(*)
  FROM (SELECT request < lag(request) OVER (PARTITION BY resource_id ORDER BY available DESC) AS is_late
          FROM ledger) AS decided
 WHERE is_late
"""


@dataclass(frozen=True)
class Checked:
    """The result of the requests. `faults` is empty if nothing was lost or doubled and the sums are right."""

    decided: int
    #: From the first decision to the last.
    seconds: float
    #: Requests decided after a later one of the same resource.
    out_of_order: int
    faults: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Decisions a second without the first, with which the clock begins."""
        return (self.decided - 1) / self.seconds if self.decided > 1 and self.seconds > 0 else 0.0


def keys(shape: str, count: int, seed: int) -> list[int]:
    """Return the number of the resource of each request in turn, from 1."""
    if shape == "hot":
        return [1] * count
    drawn = random.Random(f"{seed}/{shape}")
    everyone = range(1, RESOURCES + 1)
    if shape == "uniform":
        return drawn.choices(everyone, k=count)
    weights = list(itertools.accumulate(1 / rank for rank in everyone))
    return drawn.choices(everyone, cum_weights=weights, k=count)


def prepare(connection: Connection, wanted: list[int]) -> None:
    """Create the tables, the stock, and a waiting request for each key."""
    connection.execute(TABLES)
    connection.execute(
        "INSERT INTO stock (id, available) SELECT i, %s FROM generate_series(1, %s) i", (STOCK, RESOURCES)
    )
    with connection.cursor().copy("COPY asked (id, resource_id, account, amount) FROM STDIN") as copy:
        for number, key in enumerate(wanted, start=1):
            copy.write_row((number, key, f"u{number}", 1))
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")


def check(connection: Connection) -> Checked:
    """Count the decisions and find faults in them."""
    [(completed, left, entries, requests, amount, taken, states, seconds)] = connection.execute(
        _COUNT, {"stock": STOCK}
    ).fetchall()
    [(late,)] = connection.execute(_BACKWARDS).fetchall()
    faults = []
    if left:
        faults.append(f"{left} not decided")
    if requests < completed:
        faults.append(f"{completed - requests} without an entry")
    if entries > requests:
        faults.append(f"{entries - requests} taken twice")
    if amount != taken:
        faults.append(f"{taken} taken, {amount} in the ledger")
    if states < entries:
        faults.append(f"{entries - states} entries that saw the same stock")
    return Checked(completed, seconds or 0.0, late, tuple(faults))
