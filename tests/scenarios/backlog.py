"""
Many requests that wait: calls with batches, and a pause of their partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.crowd import Crowd
    from tests.scenarios.scenario_stack import ScenarioStack

#: The requests of a call.
ITEMS = 1_000


def batch(stack: ScenarioStack, resource: str, first: int, count: int = ITEMS) -> bytes:
    """
    Return a call with `count` redemptions, each of another account.
    """
    return stack.client.post(
        "/v1/batches",
        {
            "requests": [
                {
                    "kind": "redemption",
                    "idempotency_key": f"{resource}-{number}",
                    "resource": resource,
                    "account": f"u{number}",
                }
                for number in range(first, first + count)
            ]
        },
    )


def accept(stack: ScenarioStack, crowd: Crowd, batches: Sequence[bytes]) -> list[str]:
    """
    Send these calls. Returns the ids of the new requests.
    """
    ids = []
    for request in batches:
        [reply] = crowd.ask([request])
        assert reply.status == 202, reply.body
        results = reply.document["results"]
        assert {one["status"] for one in results} == {202}
        ids += [one["request"]["id"] for one in results]
    return ids


def pause(stack: ScenarioStack, crowd: Crowd, partition: int, verb: str) -> None:
    """
    Pause or resume a partition.
    """
    [reply] = crowd.ask([stack.admin.post(f"/v1/admin/partitions/{partition}/{verb}")])
    assert (reply.status, reply.document["paused"]) == (200, verb == "pause"), reply.body
