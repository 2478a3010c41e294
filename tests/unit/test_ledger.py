"""
The ledger: entries add up to the state, form a chain of digests, and change nothing if they fail.
"""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.domain import ledger
from processor.domain.model import MAX_QUANTITY, Entry, Resource

if TYPE_CHECKING:
    from processor.domain.model import EntryKind

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
REQUEST = uuid.UUID("019aa9c2-f1c4-7d2a-8b3e-5f60718293a4")

KINDS = st.sampled_from(sorted(ledger.MOVES))
AMOUNTS = st.one_of(st.integers(1, 20), st.integers(-3, MAX_QUANTITY))
TIMES = st.timedeltas(timedelta(days=-1), timedelta(days=1))


def _resource(available: int = 0, overdraft: int = 0) -> Resource:
    return Resource("wallet", "balance", available, NOON, overdraft=overdraft)


@given(st.integers(0, 50), st.lists(st.tuples(KINDS, AMOUNTS, TIMES), max_size=40))
def test_entries_add_up_and_chain_and_a_refused_one_changes_nothing(
    overdraft: int, moves_asked: list[tuple[EntryKind, int, timedelta]]
) -> None:
    """
    Entries of any kind in any order keep four promises.

    1. The sum of the entries is the state at every version.
    2. Each digest follows from the one before.
    3. Time never runs backwards.
    4. A refused entry changes nothing.
    """
    resource = _resource(overdraft=overdraft)
    entries: list[Entry] = []
    for kind, amount, offset in moves_asked:
        before = copy.deepcopy(resource)
        try:
            entries.append(ledger.post(resource, kind, REQUEST, "ada", amount, NOON + offset))
        except ValueError:
            assert resource == before

    digest, available, held = bytes(32), 0, 0
    for number, entry in enumerate(entries, 1):
        moves = ledger.MOVES[entry.kind]
        available, held = available + moves[0] * entry.amount, held + moves[1] * entry.amount
        assert (entry.version, entry.available, entry.held) == (number, available, held)
        assert entry.amount >= 1
        assert -overdraft <= available <= MAX_QUANTITY
        assert 0 <= held <= MAX_QUANTITY
        digest = ledger.digest_of(
            digest,
            "wallet",
            number,
            entry.kind,
            REQUEST,
            "ada",
            entry.amount,
            available,
            held,
            entry.created_at,
        )
        assert entry.digest == digest
    times = [entry.created_at for entry in entries]
    assert times == sorted(times)
    assert (resource.version, resource.available, resource.held) == (len(entries), available, held)
    assert resource.digest == digest
    assert resource.last_entry_at == (times[-1] if times else None)


@pytest.mark.parametrize(
    ("kind", "amount", "available", "held", "overdraft"),
    [
        ("debit", 1, 0, 0, 0),
        ("hold", 11, 10, 0, 0),
        ("debit", 16, 10, 0, 5),
        ("capture", 1, 10, 0, 0),
        ("release", 3, 10, 2, 0),
        ("debit", 0, 10, 0, 0),
        ("debit", -1, 10, 0, 0),
        ("credit", -1, 10, 0, 0),
        ("credit", 0, 10, 0, 0),
        ("gift", 1, 10, 0, 0),
    ],
)
def test_a_refused_entry_leaves_the_resource_as_it_was(
    kind: EntryKind, amount: int, available: int, held: int, overdraft: int
) -> None:
    """
    An entry is refused below the overdraft, without its hold, without an amount, or of no kind.
    """
    resource = replace(_resource(available, overdraft), held=held, version=3, last_entry_at=NOON)
    before = copy.deepcopy(resource)

    with pytest.raises((ValueError, KeyError)):
        ledger.post(resource, kind, REQUEST, "ada", amount, NOON)

    assert resource == before


@pytest.mark.parametrize(
    "change",
    [
        {"before": b"\1" * 32},
        {"resource_id": "wallet2"},
        {"version": 2},
        {"kind": "credit"},
        {"request_id": uuid.UUID(int=1)},
        {"account": "bob"},
        {"account": None},
        {"amount": 6},
        {"available": 6},
        {"held": 1},
        {"created_at": NOON + timedelta(microseconds=1)},
    ],
    ids=str,
)
def test_a_change_of_any_field_changes_the_digest(change: dict[str, object]) -> None:
    """
    The digest covers every field of the entry, and all entries before it.
    """
    fields: dict[str, object] = {
        "before": bytes(32),
        "resource_id": "wallet",
        "version": 1,
        "kind": "debit",
        "request_id": REQUEST,
        "account": "ada",
        "amount": 5,
        "available": 5,
        "held": 0,
        "created_at": NOON,
    }

    assert ledger.digest_of(**(fields | change)) != ledger.digest_of(**fields)  # type: ignore[arg-type]


def test_a_digest_never_changes() -> None:
    """
    A digest is permanent, whatever time zone its time is written in, so this value must never be edited.
    """
    entry = (bytes(32), "wallet", 1, "credit", REQUEST, None, 5, 5, 0)

    written = ledger.digest_of(*entry, NOON)
    elsewhere = ledger.digest_of(*entry, NOON.astimezone(timezone(timedelta(hours=2))))

    assert written.hex() == "0e8ef3c401647353fa0c751026ba17bd32d2d9354e688873ffb9cdfba997171c"
    assert elsewhere == written


@pytest.mark.parametrize(
    ("kinds", "used"),
    [
        (["debit"], 1),
        (["hold"], 1),
        (["hold", "capture"], 1),
        (["hold", "release"], 0),
        (["debit", "credit"], 0),
    ],
)
def test_a_returned_amount_no_longer_counts(kinds: list[str], used: int) -> None:
    """
    A limit counts the amounts that an account has taken or holds. A release and a credit reduce it.
    """
    assert sum(ledger.USES[kind] for kind in kinds) == used
