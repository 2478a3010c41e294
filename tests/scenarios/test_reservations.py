"""
Scenarios 7, 33 and 34 with reservations: a hold ends once, in time, and as its client asked before.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from processor.domain.partitioning import partition_of
from tests.scenarios.assertions import WAIT
from tests.scenarios.backlog import accept, batch, pause
from tests.scenarios.holds import EXPIRES_WITHIN_SECONDS, read, time_of, until, until_expired
from tests.servers import PARTITIONS
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from typing import Any

    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document

#: The requests that wait in the partition of a hold.
WAITING = 20_000


def reserve(stack: ScenarioStack, resource: str, ttl_seconds: int, **more: Any) -> Document:
    """
    Reserve one, and wait until it is held.
    """
    body = {"resource": resource, "account": "ada", "ttl_seconds": ttl_seconds, **more}
    reply = stack.ask(stack.client.post("/v1/reservations", body, Prefer=WAIT))
    assert (reply.status, reply.document["stage"]) == (202, "held"), reply.body
    held: Document = reply.document
    return held


def test_7_a_seat_is_reserved_once(stack: ScenarioStack, long_round: int) -> None:
    """
    Twenty reserve it at once. One holds it. Twenty capture and release it at once, and one of them is accepted.
    """
    seat = stack.name(f"reserved-seat-{long_round}")
    stack.open(seat, "seat", 1)
    bodies = [{"resource": seat, "account": f"u{number}"} for number in range(20)]
    with stack.crowd(20) as crowd:
        asked = crowd.ask([stack.client.post("/v1/reservations", body, Prefer=WAIT) for body in bodies])
        held = [reply.document for reply in asked if reply.document["stage"] == "held"]
        refused = Counter(reply.document["error"]["code"] for reply in asked if reply.status == 200)
        assert (len(held), refused) == (1, {"out_of_stock": 19})

        path = f"/v1/requests/{held[0]['id']}"
        verbs = ["capture", "release"] * 10
        replies = crowd.ask([stack.client.post(f"{path}/{verb}", {}) for verb in verbs])

    accepted = [verb for verb, reply in zip(verbs, replies, strict=True) if reply.status == 202]
    codes = {reply.document["code"] for reply in replies if reply.status != 202}
    assert (len(accepted), codes) == (1, {"not_held"})
    eventually(lambda: read(stack, held[0]["id"])["stage"] is None)
    ends = {"capture": ("completed", 0), "release": ("cancelled", 1)}
    left = stack.resource(seat)
    assert (read(stack, held[0]["id"])["status"], left["available"]) == ends[accepted[0]]
    assert left["held"] == 0


def test_33_a_capture_just_before_the_expiry_of_a_paused_partition(
    stack: ScenarioStack, long_round: int
) -> None:
    """
    The capture is accepted 50 ms before the expiry, and the partition is paused until long after it: captured.
    """
    seat = stack.name(f"paused-seat-{long_round}")
    stack.open(seat, "seat", 1)
    held = reserve(stack, seat, 3)
    with stack.crowd(1) as crowd:
        pause(stack, crowd, partition_of(seat, PARTITIONS), "pause")
        until(str(time_of(held["expires_at"]) - timedelta(milliseconds=50)))
        [reply] = crowd.ask([stack.client.post(f"/v1/requests/{held['id']}/capture", {})])
        is_in_time = reply.status == 202
        time.sleep(EXPIRES_WITHIN_SECONDS + 1)  # longer than an expiry takes
        assert read(stack, held["id"])["stage"] == "held"
        pause(stack, crowd, partition_of(seat, PARTITIONS), "resume")

    eventually(lambda: read(stack, held["id"])["stage"] is None)
    # On a machine that is too busy the capture may be late. Then it was refused.
    assert read(stack, held["id"])["status"] == ("completed" if is_in_time else "cancelled")


def test_34_a_hold_expires_before_the_requests_that_wait(stack: ScenarioStack, long_round: int) -> None:
    """
    Its partition is paused until after the expiry, with many waiting requests. The hold ends first, within 2 s.
    """
    hot = stack.name(f"reserved-hot-{long_round}")
    partition = partition_of(hot, PARTITIONS)
    seat = stack.name(f"reserved-{long_round}", partition)
    stack.open(hot, "stock", WAITING)
    stack.open(seat, "seat", 1)
    with stack.may_stall(), stack.crowd(1) as crowd:
        held = reserve(stack, seat, 3)
        pause(stack, crowd, partition, "pause")
        waiting = accept(stack, crowd, [batch(stack, hot, number) for number in range(0, WAITING, 1_000)])
        until(held["expires_at"])
        assert read(stack, held["id"])["stage"] == "held"
        limit = Deadline(EXPIRES_WITHIN_SECONDS)
        resumed_at = datetime.now(UTC)
        pause(stack, crowd, partition, "resume")
        ended_at = time_of(until_expired(stack, held))
        assert limit.is_met((ended_at - resumed_at).total_seconds()), f"not within {limit}"
        stack.until_decided(waiting)

    assert time_of(read(stack, waiting[-1])["decided_at"]) > ended_at
    assert (stack.resource(seat)["available"], stack.resource(seat)["held"]) == (1, 0)


def test_34_a_hold_expires_while_no_worker_runs(stack: ScenarioStack, long_round: int) -> None:
    """
    A worker that starts after the expiry ends the hold within 2 s, and once.
    """
    seat = stack.name(f"unattended-{long_round}")
    stack.open(seat, "seat", 1)
    held = reserve(stack, seat, 2)
    stack.stop_workers()
    until(held["expires_at"])
    stack.start_worker()
    eventually(lambda: stack.owner_of(0) is not None)
    limit = Deadline(EXPIRES_WITHIN_SECONDS)
    began = datetime.now(UTC)
    took = (time_of(until_expired(stack, held)) - began).total_seconds()
    assert limit.is_met(took), f"{took:.2f} s, and not within {limit}"
    stack.start_worker()
    stack.until_shared()

    kinds = [entry["kind"] for entry in stack.listed(stack.client, f"/v1/requests/{held['id']}/entries")]
    assert kinds == ["release", "hold"]
