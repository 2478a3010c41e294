"""
The kinds of requests: the description of each agrees with its rule.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from api.app import ROUTES
from api.web.submission import SubmissionBody
from processor.domain.decisions import Amend, Close, Credit, Debit, Hold, Open, Rejected, Reserve
from processor.domain.kinds import KINDS
from processor.domain.model import Request, Resource
from processor.domain.roles import ALL_ROLES

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DECIDED = sorted(name for name, kind in KINDS.items() if kind.rule is not None)


@pytest.mark.parametrize("name", DECIDED)
@pytest.mark.parametrize("gateway", [None, "bank"])
def test_a_granted_request_does_what_its_kind_says(name: str, gateway: str | None) -> None:
    """
    A rule debits, holds, credits, opens, amends or closes as the fields of its kind announce, and does nothing else.
    """
    kind = KINDS[name]
    resource = None if kind.opens else Resource("r", "stock", 10, NOON, gateway=gateway)
    details = {"kind": "stock"} if kind.opens else {"ttl_seconds": 60} if kind.reserves else {}
    request = Request(uuid.UUID(int=1), "shop", name, "r", "ada", 3, details=details)
    assert kind.rule is not None

    decision = kind.rule(request, resource, 0, NOON)

    if kind.requires_legs:
        assert kind.give_rule is not None
        moves = [decision, kind.give_rule(request, resource, 0, NOON)]
        refused = Rejected("not_exchangeable")
        assert moves == ([refused, refused] if gateway else [Debit(3), Credit(3)])
    elif kind.reserves:
        assert decision == Reserve(3, 60)
    elif kind.takes:
        holds = gateway is not None and kind.asks_gateway
        assert decision == (Hold(3, "bank") if holds else Debit(3))
    else:
        facts = {
            Credit: kind.gives and not kind.opens,
            Open: kind.opens,
            Amend: kind.amends,
            Close: kind.closes,
        }
        assert [type(decision)] == [made for made, announced in facts.items() if announced]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_description_of_a_kind_has_no_contradiction(name: str) -> None:
    """
    A kind moves its resource in one direction. A kind that takes requires an account, and each kind has roles.
    """
    kind = KINDS[name]

    assert kind.takes + kind.gives + kind.gives_back <= 1
    assert kind.opens + kind.amends + kind.closes <= 1
    assert not kind.takes or (kind.requires_account and kind.least_amount == 1)
    assert not (kind.refundable or kind.asks_gateway or kind.reserves) or kind.takes or kind.requires_legs
    assert not kind.requires_legs or (kind.rule and kind.give_rule and kind.least_amount is None)
    assert not (
        kind.asks_gateway and kind.reserves
    )  # the gateway of a reservation is called when it is captured
    assert not kind.in_batches or kind.rule is not None
    assert kind.roles
    assert kind.roles <= ALL_ROLES


def test_the_bodies_of_the_api_require_what_their_kinds_require() -> None:
    """
    A body has an account exactly if its kind requires one, and an amount that is at least that of its kind, or legs.
    """
    bodies = {
        route.body.request_kind: route.body
        for route in ROUTES
        if route.body is not None and issubclass(route.body, SubmissionBody)
    }

    assert len(bodies) > 2
    for name, body in bodies.items():
        schema, kind = body.model_json_schema(), KINDS[name]
        assert ("account" in schema["required"]) == kind.requires_account, name
        assert ("legs" in schema["required"]) == kind.requires_legs, name
        if kind.requires_legs:
            assert "amount" not in schema["properties"], name
            continue
        amount = "available" if kind.opens else "amount"
        assert schema["properties"][amount]["minimum"] == kind.least_amount, name
        assert (amount in schema["required"]) or schema["properties"][amount]["default"] >= 1, name
