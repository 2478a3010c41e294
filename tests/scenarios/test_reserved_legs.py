"""
Scenarios 7, 33 and 34 with several resources: three seats side by side, in partitions of two workers.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.scenarios.assertions import WAIT, outcomes, until_over
from tests.scenarios.holds import EXPIRES_WITHIN_SECONDS, read, time_of, until, until_expired
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from typing import Any

    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document

#: The reservations of the round in which a worker is killed.
RESERVATIONS = 60


def row_of(stack: ScenarioStack, available: int = 1) -> list[str]:
    """
    Open three seats, of which two workers own the partitions.
    """
    stack.until_shared()
    owners = {one["owner"]: one["id"] for one in stack.partitions()}
    assert len(owners) == 2
    one, other = owners.values()
    seats = [stack.name("row", partition) for partition in (one, other, one)]
    for seat in seats:
        stack.open(seat, "seat", available)
    return seats


def body_of(seats: list[str], account: str = "ada", **more: Any) -> Document:
    """
    Return the body of a reservation of one of each.
    """
    return {"account": account, "legs": [{"resource": seat, "take": 1} for seat in seats], **more}


def reserve(stack: ScenarioStack, seats: list[str], ttl_seconds: int) -> Document:
    """
    Reserve, and wait until all are held.
    """
    body = body_of(seats, ttl_seconds=ttl_seconds)
    reply = stack.ask(stack.client.post("/v1/reservations", body, Prefer=WAIT))
    assert (reply.status, reply.document["stage"]) == (202, "held"), reply.body
    held: Document = reply.document
    return held


def state(stack: ScenarioStack, seats: list[str]) -> set[tuple[int, int]]:
    """
    Return what is available and held of the seats.
    """
    found = [stack.resource(seat) for seat in seats]
    return {(one["available"], one["held"]) for one in found}


def moves(stack: ScenarioStack, request: str) -> Counter[tuple[str, str]]:
    """
    Count the entries of a request, by resource and kind.
    """
    entries = stack.listed(stack.client, f"/v1/requests/{request}/entries")
    return Counter((entry["resource"], entry["kind"]) for entry in entries)


def each(seats: list[str], *kinds: str) -> Counter[tuple[str, str]]:
    """
    Return one entry of each kind for each seat.
    """
    return Counter((seat, kind) for seat in seats for kind in kinds)


def test_7_three_seats_side_by_side_are_reserved_together(stack: ScenarioStack, long_round: int) -> None:
    """
    Twenty want them at once, in different orders of the legs. One holds all, and the others hold none.
    Twenty capture and release at once. One is accepted, and all seats end by it.
    """
    seats = row_of(stack)
    orders = [seats[n % 3 :] + seats[: n % 3] for n in range(20)]
    bodies = [body_of(order, f"u{number}") for number, order in enumerate(orders)]
    with stack.crowd(20) as crowd:
        asked = crowd.ask([stack.client.post("/v1/reservations", body, Prefer=WAIT) for body in bodies])
        held = [reply.document for reply in asked if reply.document["stage"] == "held"]
        refused = Counter(reply.document["error"]["code"] for reply in asked if reply.status == 200)
        assert (len(held), refused) == (1, {"out_of_stock": 19})
        assert state(stack, seats) == {(0, 1)}

        path = f"/v1/requests/{held[0]['id']}"
        verbs = ["capture", "release"] * 10
        replies = crowd.ask([stack.client.post(f"{path}/{verb}", {}) for verb in verbs])

    accepted = [verb for verb, reply in zip(verbs, replies, strict=True) if reply.status == 202]
    codes = {reply.document["code"] for reply in replies if reply.status != 202}
    assert (len(accepted), codes) == (1, {"not_held"})
    eventually(lambda: read(stack, held[0]["id"])["stage"] is None)
    assert state(stack, seats) == {(0, 0) if accepted[0] == "capture" else (1, 0)}
    assert moves(stack, held[0]["id"]) == each(seats, "hold", accepted[0])
    assert sum((moves(stack, reply.document["id"]) for reply in asked), Counter()) == moves(
        stack, held[0]["id"]
    )


def test_34_all_legs_expire_together_in_time(stack: ScenarioStack, long_round: int) -> None:
    """
    Nothing wakes a worker. All seats are back within 2 s of the expiry, and another account holds them at once.
    """
    seats = row_of(stack)
    for first in (0, 1):  # the home partition of each worker
        order = seats[first:] + seats[:first]
        held = reserve(stack, order, 1)
        until(held["expires_at"])
        limit = Deadline(EXPIRES_WITHIN_SECONDS)
        ended_at = time_of(until_expired(stack, held))
        took = (ended_at - time_of(held["expires_at"])).total_seconds()
        assert limit.is_met(took), f"{took:.2f} s, and not within {limit}"
        assert state(stack, seats) == {(1, 0)}
        assert moves(stack, held["id"]) == each(seats, "hold", "release")


def test_33_a_capture_just_before_the_expiry_of_a_paused_leg(stack: ScenarioStack, long_round: int) -> None:
    """
    It is accepted 50 ms before, and the partition of a later leg is paused until long after it: all are captured.
    """
    seats = row_of(stack)
    held = reserve(stack, seats, 3)
    path = f"/v1/admin/partitions/{stack.resource(seats[1])['partition']}"
    assert stack.ask(stack.admin.post(f"{path}/pause", {})).status == 200
    with stack.crowd(1) as crowd:
        until(str(time_of(held["expires_at"]) - timedelta(milliseconds=50)))
        [reply] = crowd.ask([stack.client.post(f"/v1/requests/{held['id']}/capture", {})])
    is_in_time = reply.status == 202
    time.sleep(EXPIRES_WITHIN_SECONDS + 1)  # longer than an expiry takes
    assert (read(stack, held["id"])["stage"], state(stack, seats)) == ("held", {(0, 1)})
    assert stack.ask(stack.admin.post(f"{path}/resume", {})).status == 200

    eventually(lambda: read(stack, held["id"])["stage"] is None)
    # On a machine that is too busy the capture may be late. Then it was refused.
    assert read(stack, held["id"])["status"] == ("completed" if is_in_time else "cancelled")


def test_a_worker_is_killed_while_legs_are_held_and_ended(stack: ScenarioStack, long_round: int) -> None:
    """
    Holds, captures, releases and expiries of both workers' partitions, and one worker is killed in the middle.
    Each reservation ends as its client asked, or by its expiry, with all of its legs.
    """
    seats = row_of(stack, RESERVATIONS)
    bodies = [
        body_of(seats[n % 3 :] + seats[: n % 3], f"u{n}", ttl_seconds=20 if n % 3 else 2)
        for n in range(RESERVATIONS)
    ]
    with stack.may_stall(), stack.crowd(10) as crowd:
        half = RESERVATIONS // 2
        asked = crowd.ask([stack.client.post("/v1/reservations", body) for body in bodies[:half]])
        stack.workers[0].kill()
        asked += crowd.ask([stack.client.post("/v1/reservations", body) for body in bodies[half:]])
        stack.start_worker()
        ids = [reply.document["id"] for reply in asked]
        kept = [(n, request) for n, request in enumerate(ids) if n % 3]
        eventually(lambda: all(read(stack, request)["stage"] == "held" for _, request in kept))
        verbs = ["capture" if n % 3 == 1 else "release" for n, _ in kept]
        ends = [
            stack.client.post(f"/v1/requests/{one}/{v}", {}) for v, (_, one) in zip(verbs, kept, strict=True)
        ]
        replies = crowd.ask(ends[: len(ends) // 2])
        stack.workers[-1].kill()
        replies += crowd.ask(ends[len(ends) // 2 :])
        stack.start_worker()
        assert {reply.status for reply in replies} == {202}
        found = until_over(crowd, stack.client, [reply.document for reply in asked])

    third = RESERVATIONS // 3
    assert outcomes(found) == {"reservation_expired": third, "completed": third, "released": third}
    for number, request in enumerate(ids):
        end = "capture" if number % 3 == 1 else "release"
        assert moves(stack, request) == each(seats, "hold", end)
    assert state(stack, seats) == {(RESERVATIONS - third, 0)}
    stack.until_shared()
