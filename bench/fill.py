"""
Inserts rows on the server as intake and batches would have left them: waiting requests, and old decided ones.

Ids are UUIDs of version 7, as intake makes them, so that indexes grow where they would. The past is complete:
decisions are numbered, entries add up and carry their digests. `teller verify` finds no fault in it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench import lab
from bench.report import progress
from processor.domain.partitioning import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processor.storage.connections import Connection

#: Past requests inserted in one transaction, and the connections that insert them.
CHUNK = 200_000
CONNECTIONS = 2
#: The client of these requests, which owns the first client key of `teller up`.
CLIENT = "client"
ZEROS = bytes(32)
#: Accounts that the past requests are spread over.
ACCOUNTS = 100_000

#: The time is %(ms)s milliseconds, with a hundred ids in each.
_UUID7 = """(lpad(to_hex(%(ms)s::bigint + i / 100), 12, '0') || '7' || lpad(to_hex(i %% 100 * 40), 3, '0') || '8'
             || substr(md5(random()::text), 1, 15))::uuid"""

_INBOX = f"""
WITH asked AS (
    SELECT {_UUID7} AS id, i, r.name, r.partition
      FROM unnest(%(keys)b::int[]) WITH ORDINALITY AS k(key, i)
      JOIN unnest(%(numbers)b::int[], %(names)b::text[], %(partitions)b::int[]) AS r(key, name, partition) USING (key)
), made AS (
    INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,
                          account, amount)
    SELECT id, %(client)s, '00000000-0000-4000-8000-000000000000', md5(id::text), sha256('x'), 'redemption',
           partition, name, 'u' || i, 1
      FROM asked
     ORDER BY i
)
INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, 'decide' FROM asked ORDER BY i
"""  # noqa: S608 - our own text

# Each link is the digest of the one before and of its own fields. It is an aggregate, so that it can run over
# a window.
_LINK = """
CREATE OR REPLACE FUNCTION pg_temp.next_link(state bytea, before bytea, fields bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE AS 'SELECT sha256(coalesce($1, $2) || $3)';
CREATE OR REPLACE AGGREGATE pg_temp.chain(bytea, bytea) (SFUNC = pg_temp.next_link, STYPE = bytea);
"""
_PAST = f"""
CREATE TEMPORARY TABLE past ON COMMIT DROP AS
SELECT numbered.id, i, numbered.name, numbered.partition, account, at,
       p.sequence + row_number() OVER (PARTITION BY numbered.partition ORDER BY i) AS sequence,
       r.version + turn AS version, r.available - turn AS available, r.held, r.digest AS before,
       convert_to(concat_ws(E'\\n', numbered.name, r.version + turn, 'debit', replace(numbered.id::text, '-', ''),
                            account, 1, r.available - turn, r.held,
                            to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')), 'UTF8') AS fields
  FROM (SELECT {_UUID7} AS id, i, r.name, r.partition, 'u' || i %% %(accounts)s AS account,
               row_number() OVER (PARTITION BY r.name ORDER BY i) AS turn,
               date_trunc('second', now()) + interval '1 second' AS at
          FROM generate_series(1::bigint, %(count)s) AS i
          JOIN unnest(%(names)b::text[], %(partitions)b::int[]) WITH ORDINALITY AS r(name, partition, place)
            ON r.place = 1 + i %% %(resources)s) AS numbered
  JOIN resources r ON r.id = numbered.name
  JOIN partitions p ON p.id = numbered.partition
"""  # noqa: S608 - our own text
_WRITE = (
    """
INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account,
                      amount, created_at)
SELECT id, %(client)s, '00000000-0000-4000-8000-000000000000', md5(id::text), sha256('x'), 'redemption', partition,
       name, account, 1, at
  FROM past
 ORDER BY i
""",
    """
INSERT INTO decisions (request_id, status, sequence, version, refunded, decided_at, at, actor)
SELECT id, 'completed', sequence, 2, 0, at, at, 'teller'
  FROM past
 ORDER BY i
""",
    """
INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at, digest)
SELECT name, version, 'debit', id, account, 1, available, held, at,
       pg_temp.chain(before, fields) OVER (PARTITION BY name ORDER BY version)
  FROM past
 ORDER BY name, version
""",
    """
UPDATE resources r
   SET version = e.version, available = e.available, last_entry_at = e.created_at, digest = e.digest
  FROM (SELECT DISTINCT ON (resource_id) resource_id, version, available, created_at, digest
          FROM entries
         WHERE request_id IN (SELECT id FROM past)
         ORDER BY resource_id, version DESC) AS e
 WHERE r.id = e.resource_id
""",
    """
UPDATE partitions p
   SET sequence = n.sequence
  FROM (SELECT partition, max(sequence) AS sequence FROM past GROUP BY partition) AS n
 WHERE p.id = n.partition
""",
)


def name(key: int) -> str:
    """Return the id of the resource with this number."""
    return f"r{key}"


def partition(key: int, partitions: int) -> int:
    """Return the partition of the resource with this number."""
    return partition_of(name(key), partitions)


def open_resources(connection: Connection, keys: Sequence[int], partitions: int, **rules: object) -> None:
    """
    Insert resources with unlimited stock and without opening requests, for databases that are dropped
    afterwards.
    """
    columns = "".join(f", {column}" for column in rules)
    with connection.cursor().copy(
        f"COPY resources (id, kind, partition, available, created_at, digest{columns}) FROM STDIN"
    ) as copy:
        for key in keys:
            row = (
                name(key),
                "stock",
                partition(key, partitions),
                1_000_000_000,
                "now",
                ZEROS,
                *rules.values(),
            )
            copy.write_row(row)


def inbox(connection: Connection, keys: Sequence[int], partitions: int) -> None:
    """Insert one waiting request for each of these resources, in this order, in one transaction."""
    numbers = sorted(set(keys))
    _fill(connection, keys, {key: (name(key), partition(key, partitions)) for key in numbers})


def inbox_of(connection: Connection, resource: str, home: int, count: int) -> None:
    """Insert `count` waiting requests for one resource of any name."""
    _fill(connection, [1] * count, {1: (resource, home)})


def _fill(connection: Connection, keys: Sequence[int], places: dict[int, tuple[str, int]]) -> None:
    connection.execute(
        _INBOX,
        {
            "ms": time.time_ns() // 1_000_000,
            "keys": list(keys),
            "numbers": list(places),
            "names": [resource for resource, _ in places.values()],
            "partitions": [home for _, home in places.values()],
            "client": CLIENT,
        },
    )


def past(url: str, count: int, keys: Sequence[int], partitions: int) -> None:
    """
    Insert `count` more decided requests, spread evenly over these resources, which must be open.

    Uses several connections, each with its own partitions. No worker may decide meanwhile.
    """
    groups = [
        [key for key in keys if partition(key, partitions) % CONNECTIONS == share]
        for share in range(CONNECTIONS)
    ]
    shares = [count * len(group) // len(keys) for group in groups]
    shares[0] += count - sum(shares)
    tally = _Tally(count)
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(lab.connect(url)) for _ in groups]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            work = [
                pool.submit(_past, connection, share, group, partitions, tally)
                for connection, share, group in zip(connections, shares, groups, strict=True)
            ]
            try:
                for one in work:
                    one.result()
            except BaseException:
                tally.stopped = True
                for connection in connections:
                    connection.cancel()
                raise


class _Tally:
    """The progress of all connections together."""

    def __init__(self, count: int) -> None:
        self.stopped = False
        self._count = count
        self._done = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Count `size` more requests."""
        with self._lock:
            self._done += size
            rate = self._done / (time.monotonic() - self._began)
            progress(f"made {self._done:,} of {self._count:,} past requests, {rate:,.0f}/s")


def _past(connection: Connection, count: int, keys: Sequence[int], partitions: int, tally: _Tally) -> None:
    connection.execute(_LINK)
    done = 0
    while done < count and not tally.stopped:
        size = min(CHUNK, count - done)
        values = {
            "ms": time.time_ns() // 1_000_000,
            "count": size,
            "accounts": ACCOUNTS,
            "names": [name(key) for key in keys],
            "partitions": [partition(key, partitions) for key in keys],
            "resources": len(keys),
            "client": CLIENT,
        }
        with connection.transaction():
            connection.execute("SET LOCAL work_mem = '128MB'")
            connection.execute(_PAST, values)
            connection.execute("ANALYZE past")
            for statement in _WRITE:
                connection.execute(statement, values)
        done += size
        tally.add(size)
