"""
Reservations on PostgreSQL: a hold ends once, by the command that was accepted, else by its expiry.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from processor.batch import run as batch
from processor.operations import reservations
from tests.store.holds import command, lapse, quantities
from tests.store.store import at_once

if TYPE_CHECKING:
    import uuid

    from tests.store.store import Store


def reserve(store: Store, resource: str, account: str = "ada", amount: int = 2, ttl: int = 600) -> uuid.UUID:
    """Submit a reservation and decide it. Returns its id."""
    [asked] = store.accept(store.asks("reservation", resource, account, amount, details={"ttl_seconds": ttl}))
    store.drain(resource)
    return asked


def expire(store: Store, *resources: str) -> list[uuid.UUID]:
    """End what is over, as the sweep and the drain of a worker do. Returns the requests."""
    partitions = {store.one("SELECT partition FROM resources WHERE id = %s", name) for name in resources}
    due = reservations.expired(store.worker, partitions)
    return batch.expire_once(store.worker, set().union(*due)).decided if due else []


def kinds(store: Store, resource: str) -> list[str]:
    """Return the kinds of the entries, oldest first, without that of the opening."""
    return [entry[1] for entry in store.entries(resource)[1:]]


@pytest.mark.parametrize(
    ("verb", "end", "left"), [("capture", "completed", (8, 0)), ("release", "released", (10, 0))]
)
def test_a_held_amount_is_captured_or_released(
    store: Store, verb: str, end: str, left: tuple[int, int]
) -> None:
    """
    The amount leaves `available` with the hold. A capture takes it for good, and a release gives it back.
    """
    store.open("seat", available=10, per_account_limit=5)
    asked = reserve(store, "seat")
    assert store.one("SELECT stage FROM decisions WHERE request_id = %s AND current", asked) == "held"
    assert (quantities(store, "seat"), store.used("seat")) == ((8, 2), {"ada": 2})

    assert command(store, verb, asked)
    store.drain("seat")

    assert store.statuses([asked]) == [end]
    assert quantities(store, "seat") == left
    assert kinds(store, "seat") == ["hold", verb]
    assert store.used("seat") == {"ada": 2 if verb == "capture" else 0}
    assert store.one("SELECT count(*) FROM reservations") == 0
    store.check_ledger()


def test_a_reservation_that_is_over_gives_everything_back_once(store: Store) -> None:
    """
    The expiry finds the hold by its time. It does not wait behind the inbox, and a second one finds nothing.
    """
    store.open("seat", available=2, per_account_limit=2)
    asked = reserve(store, "seat")
    [behind] = store.accept(store.redeems("seat", "bob", 2))
    lapse(store, asked)

    assert expire(store, "seat") == [asked]
    assert expire(store, "seat") == []
    assert not command(store, "capture", asked)
    store.drain("seat")

    assert store.statuses([asked, behind]) == ["reservation_expired", "completed"]
    assert kinds(store, "seat") == ["hold", "release", "debit"]
    assert store.used("seat") == {"ada": 0, "bob": 2}
    store.check_ledger()


@pytest.mark.parametrize(("verb", "end"), [("capture", "completed"), ("release", "released")])
def test_an_accepted_command_counts_however_late_it_is_decided(store: Store, verb: str, end: str) -> None:
    """
    The command was accepted before the expiry. It is decided after it, and no expiry comes in between.
    """
    store.open("seat", available=10)
    asked = reserve(store, "seat")
    assert command(store, verb, asked)
    with store.owner.transaction():
        store.owner.execute("ALTER TABLE reservations DISABLE TRIGGER command")
        lapse(store, asked, -60)
        store.owner.execute("ALTER TABLE reservations ENABLE TRIGGER command")

    assert expire(store, "seat") == []
    store.drain("seat")

    assert store.statuses([asked]) == [end]


def test_one_of_many_simultaneous_commands_is_accepted(store: Store) -> None:
    """
    Captures and releases at the same instant: one is accepted, and the hold ends by it.
    """
    store.open("seat", available=10)
    for _ in range(5):
        asked = reserve(store, "seat", amount=1)
        verbs = ["capture", "release"] * 5
        accepted = at_once(*(partial(command, store, verb, asked) for verb in verbs))
        store.drain("seat")

        assert accepted.count(True) == 1
        won = verbs[accepted.index(True)]
        assert store.statuses([asked]) == ["completed" if won == "capture" else "released"]
    store.check_ledger()


def test_a_command_and_an_expiry_at_the_same_instant(store: Store) -> None:
    """
    Whichever comes first, an accepted capture is carried out, and a refused one leaves the expiry.
    """
    store.open("seat", available=100)
    for _ in range(10):
        asked = reserve(store, "seat", amount=1)
        lapse(store, asked, 0.02)
        done: dict[str, Any] = {}

        def try_to_capture(asked: uuid.UUID = asked, done: dict[str, Any] = done) -> None:
            while (state := command(store, "capture", asked)) is False and "over" not in done:
                pass
            done["accepted"] = state

        def look(done: dict[str, Any] = done) -> None:
            while "over" not in done and "accepted" not in done:
                if expire(store, "seat"):
                    done["over"] = True

        at_once(try_to_capture, look)
        store.drain("seat")
        assert store.statuses([asked]) == ["completed" if done["accepted"] else "reservation_expired"]
    store.check_ledger()
