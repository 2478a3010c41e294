"""
Synchronous replication: a commit whose wait for the standby was cancelled, or never ends, is unknown.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from processor.batch import run as batch
from processor.errors import DatabaseUnavailable
from processor.intake.intake import Intake
from processor.storage import connections, pools, server_checks
from tests.servers import PARTITIONS
from tests.standby import missing_standby
from tests.store.store import NO_LIMIT, started
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from processor.storage.connections import Connection
    from tests.store.store import Store

#: The time that a statement may stay without an answer, and that a caller waits for one, in seconds.
ANSWER_SECONDS = 0.2
#: The time after the return of the standby in which requests are accepted again, in seconds.
RECOVERY_SECONDS = 2.0
#: Requests while the standby is missing: more than there are connections.
TRIES = 9
POOL_SIZE = 3
WRITE = "SELECT pg_logical_emit_message(true, 'test', '')"


def test_a_cancelled_wait_is_no_acceptance_and_neither_is_a_repetition_of_it(store: Store) -> None:
    """
    The row is there, and on the primary alone. The repetition of the request waits for the standby, too.
    """
    asked = store.redeems("sneaker", "ada", key="the one")
    with missing_standby(store.database.url) as standby, ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(store.intake.accept, [asked])
        standby.cancel("WITH moment")  # the server shows the first kilobyte of a statement
        with pytest.raises(DatabaseUnavailable, match="synchronous replication"):
            accepting.result()
        assert store.one("SELECT count(*) FROM requests") == 1

        with pytest.raises(DatabaseUnavailable):
            store.intake.accept([asked], within_seconds=ANSWER_SECONDS)
        standby.returns()
        [receipt] = store.intake.accept([asked])

    assert receipt.replayed


def test_a_missing_standby_uses_one_connection_of_the_intake(store: Store) -> None:
    """
    The writer keeps its connection while the server waits on it, and is at work again when the standby is back.

    The thread that watches the standby has another one.
    """

    def connect() -> Connection:
        return connections.connect(
            store.database.api_url, application_name="test bounded", answer_timeout_seconds=ANSWER_SECONDS
        )

    with started(Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None)) as [one]:
        one.accept([store.redeems("sneaker", "ada")])
        with missing_standby(store.database.url) as standby:
            for number in range(TRIES):
                with pytest.raises(DatabaseUnavailable):
                    one.accept(
                        [store.redeems("sneaker", "ada", key=f"k{number}")], within_seconds=3 * ANSWER_SECONDS
                    )
            eventually(one.waits_for_standby)
            assert standby.sessions("test bounded") <= 2
            standby.returns()

            limit = Deadline(RECOVERY_SECONDS)
            eventually(lambda: not one.waits_for_standby())
            assert one.accept([store.redeems("sneaker", "ada", key="after")])
            limit.check()


def test_an_idle_intake_knows_that_the_standby_is_missing(store: Store) -> None:
    """
    Without any request, so that `readyz` can say so. `teller check` names it, too.
    """
    with missing_standby(store.database.url):
        eventually(store.intake.waits_for_standby)
        [problem] = [one for one in server_checks.problems(store.worker) if one.code == "standby_away"]
    assert problem.breaks_a_promise
    eventually(lambda: not store.intake.waits_for_standby())


def test_a_missing_standby_uses_no_more_connections_than_the_pool_has(store: Store) -> None:
    """
    A connection that waits in the server counts as lent. The pool is whole again when the standby is back.
    """
    pool = pools.open_pool(
        store.database.api_url, application_name="test pool", size=POOL_SIZE, statement_timeout_ms=2_500
    )
    with contextlib.closing(pool), missing_standby(store.database.url) as standby:
        for _ in range(TRIES):
            with pytest.raises(DatabaseUnavailable), pools.lend(pool, ANSWER_SECONDS) as connection:
                connection.execute(WRITE)
        assert 1 <= standby.sessions("test pool") <= POOL_SIZE
        standby.returns()

        limit = Deadline(RECOVERY_SECONDS)
        with pools.lend(pool, RECOVERY_SECONDS) as connection:
            connection.execute(WRITE)
        limit.check()


def test_a_batch_whose_wait_was_cancelled_is_not_announced(store: Store) -> None:
    """
    The caller of the batch gets no report. The next batch finds nothing left to do.
    """
    partition = store.open("sneaker")
    [accepted] = store.accept(store.redeems("sneaker", "ada"))
    with missing_standby(store.database.url) as standby, ThreadPoolExecutor(1) as threads:
        deciding = threads.submit(batch.drain_once, store.worker, [partition])
        standby.cancel("COMMIT")
        with pytest.raises(DatabaseUnavailable, match="synchronous replication"):
            deciding.result()

    assert store.statuses([accepted]) == ["completed"]
    assert batch.drain_once(store.worker, [partition]).taken == 0
