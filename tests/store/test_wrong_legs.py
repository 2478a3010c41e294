"""
Exchanges and reservations that were falsified in a finished database: PostgreSQL refuses it, or `verify` names it.

Neither can see the order of requests of different partitions. The checker of tests/faults finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from processor.batch import run as batch
from processor.batch.worksheet import Worksheet
from processor.verify.checks import verify
from tests.servers import PARTITIONS
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from processor.domain.model import Request
    from tests.servers import Database
    from tests.store.store import Store

NAMES = ("points", "sneaker", "seat")


@pytest.fixture
def shop(database: Database) -> Iterator[Store]:
    """A store with an exchange, and with reservations that were captured, in part, released, and that are held."""
    with open_store(database) as store:
        for name in NAMES:
            store.open(name, "stock", 50)
        yield store


def drain(store: Store) -> None:
    while batch.drain_once(store.worker, range(PARTITIONS)).taken:
        pass


def trade(store: Store) -> UUID:
    """Return an exchange of three legs that is completed."""
    [request] = store.accept(store.exchanges("ada", ("points", -10), ("sneaker", 1), ("seat", -2)))
    drain(store)
    return request


def reserve(store: Store, verb: str | None = None, amount: int | None = None) -> UUID:
    """Return a reservation of four seats that is held, or ended by a command."""
    [request] = store.accept(store.asks("reservation", "seat", "ada", 4, details={"ttl_seconds": 600}))
    drain(store)
    if verb:
        store.owner.execute(
            "UPDATE reservations SET command = %s, accepted_at = now(), amount = %s WHERE request_id = %s",
            (verb, amount, request),
        )
        store.owner.execute(
            "INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, %s FROM requests WHERE id = %s",
            (verb, request),
        )
        drain(store)
    return request


def forge(store: Store, statement: str, request: UUID) -> set[str]:
    """Change rows as a superuser, without triggers. Returns the codes that `verify` reports."""
    assert list(verify(store.owner)) == []
    with store.owner.transaction():
        store.owner.execute("SET LOCAL session_replication_role = replica")
        assert store.owner.execute(statement.encode(), (request,)).rowcount > 0
    return {one.code for one in verify(store.owner)}


COPY = (
    "INSERT INTO entries (resource_id, version, kind, request_id, leg, account, amount, available, held, created_at,"
    " digest)"
    " SELECT resource_id, 1000, '{kind}', request_id, {leg}, account, amount, available, held, created_at, digest"
    "  FROM entries WHERE request_id = %s AND kind = '{of}'"
)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DELETE FROM entries WHERE request_id = %s AND leg = 1", "leg_effect_wrong"),
        ("DELETE FROM entries WHERE request_id = %s AND leg > 0", "leg_effect_wrong"),
        (COPY.format(kind="credit", of="credit", leg=3), "entry_unexplained"),
        ("UPDATE entries SET amount = 2 WHERE request_id = %s AND leg = 1", "leg_effect_wrong"),
        (
            "UPDATE entries SET created_at = created_at + interval '1 ms' WHERE request_id = %s AND leg = 2",
            "leg_split",
        ),
        ("UPDATE decisions SET at = at - interval '1 ms' WHERE request_id = %s", "leg_split"),
    ],
)
def test_a_falsified_exchange_is_named(shop: Store, statement: str, code: str) -> None:
    """
    A leg that is left out, written once more or otherwise, or written by another transaction.
    """
    assert code in forge(shop, statement, trade(shop))


@pytest.mark.parametrize(
    ("verb", "amount", "statement", "code"),
    [
        (None, None, "DELETE FROM reservations WHERE request_id = %s", "reservation_wrong"),
        (
            "release",
            None,
            "DELETE FROM entries WHERE request_id = %s AND kind = 'release'",
            "reservation_wrong",
        ),
        (
            "capture",
            3,
            "DELETE FROM entries WHERE request_id = %s AND kind = 'release'",
            "request_effect_wrong",
        ),
        (
            "capture",
            3,
            "UPDATE decisions SET captured = 4 WHERE request_id = %s AND current",
            "request_effect_wrong",
        ),
        (
            "capture",
            None,
            "UPDATE decisions SET status = 'cancelled', code = 'released' WHERE current AND request_id = %s",
            "request_effect_wrong",
        ),
    ],
)
def test_a_falsified_reservation_is_named(
    shop: Store, verb: str | None, amount: int | None, statement: str, code: str
) -> None:
    """
    A hold that never ends, a part whose rest is lost, and a capture that is shown as an expiry.
    """
    assert code in forge(shop, statement, reserve(shop, verb, amount))


@pytest.mark.parametrize(
    ("verb", "amount", "kind", "of"),
    [
        ("release", None, "capture", "release"),
        ("capture", None, "release", "capture"),
        ("capture", 3, "capture", "capture"),
    ],
)
def test_a_hold_cannot_end_twice(shop: Store, verb: str, amount: int | None, kind: str, of: str) -> None:
    """
    A capture after its release, a release after its capture, and a part that is captured twice.
    """
    request = reserve(shop, verb, amount)
    with pytest.raises(psycopg.errors.UniqueViolation, match="entries_once"):
        shop.owner.execute(COPY.format(kind=kind, of=of, leg=0).encode(), (request,))


def test_a_leg_cannot_be_written_twice(shop: Store) -> None:
    """
    The index that counts the end of a hold counts legs, too.
    """
    with pytest.raises(psycopg.errors.UniqueViolation, match="entries_once"):
        shop.owner.execute(COPY.format(kind="credit", of="credit", leg=1).encode(), (trade(shop),))


def test_postgresql_refuses_half_an_exchange(shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A batch that leaves a leg out is refused. Its request fails, and the others of the batch are decided.

    Without the trigger, `verify` names the request.
    """
    sound = Worksheet.move_legs

    def leave_out(sheet: Worksheet, request: Request, taker: Request, *kind: Any) -> None:
        sound(sheet, request, taker, *kind)
        del sheet.entries[-2]

    monkeypatch.setattr(Worksheet, "move_legs", leave_out)
    [half, plain] = shop.accept(
        shop.exchanges("ada", ("points", -10), ("sneaker", 1), ("seat", -2)), shop.redeems("points", "bob")
    )
    drain(shop)
    assert shop.statuses([half, plain]) == ["processor_error", "completed"]
    assert list(verify(shop.owner)) == []

    shop.owner.execute("ALTER TABLE entries DISABLE TRIGGER whole_exchange")
    trade(shop)

    assert "leg_effect_wrong" in {one.code for one in verify(shop.owner)}
