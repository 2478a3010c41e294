"""
The looks of the sweep and the take of a batch, with much waiting: each reads what it takes.

The planner has no statistics, then those of now, then those from when there were fewer rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from processor.batch import inbox
from processor.cluster import ownership
from processor.operations import approvals
from processor.storage import arrays, connections
from tests.servers import PARTITIONS
from tests.store.plans import reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

#: The requests that wait in one partition, and how many times as many there are later.
WAITING: Final = 4_000
TIMES_LATER: Final = 4
#: The rows that are taken of it.
TAKEN: Final = 100
#: A statement reads at most this multiple of the blocks that it read when few requests waited, and this number more.
BLOCKS_RATIO: Final = 1.5
BLOCKS_MORE: Final = 50

#: Requests that wait in partition 0, half of them for a code. The sweep has found one of a hundred codes expired.
FLOOD: Final = (
    """
INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account,
                      amount)
SELECT md5('r' || n)::uuid, 'shop', md5('key')::uuid, 'key-' || n, sha256('x'), 'withdrawal', 0, 'till', 'u' || n, 5
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
""",
    """
INSERT INTO inbox (partition, request_id, verb)
SELECT 0, md5('r' || n)::uuid, 'decide'
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
""",
    """
INSERT INTO codes (id, client_id, destination, request_id, has_turn, due_at, expires_at)
SELECT gen_random_uuid(), 'shop', 'u' || n || '@example.com', md5('r' || n)::uuid, true, NULL,
       now() + interval '1 hour'
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
 WHERE n %% 2 = 0
""",
)


@pytest.fixture
def worker(database: Database, store: Store) -> Iterator[Connection]:
    """A worker's connection to a database in which much is waiting."""
    store.owner.execute("ANALYZE inbox, requests, codes, partitions")
    flood(store.owner, 1, WAITING)
    with connections.connect(database.worker_url, application_name="test worker") as connection:
        yield connection


def flood(owner: Connection, first: int, last: int) -> None:
    """Insert requests that wait."""
    for statement in FLOOD:
        owner.execute(statement, {"first": first, "last": last})


def test_each_look_and_take_reads_what_it_takes(store: Store, worker: Connection) -> None:
    """
    The sweep looks each half second, and a batch counts the depth of its partitions.
    """
    blocks: dict[str, int] = {}

    for statistics in ("none", "new", "old", "of many"):
        for name, (statement, parameters) in (steps() | end_of_a_batch(worker)).items():
            packed = arrays.packed(statement, parameters)
            read = reads(worker, statement, packed)
            before = blocks.setdefault(name, read.blocks)
            assert read.blocks <= BLOCKS_RATIO * before + BLOCKS_MORE, (name, statistics, before)
            assert read.rows <= 10 * TAKEN, (name, statistics)
        if statistics == "new":
            flood(store.owner, WAITING + 1, TIMES_LATER * WAITING)
        else:
            store.owner.execute("ANALYZE")


def steps() -> dict[str, tuple[str, dict[str, Any]]]:
    """
    Return the statements with their parameters.
    """
    everything = list(range(PARTITIONS))
    return {
        "look of the sweep": (
            ownership.SQL["neglected"],
            {"partitions": everything, "older_than_seconds": 0.0},
        ),
        "look below the marks": (ownership.SQL["hidden"], {"partitions": everything}),
        "look at codes": (approvals.SQL["expire"], {"partitions": everything, "limit": 100}),
        "take": (
            inbox.SQL["take_inbox"],
            {"partitions": everything, "share": TAKEN, "batch_limit": TAKEN},
        ),
        "partitions of a batch": (inbox.SQL["read_partitions"], {"partitions": everything}),
    }


def end_of_a_batch(worker: Connection) -> dict[str, tuple[str, dict[str, Any]]]:
    """
    Return the statement that ends a batch, with its parameters for rows that wait.
    """
    with worker.transaction(force_rollback=True):
        taken = inbox.take(arrays.executor(worker, inbox.SQL), [0], TAKEN)
    parameters = {
        "ctids": [row.ctid for row in taken.rows],
        "seqs": [row.seq for row in taken.rows],
        "partitions": [0],
        "sequences": [len(taken.rows)],
        "counts": [len(taken.rows)],
        "last_seqs": [taken.rows[-1].seq],
        "settled_xid": taken.settled_xid,
    }
    return {"end of a batch": (inbox.SQL["finish_partitions"], parameters)}
