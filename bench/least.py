"""
Measures the least that each step could take on this machine, in microseconds of CPU for each request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench import fill, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection

#: Approximate size of an inbox row, an entry or a decision on a socket, in bytes.
ROW_BYTES = 200
LOOPS = 50_000
#: Bytes sent over a socket at once.
CHUNK_BYTES = 65_536

#: User and system microseconds for each request.
Micros = tuple[float, float]


def store(connection: Connection, resource: str, partition: int, count: int) -> Micros:
    """Let the server store requests and inbox rows as intake leaves them, and roll back."""
    with _undone(connection):
        return _cost(connection, count, lambda: fill.inbox_of(connection, resource, partition, count))


def decide(connection: Connection, partition: int) -> Micros:
    """
    Write an entry and a decision for each waiting row of this partition, empty its inbox, and roll back.
    """
    return _write(
        connection,
        partition,
        "INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at,"
        " digest) SELECT r.resource_id, 1000000 + i.seq, 'debit', r.id, r.account, r.amount, 1000000000 - i.seq, 0,"
        " now(), sha256('x') FROM inbox i JOIN requests r ON r.id = i.request_id WHERE i.partition = %(partition)s",
        "INSERT INTO decisions (request_id, status, sequence, version, refunded, decided_at, at, actor) SELECT"
        " request_id, 'completed', 1000000 + seq, 2, 0, now(), now(), 'teller' FROM inbox"
        " WHERE partition = %(partition)s",
    )


def settle(connection: Connection, partition: int) -> Micros:
    """Do the same for captured holds, with the previous decisions superseded, and roll back."""
    return _write(
        connection,
        partition,
        "INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at,"
        " digest) SELECT r.resource_id, 1000000 + i.seq, 'capture', r.id, r.account, r.amount, 1000000000 - i.seq, 0,"
        " now(), sha256('x') FROM inbox i JOIN requests r ON r.id = i.request_id WHERE i.partition = %(partition)s",
        "UPDATE decisions SET current = false WHERE current AND request_id IN"
        " (SELECT request_id FROM inbox WHERE partition = %(partition)s)",
        "INSERT INTO decisions (request_id, status, sequence, version, refunded, decided_at, at, actor) SELECT"
        " request_id, 'completed', 1000000 + seq, 3, 0, now(), now(), 'teller' FROM inbox"
        " WHERE partition = %(partition)s",
    )


def _write(connection: Connection, partition: int, *statements: str) -> Micros:
    values = {"partition": partition}

    def write() -> None:
        for statement in statements:
            connection.execute(statement, values)
        connection.execute("DELETE FROM inbox WHERE partition = %(partition)s", values)

    [(count,)] = connection.execute(
        "SELECT count(*) FROM inbox WHERE partition = %(partition)s", values
    ).fetchall()
    with _undone(connection):
        return _cost(connection, count, write)


@contextlib.contextmanager
def _undone(connection: Connection) -> Iterator[None]:
    """Roll back everything that the block writes."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _cost(connection: Connection, count: int, act: object) -> Micros:
    backend = connection.info.backend_pid
    before = processes.one(backend)
    assert callable(act)
    act()
    after = processes.one(backend)
    return (after.user - before.user) / count * 1e6, (after.system - before.system) / count * 1e6


def hash_and_note() -> float:
    """Compute one digest over the previous one and the fields of an entry, and build its two rows."""
    now, digest = datetime.now(UTC), bytes(32)
    rows: list[tuple[object, ...]] = []
    began = time.process_time()
    for number in range(LOOPS):
        fields = f"hot\n{number}\ndebit\n{number:032x}\nu{number}\n1\n{number}\n0\n{now.isoformat()}"
        digest = hashlib.sha256(digest + fields.encode()).digest()
        rows.append(("hot", number, "debit", number, "u1", 1, number, 0, now, digest))
        rows.append((number, "completed", None, number))
    return (time.process_time() - began) / LOOPS * 1e6


def parse(length: int, items: int) -> float:
    """Parse one item of a JSON body of this length."""
    one = {"kind": "redemption", "idempotency_key": "k" * 20, "resource": "hot", "account": "u1"}
    body = json.dumps({"requests": [one] * max(1, length // len(json.dumps(one)))})
    began = time.process_time()
    for _ in range(20):
        json.loads(body)
    return (time.process_time() - began) / 20 / items * 1e6


def carry(length: int) -> float:
    """Send this many bytes over a Unix socket. Counts the sender and the receiver together."""
    ours, theirs = socket.socketpair()
    total = length * LOOPS
    began = time.process_time()

    def take() -> None:
        left = total
        while left > 0:
            left -= len(theirs.recv(CHUNK_BYTES))

    reader = threading.Thread(target=take)
    reader.start()
    chunk, left = bytes(CHUNK_BYTES), total
    while left > 0:
        left -= ours.send(chunk[:left])
    reader.join()
    ours.close()
    theirs.close()
    return (time.process_time() - began) / LOOPS * 1e6
