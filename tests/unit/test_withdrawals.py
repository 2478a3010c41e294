"""
Requests that wait, decided without a database, and the digits of a code.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from processor.clients import codes
from processor.domain.decisions import Await, Cancel, Credit, Debit, Decision, Hold, Nothing, Rejected
from processor.domain.model import Resource, Stage, State
from processor.domain.rules import waiting

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TAKE = Debit(300)
CODE, APPROVAL = Await("awaiting_confirmation"), Await("awaiting_approval")


def _guarded(  # the story is in the arguments
    decision: Decision = TAKE,
    confirm_above: int | None = None,
    approve_above: int | None = None,
    passed: Stage | None = None,
    *,
    has_contact: bool = True,
) -> Decision:
    resource = Resource("b", "balance", 1_000, NOON, confirm_above=confirm_above, approve_above=approve_above)
    return waiting.begin(decision, resource, passed, has_contact=has_contact)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (_guarded(), TAKE),
        (_guarded(confirm_above=300), TAKE),
        (_guarded(confirm_above=299), CODE),
        (_guarded(confirm_above=0), CODE),
        (_guarded(Hold(300, "bank"), confirm_above=299), CODE),
        (_guarded(confirm_above=299, has_contact=False), Rejected("no_contact")),
        (_guarded(confirm_above=300, has_contact=False), TAKE),
        (_guarded(Rejected("insufficient_funds"), 0, 0, has_contact=False), Rejected("insufficient_funds")),
        (_guarded(confirm_above=299, passed="awaiting_confirmation"), TAKE),
        (_guarded(confirm_above=299, approve_above=300, passed="awaiting_confirmation"), TAKE),
        (_guarded(confirm_above=299, approve_above=299, passed="awaiting_confirmation"), APPROVAL),
        (_guarded(confirm_above=299, approve_above=0), CODE),
        (_guarded(confirm_above=300, approve_above=0), APPROVAL),
        (_guarded(approve_above=0, has_contact=False), APPROVAL),
        (_guarded(confirm_above=0, approve_above=0, passed="awaiting_approval"), TAKE),
        (_guarded(Credit(300), confirm_above=0, approve_above=0), Credit(300)),
    ],
)
def test_what_takes_waits_for_its_code_and_then_for_an_approval(seen: Decision, expected: Decision) -> None:
    """
    Waiting begins above the threshold, not at it. A refusal comes before any waiting, and no step is
    repeated.
    """
    assert seen == expected


@pytest.mark.parametrize(
    ("verb", "stage", "has_lapsed", "expected"),
    [
        ("confirm", "awaiting_confirmation", False, None),
        ("approve", "awaiting_approval", False, None),
        ("deny", "awaiting_approval", False, Rejected("denied", "why")),
        ("expire", "awaiting_confirmation", True, Cancel("confirmation_expired", "not confirmed in time")),
        ("expire", "awaiting_confirmation", False, Nothing()),
        ("confirm", "awaiting_approval", False, Nothing()),
        ("approve", "awaiting_confirmation", False, Nothing()),
        ("deny", "awaiting_confirmation", False, Nothing()),
        ("expire", "awaiting_approval", True, Nothing()),
        ("confirm", None, False, Nothing()),
        ("approve", "settling", False, Nothing()),
    ],
)
def test_a_command_counts_only_in_its_stage(
    verb: str, stage: Stage | None, has_lapsed: bool, expected: Decision | None
) -> None:
    """
    A command at another stage does nothing. Above all, an approval confirms nothing.
    """
    state = State(uuid.UUID(int=1), "processing", None, 1, NOON, stage=stage)

    assert waiting.end(verb, state, "why", has_lapsed=has_lapsed) == expected
    assert waiting.end(verb, None, "why", has_lapsed=has_lapsed) == Nothing()


def test_the_digits_of_a_code_match_a_test_vector() -> None:
    """
    API and courier compute the same digits, also after an upgrade between the two. Short numbers keep their
    zeros.
    """
    assert codes.digits_of("a secret of the tests", uuid.UUID(int=1)) == "629085"
    assert {len(codes.digits_of("a secret of the tests", uuid.UUID(int=n))) for n in range(1_000)} == {6}
