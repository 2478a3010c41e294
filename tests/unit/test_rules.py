"""
The rules as tables of situations and decisions. The first of several reasons to refuse is the one given.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.domain.decisions import (
    Amend,
    Cancel,
    Capture,
    Close,
    Credit,
    Debit,
    GiveBack,
    Hold,
    Nothing,
    Open,
    PaidAfterRefund,
    Rejected,
    Release,
    ReleaseHeld,
    RetryEffect,
    Unsettled,
)
from processor.domain.kinds import KINDS
from processor.domain.model import (
    MAX_QUANTITY,
    SHORTAGE,
    Effect,
    Outcome,
    Request,
    Resource,
    ResourceKind,
    State,
)
from processor.domain.rules import cancellations, daily_limits, refunds, replays, settling
from processor.domain.rules.daily_limits import DailyUsage

if TYPE_CHECKING:
    from datetime import date

    from processor.domain.decisions import Decision
    from processor.domain.kinds import Rule

NOON: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
SOON, EARLIER = NOON + timedelta(microseconds=1), NOON - timedelta(microseconds=1)
SOON_TEXT: Final = SOON.isoformat()
INVALID: Final = Rejected("invalid_amendment")
REQUEST: Final = Request(uuid.UUID(int=1), "shop", "redemption", "sneaker", "ada", 1)
RESOURCE: Final = Resource("sneaker", "stock", 10, NOON)

TAKING: Final = ("redemption", "withdrawal")

#: Reasons to refuse, in their order: changes of the resource, changes of the request, the amount already
#: used.
REASONS: Final[list[tuple[str, dict[str, Any], dict[str, Any], int]]] = [
    ("resource_not_found", {"client_id": "another client"}, {}, 0),
    ("resource_closed", {"closed_at": EARLIER}, {}, 0),
    ("not_started", {"starts_at": SOON}, {}, 0),
    ("ended", {"ends_at": NOON}, {}, 0),
    ("deadline_passed", {}, {"apply_before": NOON}, 0),
    ("limit_reached", {"per_account_limit": 2}, {}, 2),
    ("out_of_stock", {"available": 0}, {}, 0),
]


def _rule(kind: str) -> Rule:
    rule = KINDS[kind].rule
    assert rule is not None
    return rule


def _decide(kind: str, resource: Resource | None, used: int = 0, **asked: Any) -> Decision:
    return _rule(kind)(replace(REQUEST, kind=kind, **asked), resource, used, NOON)


@pytest.mark.parametrize("kind", TAKING)
@pytest.mark.parametrize(("code", "resource", "request_", "used"), REASONS, ids=[r[0] for r in REASONS])
def test_each_reason_alone_refuses(
    kind: str, code: str, resource: dict[str, Any], request_: dict[str, Any], used: int
) -> None:
    """
    Each reason is sufficient by itself.
    """
    assert _decide(kind, replace(RESOURCE, **resource), used, **request_) == Rejected(code)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TAKING)
def test_the_first_of_several_reasons_is_given(kind: str) -> None:
    """
    In every combination of reasons, the answer has the first one of the fixed order.
    """
    for size in range(1, len(REASONS) + 1):
        for reasons in itertools.combinations(REASONS, size):
            resource, request, used = RESOURCE, REQUEST, 0
            for _, on_resource, on_request, taken in reasons:
                resource, request = replace(resource, **on_resource), replace(request, **on_request)
                used = max(used, taken)
            decision = _rule(kind)(request, resource, used, NOON)
            assert decision == Rejected(reasons[0][0])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["redemption", "withdrawal", "deposit", "amendment", "closing"])
def test_a_missing_resource_is_refused(kind: str) -> None:
    """
    Without a resource the answer is that it does not exist.
    """
    assert _decide(kind, None) == Rejected("resource_not_found")


@pytest.mark.parametrize("kind", TAKING)
@pytest.mark.parametrize(
    ("resource", "used", "asked", "expected"),
    [
        ({}, 0, {}, Debit(1)),
        ({"available": 1}, 0, {}, Debit(1)),
        ({"available": 10}, 0, {"amount": 10}, Debit(10)),
        ({"available": 10}, 0, {"amount": 11}, Rejected("out_of_stock")),
        ({"available": 0, "overdraft": 5}, 0, {"amount": 5}, Debit(5)),
        ({"available": 0, "overdraft": 5}, 0, {"amount": 6}, Rejected("out_of_stock")),
        ({"available": -5, "overdraft": 5}, 0, {}, Rejected("out_of_stock")),
        ({"available": 5, "held": 5}, 0, {"amount": 6}, Rejected("out_of_stock")),
        ({"per_account_limit": 3}, 2, {}, Debit(1)),
        ({"per_account_limit": 3}, 2, {"amount": 2}, Rejected("limit_reached")),
        ({"per_account_limit": 3}, 9, {}, Rejected("limit_reached")),
        ({"starts_at": NOON}, 0, {}, Debit(1)),
        ({"ends_at": SOON}, 0, {}, Debit(1)),
        ({"client_id": "shop"}, 0, {}, Debit(1)),
        ({}, 0, {"apply_before": SOON}, Debit(1)),
        ({"gateway": "bank"}, 0, {"amount": 4}, Hold(4, "bank")),
        ({"gateway": "bank", "available": 0}, 0, {}, Rejected("out_of_stock")),
        ({"available": MAX_QUANTITY}, 0, {"amount": MAX_QUANTITY}, Debit(MAX_QUANTITY)),
        ({"gateway": "bank", "overdraft": MAX_QUANTITY, "held": MAX_QUANTITY - 1}, 0, {}, Hold(1, "bank")),
        ({"gateway": "bank", "overdraft": MAX_QUANTITY, "held": MAX_QUANTITY}, 0, {}, Rejected("too_large")),
        ({"gateway": "bank", "available": 0, "held": MAX_QUANTITY}, 0, {}, Rejected("out_of_stock")),
    ],
)
def test_taking_up_to_the_edge_and_not_over_it(
    kind: str, resource: dict[str, Any], used: int, asked: dict[str, Any], expected: Decision
) -> None:
    """
    The last possible amount, moment and share is accepted, and one more is refused.
    """
    assert _decide(kind, replace(RESOURCE, **resource), used, **asked) == expected


def test_each_kind_of_resource_has_its_own_shortage() -> None:
    """
    Each kind of resource has its own code for "not enough left".
    """
    decisions = {
        kind: _decide("redemption", replace(RESOURCE, kind=kind, available=0))
        for kind in get_args(ResourceKind)
    }

    assert decisions == {
        "balance": Rejected("insufficient_funds"),
        "pool": Rejected("insufficient_funds"),
        "points": Rejected("insufficient_points"),
        "stock": Rejected("out_of_stock"),
        "seat": Rejected("out_of_stock"),
        "coupon": Rejected("fully_redeemed"),
    }


@given(
    available=st.integers(-100, 100),
    overdraft=st.integers(0, 100),
    amount=st.integers(1, 250),
    limit=st.one_of(st.none(), st.integers(1, 50)),
    used=st.integers(0, 60),
)
def test_a_yes_never_leads_below_the_overdraft_or_above_the_limit(
    available: int, overdraft: int, amount: int, limit: int | None, used: int
) -> None:
    """
    An accepted request stays within both bounds, and a refused one would break one of them.
    """
    resource = replace(RESOURCE, available=available, overdraft=overdraft, per_account_limit=limit)

    decision = _decide("redemption", resource, used, amount=amount)

    fits = available - amount >= -overdraft and (limit is None or used + amount <= limit)
    assert isinstance(decision, Debit) == fits


@pytest.mark.parametrize(
    ("kind", "resource", "asked", "expected"),
    [
        ("deposit", {}, {"amount": 5}, Credit(5)),
        ("deposit", {"closed_at": EARLIER}, {"amount": 5}, Rejected("resource_closed")),
        ("deposit", {"client_id": "another client"}, {"amount": 5}, Credit(5)),
        ("deposit", {"available": 0}, {"amount": MAX_QUANTITY}, Credit(MAX_QUANTITY)),
        ("deposit", {"available": 1}, {"amount": MAX_QUANTITY}, Rejected("too_large")),
        ("deposit", {"available": 0, "held": 1}, {"amount": MAX_QUANTITY}, Rejected("too_large")),
        ("deposit", {"available": -1, "overdraft": 1}, {"amount": MAX_QUANTITY}, Credit(MAX_QUANTITY)),
        ("closing", {}, {}, Close()),
        ("closing", {"closed_at": EARLIER}, {}, Rejected("resource_closed")),
        ("amendment", {}, {"details": None}, Amend({})),
        ("amendment", {}, {"details": {"overdraft": 5}}, Amend({"overdraft": 5})),
        ("amendment", {}, {"details": {"client": "shop"}}, Amend({"client_id": "shop"})),
        ("amendment", {}, {"details": {"ends_at": None}}, Amend({"ends_at": None})),
        ("amendment", {}, {"details": {"starts_at": "2026-11-21T12:00:00Z"}}, Amend({"starts_at": NOON})),
        ("amendment", {"closed_at": EARLIER}, {"details": {}}, Rejected("resource_closed")),
        (
            "amendment",
            {"kind": "balance", "available": -5, "overdraft": 9},
            {"details": {"overdraft": 4}},
            INVALID,
        ),
        (
            "amendment",
            {"kind": "balance", "available": -5, "overdraft": 9},
            {"details": {"overdraft": 5}},
            Amend({"overdraft": 5}),
        ),
        ("amendment", {"ends_at": NOON}, {"details": {"starts_at": SOON_TEXT}}, INVALID),
        ("amendment", {"starts_at": SOON}, {"details": {"ends_at": SOON_TEXT}}, INVALID),
        ("amendment", {}, {"details": {"starts_at": SOON_TEXT, "ends_at": SOON_TEXT}}, INVALID),
        (
            "amendment",
            {"ends_at": NOON},
            {"details": {"starts_at": SOON_TEXT, "ends_at": None}},
            Amend({"starts_at": SOON, "ends_at": None}),
        ),
        ("amendment", {"starts_at": SOON, "ends_at": NOON}, {"details": {"unit": "x"}}, Amend({"unit": "x"})),
        ("opening", {}, {"details": {"kind": "stock"}}, Rejected("resource_exists")),
        (
            "opening",
            {"client_id": "another client"},
            {"details": {"kind": "seat"}},
            Rejected("resource_exists"),
        ),
        ("opening", {"closed_at": EARLIER}, {"details": {"kind": "seat"}}, Rejected("resource_exists")),
    ],
)
def test_deposits_openings_amendments_and_closings(
    kind: str, resource: dict[str, Any], asked: dict[str, Any], expected: Decision
) -> None:
    """
    Deposits, amendments, closings, and openings of existing resources.
    """
    assert _decide(kind, replace(RESOURCE, **resource), **asked) == expected


@pytest.mark.parametrize(("limit", "used", "fits"), [(5, 5, True), (5, 6, False), (None, 6, True)])
def test_a_limit_below_what_an_account_has_used_is_no_limit(
    limit: int | None, used: int, *, fits: bool
) -> None:
    """
    An amendment cannot set a limit that an account has already passed. To remove the limit is always possible.
    """
    decision = _decide(
        "amendment", RESOURCE, used, account=None, amount=None, details={"per_account_limit": limit}
    )

    assert decision == (Amend({"per_account_limit": limit}) if fits else INVALID)


def test_an_amendment_that_names_a_fixed_rule_is_refused() -> None:
    """
    The API refuses decimals before. A batch refuses them too, whatever wrote the request.
    """
    decision = _decide(
        "amendment", RESOURCE, account=None, amount=None, details={"unit": "EUR", "decimals": 3}
    )

    assert decision == INVALID


def test_an_opening_makes_a_resource_with_its_rules() -> None:
    """
    The resource begins empty, with the given rules. Its first quantity is an entry.
    """
    rules = {
        "kind": "coupon",
        "unit": "EUR",
        "decimals": 2,
        "per_account_limit": 2,
        "client": "shop",
        "ends_at": "2026-11-21T12:00:00Z",
        "metadata": {"a": 1},
    }

    decision = _decide("opening", None, amount=7, details=rules)

    assert decision == Open(
        Resource(
            "sneaker", "coupon", 0, NOON, unit="EUR", client_id="shop", per_account_limit=2, ends_at=NOON,
            metadata={"a": 1}, decimals=2,
        ),
        7,
    )  # fmt: skip
    assert rules["kind"] == "coupon"  # the request itself is not changed


def test_every_kind_of_resource_has_a_shortage_code() -> None:
    """
    A new kind of resource without its code fails here and not in a batch.
    """
    assert set(SHORTAGE) == set(get_args(ResourceKind))


TODAY: Final = NOON.date()


@pytest.mark.parametrize(
    ("limit", "usage", "decision", "passes"),
    [
        (None, (TODAY, 99), Debit(5), True),
        (5, None, Debit(5), True),
        (5, None, Debit(6), False),
        (5, None, Hold(6, "bank"), False),
        (5, (TODAY, 2), Debit(3), True),
        (5, (TODAY, 2), Debit(4), False),
        (5, (TODAY, 9), Debit(1), False),
        (5, (TODAY - timedelta(days=1), 5), Debit(5), True),
        (5, (TODAY, 5), Credit(9), True),
        (5, (TODAY, 5), Rejected("out_of_stock"), True),
    ],
)
def test_an_account_takes_at_most_its_limit_within_a_day(
    limit: int | None, usage: tuple[date, int] | None, decision: Decision, *, passes: bool
) -> None:
    """
    Each decision that takes is counted, of whatever kind, and a new day begins with nothing used.
    """
    resource = replace(RESOURCE, per_account_daily_limit=limit)
    used = None if usage is None else DailyUsage(*usage)

    checked = daily_limits.check(decision, resource, used, NOON)

    assert checked == (decision if passes else Rejected("daily_limit_reached"))


def test_the_day_of_a_daily_limit_is_that_of_the_entry() -> None:
    """
    After the clock was set back over midnight, entries have the later time, and so does the count.
    """
    tomorrow = NOON + timedelta(days=1)
    resource = replace(RESOURCE, per_account_daily_limit=5, last_entry_at=tomorrow)
    used = DailyUsage(tomorrow.date(), 5)

    assert daily_limits.check(Debit(1), resource, used, NOON) == Rejected("daily_limit_reached")


# ---------------------------------------------------------------- later commands


def _state(status: str, stage: str | None = None, refunded: int = 0, detail: str | None = None) -> State:
    return State(
        request_id=REQUEST.id,
        version=2,
        status=status,
        stage=stage,
        code=None,
        reason=None,
        reference=None,
        refunded=refunded,
        sequence=1,
        decided_at=NOON,
        detail=detail,
        trace=None,
    )


def _effect(outcome: Outcome | None, *, calling: bool = False, voided: bool = False) -> Effect:
    return Effect(
        REQUEST.id,
        "bank",
        outcome,
        "ref" if outcome == "done" else None,
        "why",
        calling,
        outcome is None,
        voided,
    )


@pytest.mark.parametrize(
    ("state", "cancels"),
    [
        (None, True),
        (_state("processing", "awaiting_confirmation"), True),
        (_state("processing", "awaiting_approval"), True),
        (_state("processing", "settling"), False),
        (_state("processing", "held"), False),
        (_state("completed"), False),
        (_state("rejected"), False),
        (_state("refunded"), False),
        (_state("cancelled"), False),
        (_state("failed"), False),
    ],
)
def test_a_request_is_cancelled_only_while_nothing_is_taken(state: State | None, *, cancels: bool) -> None:
    """
    A request is cancelled while it is undecided or waits for a code or an approval. Later it stays as it is.
    """
    assert isinstance(cancellations.decide(state, "client"), Cancel if cancels else Nothing)


def test_a_cancel_is_named_after_the_side_that_gave_it() -> None:
    """
    The code and the line of the history name the client or the operator; the operator's reason is kept.
    """
    by_client = cancellations.decide(None, "client")
    by_operator = cancellations.decide(None, "operator", "sold by mistake")

    assert isinstance(by_client, Cancel)
    assert isinstance(by_operator, Cancel)
    assert (by_client.code, by_client.reason) == ("cancelled_by_client", None)
    assert (by_operator.code, by_operator.reason) == ("cancelled_by_operator", "sold by mistake")
    assert "its client" in by_client.detail
    assert "an operator" in by_operator.detail


SETTLING: Final = _state("processing", "settling")
FAILED: Final = _state("failed")


@pytest.mark.parametrize(
    ("state", "effect", "holding", "expected"),
    [
        (SETTLING, _effect("done"), True, Capture("ref")),
        (SETTLING, _effect("declined"), True, Release("gateway_declined", "why")),
        (SETTLING, _effect("misconfigured"), True, Unsettled("gateway_misconfigured", "why")),
        (SETTLING, _effect("unknown"), True, Unsettled("gateway_unreachable", "why")),
        (SETTLING, _effect(None), True, Nothing()),
        (SETTLING, None, True, Nothing()),
        (None, _effect("done"), True, Nothing()),
        (FAILED, _effect("done"), True, Capture("ref")),
        (FAILED, _effect("declined"), True, Release("gateway_declined", "why")),
        (FAILED, _effect("unknown"), True, Nothing()),
        (_state("completed"), _effect("done"), False, Nothing()),
        (_state("refunded"), _effect("declined"), False, Nothing()),
        (_state("refunded"), _effect("done", voided=True), False, PaidAfterRefund("ref")),
        (_state("refunded"), _effect("unknown", voided=True), False, Nothing()),
        (
            _state("refunded", detail=settling.PAID_AFTER_REFUND),
            _effect("done", voided=True),
            False,
            Nothing(),
        ),
    ],
)
def test_the_answer_of_a_gateway_settles_the_hold(
    state: State | None,
    effect: Effect | None,
    holding: bool,
    expected: Decision,
) -> None:
    """
    Yes captures and no releases. An unknown outcome never refunds, and a final request is not changed again.
    """
    assert settling.decide(state, effect, holding) == expected


@pytest.mark.parametrize("outcome", [*get_args(Outcome), None])
@pytest.mark.parametrize("state", [SETTLING, FAILED, _state("completed"), _state("refunded"), None])
@pytest.mark.parametrize("voided", [True, False])
def test_only_a_definite_answer_moves_money_and_only_while_it_is_held(
    outcome: Outcome | None, state: State | None, *, voided: bool
) -> None:
    """
    In all situations a capture needs a yes, a release needs a no, and both need an open hold.
    """
    for holding in (True, False):
        decision = settling.decide(state, _effect(outcome, voided=voided), holding)
        assert not isinstance(decision, Capture) or (holding and outcome == "done")
        assert not isinstance(decision, Release) or (holding and outcome == "declined")


@pytest.mark.parametrize(
    ("state", "effect", "holding", "expected"),
    [
        (FAILED, None, False, None),
        (FAILED, _effect("unknown"), True, RetryEffect()),
        (FAILED, _effect("misconfigured"), True, RetryEffect()),
        (FAILED, _effect("done"), True, Capture("ref")),
        (FAILED, _effect("declined"), True, Release("gateway_declined", "why")),
        (_state("completed"), _effect("done"), False, Nothing()),
        (_state("rejected"), None, False, Nothing()),
        (SETTLING, _effect(None), True, Nothing()),
        (FAILED, None, True, None),
        (None, None, False, Nothing()),
    ],
)
def test_only_a_failed_request_is_replayed(
    state: State | None,
    effect: Effect | None,
    holding: bool,
    expected: Decision | None,
) -> None:
    """
    With an open hold, its gateway is called again, or its answer is used. Without one, the request is decided
    again.
    """
    assert replays.decide(state, effect, holding) == expected


@pytest.mark.parametrize(
    ("state", "effect", "holding", "amount", "expected"),
    [
        (_state("completed"), None, False, None, GiveBack(10, whole=True)),
        (_state("completed"), None, False, 10, GiveBack(10, whole=True)),
        (_state("completed"), None, False, 4, GiveBack(4, whole=False)),
        (_state("completed"), None, False, 11, Rejected("refund_too_large")),
        (_state("completed", refunded=4), None, False, None, GiveBack(6, whole=True)),
        (_state("completed", refunded=4), None, False, 7, Rejected("refund_too_large")),
        (_state("completed", refunded=10), None, False, None, Rejected("nothing_to_refund")),
        (_state("refunded", refunded=10), None, False, None, Rejected("nothing_to_refund")),
        (_state("rejected"), None, False, None, Rejected("nothing_to_refund")),
        (_state("cancelled"), None, False, None, Rejected("nothing_to_refund")),
        (None, None, False, None, Rejected("outcome_pending")),
        (SETTLING, _effect(None), True, None, Rejected("outcome_pending")),
        (FAILED, _effect("unknown"), True, None, ReleaseHeld()),
        (FAILED, _effect("unknown"), True, 10, ReleaseHeld()),
        (FAILED, _effect("unknown"), True, 4, Rejected("outcome_pending")),
        (FAILED, _effect("unknown"), True, 11, Rejected("refund_too_large")),
        (FAILED, _effect("unknown", calling=True), True, None, Rejected("outcome_pending")),
        (FAILED, _effect("done"), True, None, Rejected("outcome_pending")),
        (FAILED, None, False, None, Rejected("nothing_to_refund")),
    ],
)
def test_a_refund_gives_back_at_most_what_was_taken_and_never_while_a_call_is_in_flight(
    state: State | None,
    effect: Effect | None,
    holding: bool,
    amount: int | None,
    expected: Decision,
) -> None:
    """
    A refund of 10 taken gives back the rest or a part of it. A hold goes back whole, and only while no call
    is open.
    """
    refund = replace(REQUEST, id=uuid.UUID(int=2), kind="refund", amount=amount, refund_of=REQUEST.id)

    original = replace(REQUEST, amount=10)
    assert refunds.decide(refund, original, RESOURCE, state, effect, holding=holding) == expected


@pytest.mark.parametrize(("held", "fits"), [(3, True), (4, False)])
def test_a_refund_never_gives_back_more_than_fits(held: int, *, fits: bool) -> None:
    """
    After the refund, each hold can still be released: the available and the held quantity fit together.
    """
    resource = replace(RESOURCE, available=MAX_QUANTITY - 10, held=held)
    refund = replace(REQUEST, kind="refund", amount=7, refund_of=REQUEST.id)

    decision = refunds.decide(
        refund, replace(REQUEST, amount=10), resource, _state("completed"), None, holding=False
    )

    assert decision == (GiveBack(7, whole=False) if fits else Rejected("too_large"))


@pytest.mark.parametrize("kind", ["deposit", "opening", "amendment", "closing", "refund"])
def test_a_request_that_took_nothing_cannot_be_refunded(kind: str) -> None:
    """
    Only a request that took something can be refunded, and only if it exists.
    """
    refund = replace(REQUEST, kind="refund", amount=None, refund_of=REQUEST.id)

    original = replace(REQUEST, kind=kind)
    state, nothing = _state("completed"), Rejected("nothing_to_refund")
    assert refunds.decide(refund, original, RESOURCE, state, None, holding=False) == nothing
    assert refunds.decide(refund, None, None, None, None, holding=False) == nothing
