"""
Scenario 23: a fault in deciding one request affects that request alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.scenarios.assertions import READERS, mode_of, outcomes, until_over
from tests.scenarios.poisoned_worker import POISON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.scenario_stack import ScenarioStack

#: The calls at the same instant, and the requests of each.
BATCHES, ITEMS = 200, 5


@pytest.fixture(scope="module")
def faulty_rule(stack: ScenarioStack) -> Iterator[None]:
    """
    One worker, whose rule for redemptions has a fault.
    """
    stack.stop_workers()
    faulty = stack.start_worker(["-P", "-m", "tests.scenarios.poisoned_worker"])
    stack.until_shared()
    yield
    faulty.stop()
    stack.start_all_workers()


@pytest.mark.usefixtures("faulty_rule")
def test_23_one_request_whose_deciding_raises(stack: ScenarioStack, round_number: int) -> None:
    """
    Among 1,000 requests at once, the faulty one fails with `processor_error` and takes nothing. The 999 others are
    decided in order and without a gap. An admin sees the trace, and the client does not.
    """
    stock = stack.name("poisoned")
    opening = stack.open(stock, "stock", 990)
    accounts = [f"u{i}" for i in range(BATCHES * ITEMS)]
    accounts[500 + round_number] = POISON
    items = [
        {"kind": "redemption", "idempotency_key": f"{stock}-{account}", "resource": stock, "account": account}
        for account in accounts
    ]
    batches = [
        stack.client.post("/v1/batches", {"requests": items[first : first + ITEMS]})
        for first in range(0, len(items), ITEMS)
    ]

    with stack.crowd(BATCHES, mode_of(round_number).apis) as crowd:
        replies = crowd.ask(batches)
    made = [one["request"] for reply in replies for one in reply.document["results"]]
    with stack.crowd(READERS) as crowd:
        documents = until_over(crowd, stack.client, made)

    assert outcomes(documents) == Counter(processor_error=1, completed=990, out_of_stock=9)
    in_order = sorted(documents, key=lambda one: int(one["sequence"]))
    first = opening["sequence"] + 1
    assert [one["sequence"] for one in in_order] == list(range(first, first + 1_000))
    others = [one["status"] for one in in_order if one["account"] != POISON]
    assert others == ["completed"] * 990 + ["rejected"] * 9
    for reply in replies:  # the requests of one call stay in its order
        mine = [one["request"]["id"] for one in reply.document["results"]]
        assert [one["id"] for one in in_order if one["id"] in mine] == mine
    state = stack.resource(stock)
    assert (state["available"], state["held"], state["version"]) == (0, 0, 991)

    [failed] = [one for one in documents if one["account"] == POISON]
    assert (failed["status"], failed["error"], failed["stage"]) == (
        "failed",
        {"code": "processor_error"},
        None,
    )
    assert (failed["version"], failed["finished_at"]) == (2, None)
    assert stack.listed(stack.client, f"/v1/requests/{failed['id']}/entries") == []
    assert [
        one["id"] for one in stack.listed(stack.admin, f"/v1/requests?status=failed&resource={stock}")
    ] == [failed["id"]]
    seen = stack.ask(stack.client.get(f"/v1/requests/{failed['id']}/events"))
    assert [event["status"] for event in seen.document["data"]] == ["processing", "failed"]
    assert b"RuntimeError" not in seen.body
    event = stack.ask(stack.admin.get(f"/v1/requests/{failed['id']}/events")).document["data"][-1]
    assert event["trace"].rstrip().endswith("RuntimeError: this rule has a fault")
    assert stack.ask(stack.other.get(f"/v1/requests/{failed['id']}/events")).status == 404
