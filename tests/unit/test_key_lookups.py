"""
Look-ups of keys, so that many requests with one key, or with invalid keys, do not hold up the key of another client.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from api.web.auth import LOOKUPS_AT_ONCE, Authenticator
from api.web.problems import RateLimited, Unauthorized
from processor.clients import keys
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.clients.keys import Caller
    from processor.storage.connections import Connection

REQUESTS = 20
FAILURES = 3
VALID = keys.PREFIX + "v" * 43


class Database:
    """A database that has one valid key, and answers when `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lookups = 0
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend a connection."""
        with self._lock:
            self.lookups += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.gate.wait(TIMEOUT_SECONDS)
        yield cast("Connection", self)
        with self._lock:
            self.at_once -= 1

    def execute(self, _statement: object, parameters: dict[str, Any]) -> Database:
        """Look a key up."""
        self._asked = parameters["digest"]
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the row of the key."""
        is_valid = self._asked == keys.digest_of(VALID)
        return (uuid.UUID(int=1), "shop", "till", "client", self._asked) if is_valid else None


def authenticator(database: Database) -> Authenticator:
    """Return an authenticator without its thread."""

    def connect() -> Connection:
        raise AssertionError("only its thread connects")

    return Authenticator(database.lend, connect, 1_000, FAILURES)


def call(keys_of_callers: Authenticator, key: str) -> Caller:
    """Authenticate a request with this key."""
    return keys_of_callers.caller({"HTTP_AUTHORIZATION": f"Bearer {key}", "REMOTE_ADDR": "192.0.2.1"})


def test_requests_with_one_key_share_one_look_up() -> None:
    """
    However many requests of a key come before its first look-up has ended, the database is asked once.
    """
    database = Database()
    callers = authenticator(database)
    begun = threading.Semaphore(0)

    def ask() -> Caller:
        begun.release()
        return call(callers, VALID)

    with ThreadPoolExecutor(REQUESTS) as many:
        asked = [many.submit(ask) for _ in range(REQUESTS)]
        for _ in range(REQUESTS):
            assert begun.acquire(timeout=TIMEOUT_SECONDS)
        eventually(lambda: database.lookups > 0)
        database.gate.set()
        found = [one.result() for one in asked]

    assert {one.client for one in found} == {"shop"}
    assert database.lookups == 1


def test_invalid_keys_are_looked_up_one_at_a_time_until_their_address_is_refused() -> None:
    """
    Simultaneous requests with invalid keys cause no more look-ups than those that come one after the other.
    """
    database = Database()
    callers = authenticator(database)

    def ask(number: int) -> type[Exception] | None:
        try:
            call(callers, f"{keys.PREFIX}{number:043d}")
        except (Unauthorized, RateLimited) as refused:
            return type(refused)
        return None

    with ThreadPoolExecutor(REQUESTS) as many:
        asked = [many.submit(ask, number) for number in range(REQUESTS)]
        eventually(lambda: database.lookups > 0)
        database.gate.set()
        answers = [one.result() for one in asked]

    assert (answers.count(Unauthorized), answers.count(RateLimited)) == (FAILURES, REQUESTS - FAILURES)
    assert (database.lookups, database.most_at_once) == (FAILURES, LOOKUPS_AT_ONCE)
