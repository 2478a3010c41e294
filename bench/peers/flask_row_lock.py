"""
A plain Flask endpoint with a row lock, the usual first version: lock, read, take, write, commit, answer.

It runs on Granian with as many threads as Teller's API, and answers with the decision. Each request is stored,
decided and written to the ledger in one transaction. Without the lock it is the naive version: concurrent requests
read the same quantity, and one overwrites the other.

    BENCH_DATABASE_URL=… BENCH_LOCK=1 python -m bench.peers.flask_row_lock PORT
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg_pool
from flask import Flask, request
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import Server

from api.services import VIEWS_AT_ONCE
from bench import processes, system

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Connections to PostgreSQL: more make a hot row slower.
CONNECTIONS = 8
START_SECONDS = 60
#: The read and the write of a resource, with the lock and without.
LOCKED: Final = (
    "SELECT available FROM stock WHERE id = %s FOR UPDATE",
    "UPDATE stock SET available = available - %s, version = version + 1 WHERE id = %s",
)
UNLOCKED: Final = (
    "SELECT available FROM stock WHERE id = %s",
    "UPDATE stock SET available = %s, version = version + 1 WHERE id = %s",
)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint: its address and its process."""

    url: str
    pid: int


def create_app() -> Flask:
    """Create the endpoint, with a pool of connections."""
    application = Flask("row lock")
    has_lock = os.environ["BENCH_LOCK"] == "1"
    read, write = LOCKED if has_lock else UNLOCKED
    pool = psycopg_pool.ConnectionPool(
        os.environ["BENCH_DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS, open=True
    )

    @application.post("/redemptions")
    def redeem() -> tuple[dict[str, object], int]:
        body = request.get_json()
        resource, account, amount = body["resource"], body["account"], body.get("amount", 1)
        with pool.connection() as connection:
            [(available,)] = connection.execute(read, (resource,)).fetchall()
            status = "completed" if available >= amount else "rejected"
            if status == "completed":
                connection.execute(write, (amount if has_lock else available - amount, resource))
            [(number,)] = connection.execute(
                "INSERT INTO asked (id, resource_id, account, amount, status, decided_at)"
                " VALUES (nextval('asked_number'), %s, %s, %s, %s, clock_timestamp()) RETURNING id",
                (resource, account, amount, status),
            ).fetchall()
            if status == "completed":
                connection.execute(
                    "INSERT INTO ledger (resource_id, request, amount, available) VALUES (%s, %s, %s, %s)",
                    (resource, number, amount, available - amount),
                )
        return {"id": number, "status": status}, 200

    return application


@contextlib.contextmanager
def serving(database_url: str, *, lock: bool = True) -> Iterator[Endpoint]:
    """Run the endpoint in another process."""
    port = system.free_port()
    url = f"http://127.0.0.1:{port}"
    with processes.running(
        processes.python_module("bench.peers.flask_row_lock", str(port)),
        {"BENCH_DATABASE_URL": database_url, "BENCH_LOCK": "1" if lock else "0"},
    ) as child:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(url, timeout=1).close()
            except urllib.error.HTTPError:
                break  # the server answers that / does not exist
            except OSError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.05)
        yield Endpoint(url, child.pid)


def main() -> None:
    """Serve until the process is stopped."""
    Server(
        "row lock",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=VIEWS_AT_ONCE,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
    ).serve(target_loader=create_app, wrap_loader=False)


if __name__ == "__main__":
    main()
