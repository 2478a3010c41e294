"""
A primary that dies and a standby that takes its place: two PostgreSQL 15 servers, and one address that names both.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from processor.errors import DatabaseUnavailable
from processor.intake.intake import Intake, Submission, fingerprint
from processor.storage import connections, migrations, pools
from tests.postgres_pair import Pair, started_pair
from tests.servers import PARTITIONS
from tests.store.store import KEY_ID, NO_LIMIT, accepted_id, started
from tests.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection

#: The time after the promotion in which requests are accepted and read again, in seconds.
RECOVERY_SECONDS = 2.0


def _redeems(number: int) -> Submission:
    body = {"resource": "sneaker", "account": f"u{number}", "amount": 1}
    digest = fingerprint("redemption", body)
    return Submission("shop", KEY_ID, f"key-{number}", digest, "redemption", "sneaker", f"u{number}", 1)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """
    Two servers, of which the second is empty yet.
    """
    with started_pair() as started_one:
        yield started_one


def test_the_standby_takes_over_with_everything_that_was_accepted(pair: Pair) -> None:
    """
    Requests go to the primary, although the address names the standby first. After its promotion they go there.
    """
    migrations.migrate(pair.urls[0], PARTITIONS)
    pair.add_standby()
    address = pair.address("teller_api")
    pool = pools.open_pool(address, application_name="test pool", size=4, statement_timeout_ms=2_500)

    def connect() -> Connection:
        return connections.connect(address, application_name="test intake")

    with contextlib.closing(pool), started(Intake(connect, PARTITIONS, NO_LIMIT, lambda _: None)) as [one]:
        accepted = [accepted_id(receipt) for receipt in one.accept([_redeems(n) for n in range(9)])]
        pair.kill_primary()
        with pytest.raises(DatabaseUnavailable):
            one.accept([_redeems(10)])
        pair.promote()

        limit = Deadline(RECOVERY_SECONDS)
        with pools.lend(pool, RECOVERY_SECONDS) as connection:
            stored = connection.execute("SELECT id FROM requests WHERE id = ANY(%s)", (accepted,)).fetchall()
        assert one.accept([_redeems(11)])
        limit.check()
    assert {request for (request,) in stored} == set(accepted)
