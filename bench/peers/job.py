"""
Shared parts of the Python peers: the job, the waiting requests, and the command line of such a program.

    PROGRAM prepare             make what the peer needs
    PROGRAM enqueue             hand over all requests that wait, in order
    PROGRAM work                decide until stopped
    PROGRAM pace RATE SECONDS   make and hand over requests at this rate

Runs in the peers' own environment and imports nothing of Teller.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
REDIS_SOCKET = os.environ.get("BENCH_REDIS_SOCKET", "")
REDIS_URL = os.environ["BENCH_REDIS_URL"]
#: The number of keys that may be worked on at once.
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
#: The number of keys that paced requests go to in turn.
KEYS = int(os.environ.get("BENCH_KEYS", "1"))
#: The statement with psycopg's placeholders, which may occur twice.
STATEMENT = os.environ["BENCH_STATEMENT"].replace("$1", "%(request)s")
ASK = os.environ["BENCH_ASK"].replace("$1", "%(request)s").replace("$2", "%(key)s").replace("$3", "%(at)s")

#: A job: a request and its key.
Job = tuple[int, int]
_own: list[psycopg.Connection] = []


def connect() -> psycopg.Connection:
    """Return the connection of this process, opened at the first call."""
    if not _own:
        _own.append(psycopg.connect(DATABASE_URL, autocommit=True))
    return _own[0]


def decide(request: int) -> None:
    """Run the job: one statement, committed when this returns."""
    connect().execute(STATEMENT, {"request": request}, prepare=True)


def waiting() -> list[Job]:
    """Return all requests that are not decided, in order."""
    found = connect().execute("SELECT id, resource_id FROM asked WHERE status = 'processing' ORDER BY id")
    return [(request, key) for request, key in found]


def queue_number(key: int) -> int:
    """Return the queue of a key, where one queue serves several keys."""
    return key % CONCURRENCY


def paced(rate: float, seconds: float) -> Iterator[Job]:
    """Make new requests at this rate, each stored with the time at which it should have been sent."""
    began = time.time() + 0.5
    for number in range(int(rate * seconds)):
        planned = began + number / rate
        time.sleep(max(0.0, planned - time.time()))
        request, key = number + 1, 1 + number % KEYS
        connect().execute(ASK, {"request": request, "key": key, "at": planned}, prepare=True)
        yield request, key


def main(
    *, prepare: Callable[[], None], enqueue: Callable[[Sequence[Job]], None], work: Callable[[], None]
) -> None:
    """Run the command line."""
    match sys.argv[1:]:
        case ["prepare"]:
            prepare()
        case ["enqueue"]:
            enqueue(waiting())
        case ["work"]:
            work()
        case ["pace", rate, seconds]:
            for one in paced(float(rate), float(seconds)):
                enqueue([one])
        case other:
            sys.exit(f"unknown: {other}")
