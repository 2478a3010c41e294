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
from processor.tracing.correlation import Correlation

#: The calls that one client may have under way, for each that it leaves free: 56 of 64. So another client's call
#: begins at once.
RESERVE: Final = 7
#: The time that a lease lasts beyond the timeout of a call, in seconds: to begin the call and to record the answer.
LEASE_MARGIN_SECONDS: Final = 5.0
#: The unknown outcomes in a row that open the breaker of a client at a gateway.
BREAKER_OPENS_AFTER: Final = 64
#: The time without calls for clients whose breaker is open, in seconds. Then they have one call at a time together,
#: each time another client, until one is answered.
BREAKER_OPEN_SECONDS: Final = 3.0
#: The longest pause before the next try, in seconds. The pause doubles with each try.
PAUSE_SECONDS_MAX: Final = 3_600.0
#: The pairs of gateway and client that one look reads. The next look continues behind them.
CLIENTS_PER_LOOK: Final = 256
#: The longest time for which a courier that is suspended during a claim blocks the claims of others, in milliseconds.
IDLE_TIMEOUT_MS: Final = 3_000

#: A place before all gateways and clients.
BEFORE_FIRST: Final = ("", "")

_CUT_OFF: Final = "the last call was cut off"

SQL = statements.beside(__file__)


class ClaimedEffect(NamedTuple):
    """An effect that belongs to this courier until its lease expires. `tries` includes this call."""

    client: str
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


class DueClient(NamedTuple):
    """A client that has effects at a gateway, and the seconds until its first call may be made (0: now)."""

    gateway: str
    client: str
    seconds: float


class BreakerChange(NamedTuple):
    """A breaker that was open before some results were counted, or is open now."""

    gateway: str
    client: str
    was_open: bool
    is_open: bool


def due_clients(connection: Connection, after: tuple[str, str]) -> list[DueClient]:
    """
    Read which clients have effects at which gateways, in this order: those behind `after`, at most CLIENTS_PER_LOOK.

    Raises DatabaseUnavailable.
    """
    parameters = {"gateway": after[0], "client": after[1], "limit": CLIENTS_PER_LOOK}
    with connections.faults():
        return [DueClient(*row) for row in connection.execute(SQL["due_clients"], parameters).fetchall()]


def introduce(connection: Connection, gateway: str) -> None:
    """Make the row that claims of this gateway lock, unless it exists. Raises DatabaseUnavailable."""
    with connections.faults():
        connection.execute(SQL["insert_gateway"], {"gateway": gateway})


def claim(
    connection: Connection,
    gateway: str,
    clients: Sequence[str],
    *,
    room: int,
    calls_at_once: int,
    tries: int,
    timeout_seconds: float,
) -> Claim:
    """
    Claim at most `room` effects of a gateway that are due, and commit an attempt of each before the call.

    The `clients` take turns in this order. `calls_at_once` limits the calls of all couriers. An effect is called at
    most `tries` times, and each call takes at most `timeout_seconds`. Returns no effect while another courier claims.
    Raises DatabaseUnavailable.
    """
    parameters = {
        "gateway": gateway,
        "clients": list(clients),
        "room": room,
        "calls_at_once": calls_at_once,
        "reserve": RESERVE,
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
        parameters["may_probe"] = locked[0]
        rows = connection.execute(SQL["claim_effects"], parameters, binary=True).fetchall()
    return Claim(
        [
            ClaimedEffect(
                client,
                partition,
                leg,
                token,
                count,
                _order(order),
            )
            for client, partition, leg, token, count, *order in rows
            if token is not None
        ],
        {partition for _, partition, _, token, *_ in rows if token is None},
    )


def _order(row: list[Any]) -> Order:
    """Return an order from its columns, of which the last two are the correlation."""
    request_id, kind, account, resource, amount, destination, metadata, *made_by = row
    return Order(request_id, kind, account, resource, amount, destination, metadata, Correlation(*made_by))


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


def count_unknowns(connection: Connection, results: Iterable[tuple[str, CallResult]]) -> list[BreakerChange]:
    """
    Count the results of calls, each with the name of its gateway, for the breakers.

    The results of one gateway and client count in this order. Returns the breakers that were open before or are open
    now. Raises DatabaseUnavailable.
    """
    counts: dict[tuple[str, str], tuple[int, bool]] = {}
    for gateway, result in results:
        pair = (gateway, result.effect.client)
        unknowns, is_answered = counts.get(pair, (0, False))
        if result.answer.outcome == "unknown":
            counts[pair] = (unknowns + 1, is_answered)
        else:
            counts[pair] = (0, True)
    parameters = {
        "gateways": [gateway for gateway, _ in counts],
        "clients": [client for _, client in counts],
        "unknowns": [unknowns for unknowns, _ in counts.values()],
        "answered": [is_answered for _, is_answered in counts.values()],
        "open_after": BREAKER_OPENS_AFTER,
        "open_seconds": BREAKER_OPEN_SECONDS,
    }
    with connections.faults():
        rows = connection.execute(SQL["count_unknowns"], parameters).fetchall()
    return [BreakerChange(*row) for row in rows]


def pause_before_retry(tries: int, first_seconds: float) -> float:
    """
    Return the seconds until the next try: exponential backoff with full jitter.

    The pause is random, between 0 and a limit that doubles with each try.
    """
    limit = min(first_seconds * 2.0 ** (tries - 1), max(first_seconds, PAUSE_SECONDS_MAX))
    return random.uniform(0, limit)  # noqa: S311 - spreads load, protects nothing
