"""
Gateway calls: the effects that are due, the attempts, and the answers.

The batch makes effects, and settles them when their answer is here. The courier claims them, calls the gateways
(`workers/courier/gateway_calls.py`), and records the answers.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.gateways.protocol import Answer, Order
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: The calls of one gateway that all couriers together have under way.
CALLS_AT_ONCE: Final = 64
#: The time that a lease lasts beyond the timeout of a call, in seconds: to begin the call and to record the answer.
LEASE_MARGIN_SECONDS: Final = 5.0
#: The unknown outcomes in a row that open the breaker of a gateway: as many as are under way at once.
BREAKER_OPENS_AFTER: Final = CALLS_AT_ONCE
#: The time without calls after the breaker opened, in seconds. Then the courier makes one call at a time, until one
#: is answered.
BREAKER_OPEN_SECONDS: Final = 3.0
#: The longest pause before the next try, in seconds. The pause doubles with each try.
PAUSE_SECONDS_MAX: Final = 3_600.0
#: The longest time for which a courier that is suspended during a claim blocks the claims of others, in milliseconds.
IDLE_TIMEOUT_MS: Final = 3_000

_CUT_OFF: Final = "the last call was cut off"

SQL = statements.beside(__file__)


class ClaimedEffect(NamedTuple):
    """An effect that belongs to this courier until its lease expires. `tries` includes this call."""

    partition: int
    leg: int
    token: UUID
    tries: int
    order: Order


class CallResult(NamedTuple):
    """The answer to a call, and the pause until the next one. None: there is no next call."""

    effect: ClaimedEffect
    answer: Answer
    pause_seconds: float | None


class Claim(NamedTuple):
    """The claimed effects, and the partitions to notify because some of their effects were given up."""

    effects: list[ClaimedEffect]
    given_up: set[int]


class Recorded(NamedTuple):
    """
    The partitions to notify, and the requests whose gateway answered yes after it had answered no.

    Such a request cannot be mended here; an operator must see it.
    """

    partitions: set[int]
    contradicted: list[UUID]


def due_gateways(connection: Connection) -> dict[str, float]:
    """
    Return the gateways that have effects, and the seconds until each may be called (0: now).

    Raises DatabaseUnavailable.
    """
    with connections.faults():
        return dict(connection.execute(SQL["due_gateways"]).fetchall())


def introduce(connection: Connection, gateway: str) -> None:
    """Make the row that claims of this gateway lock, unless it exists. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["insert_gateway"], {"gateway": gateway})


def claim(connection: Connection, gateway: str, room: int, tries: int, timeout_seconds: float) -> Claim:
    """
    Claim at most `room` effects of a gateway that are due, and commit an attempt of each before the call.

    Returns no effect while another courier claims, and while the breaker is open. An effect is called at most `tries`
    times, and each call takes at most `timeout_seconds`. Raises DatabaseUnavailable.
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
    # Not a pipeline: idle_in_transaction_session_timeout applies only between the messages of a client.
    with connections.faults(), connection.transaction():
        connection.execute(SQL["set_timeouts"], parameters)
        locked = connection.execute(SQL["lock_gateway"], parameters).fetchone()
        if locked is None:
            return Claim([], set())
        if locked[0]:  # the breaker was open: one call, and no other until it is answered
            parameters["calls_at_once"] = 1
        rows = connection.execute(SQL["claim_effects"], parameters, binary=True).fetchall()
    return Claim(
        [
            ClaimedEffect(partition, leg, token, count, Order(*order))
            for partition, leg, token, count, *order in rows
            if token is not None
        ],
        {partition for partition, _, token, *_ in rows if token is None},
    )


def record(connection: Connection, results: Sequence[CallResult]) -> Recorded:
    """
    Write answers and their `settle` rows for the batches, in one statement. To repeat it changes nothing.

    `results` has at most one call of each effect. Raises DatabaseUnavailable.
    """
    columns: dict[str, list[Any]] = {
        "request_id": [result.effect.order.request_id for result in results],
        "leg": [result.effect.leg for result in results],
        "token": [result.effect.token for result in results],
        "outcome": [result.answer.outcome for result in results],
        "status": [result.answer.status for result in results],
        "reference": [result.answer.reference for result in results],
        "reason": [result.answer.reason for result in results],
        "error": [result.answer.error for result in results],
        "pause_seconds": [result.pause_seconds for result in results],
    }
    with connections.faults():
        rows = connection.execute(SQL["record_answers"], columns, binary=True).fetchall()
    return Recorded(
        {partition for _, partition, outcome, _ in rows if outcome is not None},
        [request for request, _, _, contradicts in rows if contradicts],
    )


def count_unknowns(
    connection: Connection, gateway: str, results: Iterable[CallResult]
) -> tuple[bool, bool] | None:
    """
    Count the results of calls, in this order, for the breaker of a gateway.

    Returns whether the breaker was open before and is open now. Returns None if no unknown outcome was counted,
    neither before nor now. Raises DatabaseUnavailable.
    """
    unknowns, answered = 0, False
    for result in results:
        if result.answer.outcome == "unknown":
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
    Return the seconds until the next try: exponential backoff with full jitter.

    The pause is random, between 0 and a limit that doubles with each try.
    """
    limit = min(first_seconds * 2.0 ** (tries - 1), max(first_seconds, PAUSE_SECONDS_MAX))
    return random.uniform(0, limit)  # noqa: S311 - spreads load, protects nothing
