"""
The worksheet decides rows in memory, in turn. A fault or a refusal leaves everything as it was.
"""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processor.batch.snapshot import CancelCommand, Row, Snapshot
from processor.batch.worksheet import Worksheet
from processor.domain import ledger
from processor.domain.decisions import Amend, Open
from processor.domain.kinds import KINDS
from processor.domain.model import MAX_QUANTITY, Effect, Request, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.domain.decisions import Decision
    from processor.domain.model import Outcome

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _sheet(*resources: Resource, cancels: dict[uuid.UUID, CancelCommand] | None = None) -> Worksheet:
    snapshot = Snapshot({resource.id: resource for resource in resources}, {}, {}, cancels or {})
    return Worksheet(NOON, {7: 100}, snapshot)


def _stock(available: int = 10, **rules: Any) -> Resource:
    return Resource("sneaker", "stock", available, NOON, **rules)


def _row(
    number: int, kind: str = "redemption", amount: int | None = 1, verb: str = "decide", **asked: Any
) -> Row:
    request = Request(uuid.UUID(int=number), "shop", kind, "sneaker", "ada", amount, **asked)
    return Row(number, 7, verb, None, request)


def _noted(sheet: Worksheet) -> list[Any]:
    """
    Return everything that a sheet would write, except states and their numbers, and its copy of the
    resources.
    """
    return copy.deepcopy(
        [
            sheet.snapshot.resources,
            sheet.snapshot.usages,
            sheet.snapshot.holding,
            sheet.entries,
            sheet.opened,
            sheet.amended,
            sheet.versions_before,
            sheet.moved_usages,
            sheet.newly_limited,
            sheet.new_effects,
        ]
    )


def _statuses(sheet: Worksheet) -> list[str]:
    return [state.code or state.status for state in sheet.new_states]


def _raise(error: Exception) -> Callable[..., Decision]:
    def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
        raise error

    return decide


def test_rows_are_decided_after_the_effects_of_earlier_rows() -> None:
    """
    Three redeem two items, and the third finds none left. Numbers continue from the partition's last one.
    """
    sheet = _sheet(_stock(2))

    for number in (1, 2, 3):
        sheet.decide(_row(number))

    assert _statuses(sheet) == ["completed", "completed", "out_of_stock"]
    assert [state.sequence for state in sheet.new_states] == [101, 102, 103]
    assert (sheet.sequences[7], sheet.rejected, sheet.failed) == (103, 1, 0)
    assert sheet.versions_before == {"sneaker": 0}


def test_a_rejection_leaves_everything_as_it_was() -> None:
    """
    A refusal is recorded as a state and changes nothing else.
    """
    sheet = _sheet(_stock(5, per_account_limit=3))
    sheet.decide(_row(1, amount=2))
    before = _noted(sheet)

    for number, amount in ((2, 2), (3, 50)):
        sheet.decide(_row(number, amount=amount))

    assert _statuses(sheet)[1:] == ["limit_reached", "limit_reached"]
    assert _noted(sheet) == before


def test_a_failed_request_does_not_affect_the_others() -> None:
    """
    The rows before and after a failed request are decided as if it did not exist. It keeps its number.
    """
    sheet, without = _sheet(_stock()), _sheet(_stock())
    for number in (1, 2, 3):
        if number == 2:
            sheet.fail(_row(number), "traceback")
        else:
            sheet.decide(_row(number))
            without.decide(_row(number))

    assert _statuses(sheet) == ["completed", "processor_error", "completed"]
    assert [state.sequence for state in sheet.new_states] == [101, 102, 103]
    assert sheet.new_states[1].trace == "traceback"
    assert _noted(sheet) == _noted(without)


@pytest.mark.parametrize(
    ("kind", "decision"),
    [
        ("opening", Open(Resource("fresh", "stock", 0, NOON, overdraft=-1), 0)),
        ("amendment", Amend({"overdraft": 3, "no such rule": 1})),
    ],
)
def test_a_decision_that_cannot_be_carried_out_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, kind: str, decision: Decision
) -> None:
    """
    A decision that cannot be carried out is a fault of that request. It leaves nothing half done.
    """
    if isinstance(decision, Open):
        decision = replace(decision, quantity=1, resource=replace(decision.resource, overdraft=-9))
    monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], rule=lambda *_: decision))
    sheet = _sheet(_stock())
    before = _noted(sheet)

    with pytest.raises((ValueError, TypeError)):
        sheet.decide(_row(1, kind))

    assert _noted(sheet) == before
    assert sheet.new_states == []


def test_a_rule_that_raises_notes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The sheet stays as it was, including the number of the next decision.
    """
    sheet = _sheet(_stock())
    before = _noted(sheet)
    monkeypatch.setitem(
        KINDS, "redemption", replace(KINDS["redemption"], rule=_raise(RuntimeError("poison")))
    )

    with pytest.raises(RuntimeError):
        sheet.decide(_row(1))

    assert (_noted(sheet), sheet.sequences[7], sheet.new_states) == (before, 100, [])


def test_a_final_request_does_not_become_failed() -> None:
    """
    A fault in a later command on a completed request leaves it completed.
    """
    sheet = _sheet(_stock())
    sheet.decide(_row(1))

    sheet.fail(_row(1, verb="settle"), "traceback")

    assert (_statuses(sheet), sheet.failed) == (["completed"], 0)


def test_a_first_limit_needs_a_fresh_read() -> None:
    """
    The sheet does not have the accounts' earlier usage, so it decides nothing more without a fresh read.
    """
    sheet = _sheet(_stock())
    sheet.decide(_row(1, "amendment", None, details={"unit": "pair"}))
    assert sheet.newly_limited is None

    sheet.decide(_row(2, "amendment", None, details={"per_account_limit": 3}))

    assert sheet.needs_reload
    assert sheet.newly_limited == "sneaker"


def test_a_limit_that_changes_needs_no_fresh_read() -> None:
    """
    Where usages are tracked already, a new limit is only another number.
    """
    sheet = _sheet(_stock(per_account_limit=1))

    sheet.decide(_row(1, "amendment", None, details={"per_account_limit": 3}))
    for number in (2, 3, 4, 5):
        sheet.decide(_row(number))

    assert not sheet.needs_reload
    assert _statuses(sheet) == ["completed"] * 4 + ["limit_reached"]
    assert sheet.moved_usages == {("sneaker", "shop", "ada"): 3}


def test_a_cancelled_request_takes_nothing_when_its_turn_comes() -> None:
    """
    The cancellation applies when the request's own turn comes. The command's turn then does nothing.
    """
    sheet = _sheet(_stock(), cancels={uuid.UUID(int=1): CancelCommand.of(None)})

    sheet.decide(_row(1))
    sheet.decide(_row(2))
    sheet.decide(_row(1, verb="cancel"))

    assert _statuses(sheet) == ["cancelled_by_client", "completed"]
    assert [entry.request_id.int for entry in sheet.entries] == [2]


@given(
    st.lists(
        st.tuples(st.sampled_from(["redemption", "withdrawal", "deposit"]), st.integers(1, 9)), max_size=30
    )
)
def test_any_sequence_of_requests_keeps_the_ledger_right(asked: list[tuple[str, int]]) -> None:
    """
    For any rows in any order, entries add up, the overdraft and the limit hold, and each row has one state.
    """
    sheet = _sheet(_stock(12, overdraft=4, per_account_limit=20))

    for number, (kind, amount) in enumerate(asked, 1):
        sheet.decide(_row(number, kind, amount))

    resource = sheet.snapshot.resources["sneaker"]
    assert resource.available == 12 + sum(
        ledger.MOVES[entry.kind][0] * entry.amount for entry in sheet.entries
    )
    assert resource.available >= -4
    assert resource.version == len(sheet.entries)
    assert sheet.snapshot.usages.get(("sneaker", "shop", "ada"), 0) <= 20
    assert [state.request_id.int for state in sheet.new_states] == list(range(1, len(asked) + 1))


#: Quantities at the ends of what fits, and small ones.
EDGES = st.one_of(st.integers(1, 3), st.integers(MAX_QUANTITY - 3, MAX_QUANTITY), st.just(MAX_QUANTITY // 2))
#: Rows: a kind or a verb, a quantity, and the number of the request that a refund or an answer is for.
STEPS = st.tuples(
    st.sampled_from(["withdrawal", "deposit", "overdraft", "limit", "gateway", "refund", "yes", "no"]),
    EDGES,
    st.integers(0, 12),
)


@given(
    available=EDGES,
    overdraft=st.sampled_from([0, 1, MAX_QUANTITY]),
    gateway=st.sampled_from([None, "bank"]),
    steps=st.lists(STEPS, max_size=12),
)
@example(MAX_QUANTITY, MAX_QUANTITY, "bank", [("withdrawal", MAX_QUANTITY, 0), ("withdrawal", 1, 0)])
def test_no_decision_leaves_a_state_that_the_constraints_refuse(
    available: int, overdraft: int, gateway: str | None, steps: list[tuple[str, int, int]]
) -> None:
    """
    Near the limits each row is decided by a rule, and no rule leaves more than fits, which PostgreSQL would refuse.

    The bounds are those of the CHECK constraints on resources, usages and entries.
    """
    sheet = _sheet(_stock(available, overdraft=overdraft, gateway=gateway))
    snapshot = sheet.snapshot
    requests = [_row(1).request]
    for number, (step, quantity, which) in enumerate(steps, 2):
        _near_the_limits(sheet, requests, number, step, quantity, which)
        snapshot.originals = {request.id: request for request in requests}

        resource = snapshot.resources["sneaker"]
        assert -resource.overdraft <= resource.available <= MAX_QUANTITY
        assert 0 <= resource.held <= MAX_QUANTITY
        assert resource.available + resource.held <= MAX_QUANTITY
        limit = resource.per_account_limit
        assert limit is None or all(0 <= used <= limit for used in snapshot.usages.values())
    assert sheet.failed == 0
    assert all(1 <= entry.amount <= MAX_QUANTITY for entry in sheet.entries)


def _near_the_limits(
    sheet: Worksheet, requests: list[Request], number: int, step: str, quantity: int, which: int
) -> None:
    """Decide one row of a step. A fault of a rule raises."""
    asked = requests[which % len(requests)]
    rules = {"overdraft": quantity, "limit": quantity, "gateway": "bank" if quantity % 2 else None}
    if step in ("yes", "no"):
        outcome: Outcome = "done" if step == "yes" else "declined"
        sheet.snapshot.effects[asked.id] = Effect(asked.id, "bank", outcome, None, None, False, False, False)
        sheet.decide(Row(number, 7, "settle", None, asked))
        return
    kind, amount = ("amendment", None) if step in rules else (step, quantity)
    name = "per_account_limit" if step == "limit" else step
    row = _row(
        number,
        kind,
        amount,
        details={name: rules[step]} if step in rules else None,
        refund_of=asked.id if step == "refund" else None,
    )
    if kind in ("amendment", "deposit"):
        row = row._replace(request=replace(row.request, account=None))
    if kind == "amendment":
        sheet.snapshot.most_used = {"sneaker": max(_used(sheet).values(), default=0)}
        sheet.snapshot.usages |= _used(sheet)  # as after the reload that a first limit needs
    requests.append(row.request)
    sheet.decide(row)


def _used(sheet: Worksheet) -> dict[tuple[str, str, str], int]:
    """Return the usages that follow from the entries."""
    used: dict[tuple[str, str, str], int] = {}
    for entry in sheet.entries:
        if entry.account is not None:
            key = (entry.resource_id, "shop", entry.account)
            used[key] = used.get(key, 0) + ledger.USES[entry.kind] * entry.amount
    return used


def test_a_limit_waits_for_a_fresh_read_if_its_usages_have_moved() -> None:
    """
    A row that sets a limit is decided with the usages that the rows before it left.
    """
    sheet = _sheet(_stock(per_account_limit=5))
    limit = _row(2, "amendment", None, details={"per_account_limit": 3})
    assert not sheet.needs_reload_before(limit)

    sheet.decide(_row(1))

    assert sheet.needs_reload_before(limit)
    assert not sheet.needs_reload_before(_row(3))
    assert not sheet.needs_reload_before(_row(4, "amendment", None, details={"per_account_limit": None}))
