"""
Effects: what gateways are to do for requests that hold, and what they answered, in PostgreSQL.

Read and written by the courier, which does the calling (`workers/courier/gateway_calls.py`). The batch makes effects,
and settles them once an answer is here. Nothing here talks to a gateway.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.gateways.protocol import Answer, Order
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Calls of one gateway that may be under way at once, by all couriers together.
CALLS_AT_ONCE: Final = 64
#: How much longer than the timeout of a call its lease lasts, in seconds: time to begin it and to record the answer.
LEASE_MARGIN_SECONDS: Final = 5.0
#: After so many unknown outcomes in a row (all that may be under way at once) a gateway is left alone …
BREAKER_OPENS_AFTER: Final = CALLS_AT_ONCE
#: … for so long, in seconds. Then one call at a time is tried, until one is answered.
BREAKER_OPEN_SECONDS: Final = 3.0
#: The pause before the next try doubles up to here, in seconds.
PAUSE_SECONDS_MAX: Final = 3_600.0
#: How long a courier that is stopped in the middle of a claim can keep the others from claiming, in milliseconds.
IDLE_TIMEOUT_MS: Final = 3_000

_CUT_OFF: Final = "the last call was cut off"

SQL = statements.beside(__file__)


class Claimed(NamedTuple):
    """An effect that is ours to perform until its lease runs out. `tries` counts this call, too."""

    partition: int
    leg: int
    token: UUID
    tries: int
    order: Order


class Called(NamedTuple):
    """
    What came of a call. `pause_seconds`: until it is tried again; None: it is not.
    """

    claimed: Claimed
    answer: Answer
    pause_seconds: float | None


class Claim(NamedTuple):
    """What was claimed, and the partitions to ring since some of their requests were given up."""

    effects: list[Claimed]
    given_up: set[int]


class Recorded(NamedTuple):
    """
    The partitions to ring, and the requests whose gateway said yes after it had said no: nothing can be made of that
    here, and somebody must know.
    """

    partitions: set[int]
    contradicted: list[UUID]


def due_gateways(connection: Connection) -> dict[str, float]:
    """The gateways that something waits for, and in how many seconds the first of it is due (0: now)."""
    with connections.faults():
        return dict(connection.execute(SQL["due_gateways"]).fetchall())


def introduce(connection: Connection, gateway: str) -> None:
    """Make the row that claims of this gateway lock; once for each gateway is enough."""
    with connections.faults():
        connection.execute(SQL["insert_gateway"], {"gateway": gateway})


def claim(connection: Connection, gateway: str, room: int, tries: int, timeout_seconds: float) -> Claim:
    """
    Take up to `room` effects of a gateway that are due, and note an attempt of each: once this has returned, that is
    committed, and they may be called. None while another courier claims, or while the breaker is open.

    An effect is tried at most `tries` times; `timeout_seconds` is that of a call. Raises DatabaseUnavailable.
    """
    parameters = {
        "gateway": gateway,
        "room": room,
        "calls_at_once": CALLS_AT_ONCE,
        "tries": tries,
        "lease_seconds": timeout_seconds + LEASE_MARGIN_SECONDS,
        "cut_off": _CUT_OFF,
        "idle_ms": IDLE_TIMEOUT_MS,
    }
    # Not in a pipeline: PostgreSQL's timeout fires only for a client that it is not in the middle of hearing from.
    with connections.faults(), connection.transaction():
        connection.execute(SQL["set_timeouts"], parameters)
        locked = connection.execute(SQL["lock_gateway"], parameters).fetchone()
        if locked is None:
            return Claim([], set())
        if locked[0]:  # the breaker was open: one call, and others only when it has an answer
            parameters["calls_at_once"] = 1
        rows = connection.execute(SQL["claim_effects"], parameters, binary=True).fetchall()
    return Claim(
        [
            Claimed(partition, leg, token, tries, Order(*order))
            for partition, leg, token, tries, *order in rows
            if token is not None
        ],
        {partition for partition, _, token, *_ in rows if token is None},
    )


def record(connection: Connection, calls: Sequence[Called]) -> Recorded:
    """
    Write what gateways answered, with the `settle` rows for the batches, as one statement; at most one call of each
    effect. Repeating it changes nothing. Raises DatabaseUnavailable.
    """
    columns: dict[str, list[Any]] = {
        "request_id": [call.claimed.order.request_id for call in calls],
        "leg": [call.claimed.leg for call in calls],
        "token": [call.claimed.token for call in calls],
        "outcome": [call.answer.outcome for call in calls],
        "status": [call.answer.status for call in calls],
        "reference": [call.answer.reference for call in calls],
        "reason": [call.answer.reason for call in calls],
        "error": [call.answer.error for call in calls],
        "pause_seconds": [call.pause_seconds for call in calls],
    }
    with connections.faults():
        rows = connection.execute(SQL["record_answers"], columns, binary=True).fetchall()
    return Recorded(
        {partition for _, partition, outcome, _ in rows if outcome is not None},
        [request for request, _, _, contradicts in rows if contradicts],
    )


def count_unknowns(connection: Connection, gateway: str, calls: Iterable[Called]) -> tuple[bool, bool] | None:
    """
    Tell the breaker of a gateway how calls ended, in this order. Returns whether it was open before and is now; None
    when all is well. Raises DatabaseUnavailable.
    """
    unknowns, answered = 0, False
    for call in calls:
        if call.answer.outcome == "unknown":
            unknowns += 1
        else:
            unknowns, answered = 0, True
    parameters = {
        "gateway": gateway,
        "unknowns": unknowns,
        "answered": answered,
        "open_after": BREAKER_OPENS_AFTER,
        "open_seconds": BREAKER_OPEN_SECONDS,
    }
    with connections.faults():
        row = connection.execute(SQL["count_unknowns"], parameters).fetchone()
    return None if row is None else (row[0], row[1])


def pause_before_retry(tries: int, first_seconds: float) -> float:
    """
    Exponential backoff with full jitter: anything up to a limit that doubles with each try, in seconds.
    """
    limit = min(first_seconds * 2.0 ** (tries - 1), max(first_seconds, PAUSE_SECONDS_MAX))
    return random.uniform(0, limit)  # noqa: S311  # spreads load, guards nothing
