"""
Each operation is killed between any two of its statements. Its act and its audit line are both there, or neither.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from processor.clients import accounts, keys, sessions, webhooks
from processor.clients.keys import Caller
from processor.errors import Forbidden
from processor.ids import new_id
from processor.operations import (
    approvals,
    bulk_actions,
    cancel,
    failed_requests,
    pauses,
    resends,
    reservations,
)
from processor.operations.cancel import ReasonRefused
from processor.operations.failed_requests import NotFailed
from processor.reading.failed import FailedFilter
from tests.store.history import broken
from tests.store.operation_process import OPERATIONS, OPERATOR

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator, Sequence

    from processor.intake.intake import Receipt, Submission
    from processor.operations.bulk_actions import Action
    from tests.store.store import Store

ROOT: Final = Path(__file__).resolve().parents[2]
MODULES: Final = (
    *(approvals, bulk_actions, cancel, failed_requests, pauses, resends, reservations),
    *(accounts, keys, webhooks),
)
#: An operation reads, begins a transaction, writes and commits: there are at least this many answers.
ANSWERS_MIN: Final = 3
#: No operation here has more statements: a loop that does not end fails the test.
ANSWERS_MAX: Final = 40


@dataclass(frozen=True)
class Target:
    """Objects for one run of an operation, and how its act shows."""

    #: For the operation.
    arguments: dict[str, Any]
    #: Each counts rows that the act writes.
    acts: tuple[str, ...]
    #: The condition of its audit lines.
    lines: str
    #: For the queries.
    values: dict[str, Any] = field(default_factory=dict)
    #: The number of rows, and of lines.
    count: int = 1


class Killer:
    """The process that forks a process for each run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.operation_process"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, operation: str, url: str, answers: int, arguments: dict[str, Any]) -> bool:
        """Run an operation up to this number of answers. Return whether it came to its end."""
        order = {"operation": operation, "url": url, "answers": answers, "arguments": arguments}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status in (0, -9), "the operation broke: see the captured output"
        return status == 0

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """
    One for all tests of this module.
    """
    made = Killer()
    yield made
    made.close()


# ---------------------------------------------------------------- targets

NUMBERS: Final = itertools.count(1)
COMMAND: Final = "SELECT count(*) FROM inbox WHERE request_id = ANY(%(requests)s) AND verb = %(verb)s"
REFUND: Final = "SELECT count(*) FROM requests WHERE refund_of = ANY(%(requests)s)"
ROTATED: Final = "SELECT count(*) FROM webhooks WHERE id = %(webhook)s AND previous_secret IS NOT NULL"
ACCEPTED: Final = (
    "SELECT count(*) FROM reservations WHERE request_id = ANY(%(requests)s) AND command = %(verb)s"
)
OF_REQUEST: Final = "request_id = ANY(%(requests)s) AND action = %(verb)s"


def commanded(
    requests: list[uuid.UUID], verb: str, arguments: dict[str, Any], *more: str, line: str | None = None
) -> Target:
    """The act is a command in the inbox of each request."""
    values = {"requests": requests, "verb": verb}
    return Target(arguments, (COMMAND, *more), line or OF_REQUEST, values, len(requests))


def queued(store: Store) -> Target:
    [request] = store.accept(store.redeems("nothing", "ada"))
    return commanded([request], "cancel", {"request": request})


def failed(store: Store, count: int) -> tuple[str, list[uuid.UUID]]:
    """Failed requests of a resource of their own."""
    resource = f"stock-{next(NUMBERS)}"
    store.open(resource)
    with pytest.MonkeyPatch.context() as patch, broken("redemption", patch):
        requests = store.accept(*(store.redeems(resource, "ada") for _ in range(count)))
        store.drain(resource)
    return resource, requests


def one_failed(store: Store) -> Target:
    _, [request] = failed(store, 1)
    return commanded([request], "replay", {"request": request})


def some_failed(store: Store) -> Target:
    _, requests = failed(store, 3)
    return commanded(requests, "replay", {"requests": requests})


def all_failed(store: Store) -> Target:
    resource, requests = failed(store, 3)
    return commanded(requests, "replay", {"resource": resource})


def taken(store: Store) -> Target:
    resource = f"stock-{next(NUMBERS)}"
    store.open(resource)
    [request] = store.accept(store.redeems(resource, "ada"))
    store.drain(resource)
    return Target({"request": request}, (REFUND,), OF_REQUEST, {"requests": [request], "verb": "refund"})


def withdrawn(store: Store, **rules: int) -> uuid.UUID:
    """A withdrawal that waits, by an account with an address."""
    resource = f"balance-{next(NUMBERS)}"
    store.open(resource, "balance", 100, **rules)
    account = f"account-{next(NUMBERS)}"
    store.owner.execute(
        "INSERT INTO accounts (client_id, name, email) VALUES ('shop', %s, %s)",
        (account, f"{account}@example.com"),
    )
    [request] = store.accept(store.asks("withdrawal", resource, account, 50))
    store.drain(resource)
    return request


def reserved(verb: str) -> Callable[[Store], Target]:
    def prepare(store: Store) -> Target:
        resource = f"seat-{next(NUMBERS)}"
        store.open(resource)
        asked = store.asks("reservation", resource, "ada", 2, details={"ttl_seconds": 600})
        [request] = store.accept(asked)
        store.drain(resource)
        return commanded([request], verb, {"request": request}, ACCEPTED)

    return prepare


def awaiting_approval(verb: str) -> Callable[[Store], Target]:
    def prepare(store: Store) -> Target:
        request = withdrawn(store, approve_above=10)
        return commanded([request], verb, {"request": request})

    return prepare


def awaiting_confirmation(store: Store) -> tuple[uuid.UUID, uuid.UUID]:
    """A request whose code was sent, and that code. Its destination may have the next one."""
    request = withdrawn(store, confirm_above=10)
    [(code,)] = store.owner.execute(
        "UPDATE codes SET expires_at = now() + interval '1 hour', has_turn = true, due_at = NULL"
        " WHERE request_id = %s RETURNING id",
        (request,),
    ).fetchall()
    return request, code


def to_confirm(store: Store) -> Target:
    request, code = awaiting_confirmation(store)
    used = (
        "SELECT count(*) FROM codes"
        " WHERE request_id = ANY(%(requests)s) AND used_at IS NOT NULL AND %(verb)s <> ''"
    )
    return commanded([request], "confirm", {"request": request, "code": code}, used)


def to_send_again(store: Store) -> Target:
    request, code = awaiting_confirmation(store)
    replaced = "SELECT count(*) FROM codes WHERE request_id = %(request)s AND id <> %(code)s"
    taken_turn = (
        "SELECT count(*) FROM code_turns WHERE destination ="
        " (SELECT destination FROM codes WHERE request_id = %(request)s)"
    )
    line = "request_id = %(request)s AND action = 'code_sent_again'"
    return Target({"request": request}, (replaced, taken_turn), line, {"request": request, "code": code})


def partition(store: Store) -> Target:
    number = next(NUMBERS) % 64
    store.owner.execute("DELETE FROM pauses")
    before = store.one("SELECT coalesce(max(id), 0) FROM audit")
    return Target(
        {"partition": number},
        ("SELECT count(*) FROM pauses WHERE partition = %(partition)s",),
        "action = 'partition_paused' AND detail = jsonb_build_object('partition', %(partition)s) AND id > %(before)s",
        {"partition": number, "before": before},
    )


def paused_partition(store: Store) -> Target:
    target = partition(store)
    number = target.values["partition"]
    store.owner.execute("INSERT INTO pauses (partition, actor) VALUES (%s, 'x')", (number,))
    resumed = "SELECT count(*) FROM partitions WHERE id = %(partition)s AND id NOT IN (SELECT partition FROM pauses)"
    return Target(target.arguments, (resumed,), target.lines.replace("paused", "resumed"), target.values)


def webhook(store: Store) -> uuid.UUID:
    made, _ = webhooks.register(store.owner, f"client-{next(NUMBERS)}", "https://example.com/", None, "test")
    return made.id


def failed_deliveries(store: Store) -> tuple[uuid.UUID, list[int]]:
    """A webhook, and its deliveries, which failed."""
    owner = webhook(store)
    rows = store.owner.execute(
        "INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at, tries)"
        " SELECT gen_random_uuid(), 2, 'request.completed', %s, 'failed', NULL, 8 FROM generate_series(1, 3)"
        " RETURNING id",
        (owner,),
    )
    return owner, [number for (number,) in rows]


PENDING: Final = "SELECT count(*) FROM deliveries WHERE id = ANY(%(deliveries)s) AND status = 'pending'"


def delivery(store: Store) -> Target:
    _, [number, *_] = failed_deliveries(store)
    line = "action = 'delivery_resent' AND (detail ->> 'delivery')::bigint = ANY(%(deliveries)s)"
    return Target({"delivery": number}, (PENDING,), line, {"deliveries": [number]})


def deliveries(store: Store) -> Target:
    owner, numbers = failed_deliveries(store)
    all_pending = f"SELECT ({PENDING}) / 3"
    line = "action = 'deliveries_resent' AND detail ->> 'webhook' = %(webhook)s"
    values = {"deliveries": numbers, "webhook": str(owner)}
    return Target({"webhook": owner, "newest": max(numbers)}, (all_pending,), line, values)


def admin(store: Store) -> Caller:
    made = keys.create_key(store.owner, f"admin-{next(NUMBERS)}", "admin", actor="test")
    return Caller(made.id, made.client, made.name, made.role)


def columns(caller: Caller) -> list[str]:
    return [str(caller.key_id), caller.client, caller.name, caller.role]


def to_begin(kind: Action) -> Callable[[Store], Target]:
    def prepare(store: Store) -> Target:
        resource, _ = failed(store, 2)
        action = new_id()
        return Target(
            {"action": action, "kind": kind, "resource": resource, "by": columns(admin(store))},
            (
                "SELECT count(*) FROM bulk_actions WHERE id = %(action)s AND matched = 2",
                "SELECT count(*) / 2 FROM bulk_items WHERE action_id = %(action)s",
            ),
            f"action = 'bulk_{kind}' AND detail ->> 'bulk' = %(action)s::text",
            {"action": action},
        )

    return prepare


def begun(store: Store, action: Action) -> tuple[uuid.UUID, list[uuid.UUID]]:
    resource, requests = failed(store, 2)
    number = new_id()
    chosen = FailedFilter(resource=resource)
    bulk_actions.begin(store.owner, number, action, chosen, {}, "a reason", admin(store))
    return number, requests


def part_of_replays(store: Store) -> Target:
    action, requests = begun(store, "replay")
    done = "SELECT done FROM bulk_actions WHERE id = %(action)s"
    target = commanded(requests, "replay", {"action": action}, done)
    return Target(target.arguments, target.acts, target.lines, target.values | {"action": action}, 2)


def part_of_refunds(store: Store) -> Target:
    action, requests = begun(store, "refund")
    line = f"{OF_REQUEST} AND detail ->> 'bulk' = %(action)s::text"
    values = {"requests": requests, "verb": "refund", "action": action}
    return Target({"action": action}, (REFUND,), line, values, 2)


STOPPED: Final = "SELECT count(*) FROM bulk_actions WHERE id = %(action)s AND stopped_by IS NOT NULL"
STOP_LINE: Final = "action = 'bulk_stopped' AND detail ->> 'bulk' = %(action)s::text"


def part_without_valid_key(store: Store) -> Target:
    action, _ = begun(store, "replay")
    store.owner.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE id = (SELECT key_id FROM bulk_actions WHERE id = %s)",
        (action,),
    )
    line = f"{STOP_LINE} AND actor = 'teller' AND reason = 'its key is no longer valid'"
    return Target({"action": action}, (STOPPED,), line, {"action": action})


def to_stop(kind: Action) -> Callable[[Store], Target]:
    def prepare(store: Store) -> Target:
        action, _ = begun(store, kind)
        return Target({"action": action}, (STOPPED,), STOP_LINE, {"action": action})

    return prepare


def new_key(store: Store) -> Target:
    name = f"key-{next(NUMBERS)}"
    made = "SELECT count(*) FROM api_keys WHERE name = %(name)s"
    line = "action = 'key_created' AND detail ->> 'name' = %(name)s"
    return Target({"name": name}, (made,), line, {"name": name})


def old_key(store: Store) -> Target:
    key = admin(store).key_id
    revoked = "SELECT count(*) FROM api_keys WHERE id = %(key)s AND revoked_at IS NOT NULL"
    line = "action = 'key_revoked' AND detail ->> 'key' = %(key)s::text"
    return Target({"key": key}, (revoked,), line, {"key": key})


def new_webhook(store: Store) -> Target:
    client = f"client-{next(NUMBERS)}"
    made = "SELECT count(*) FROM webhooks WHERE client_id = %(client)s"
    line = "action = 'webhook_registered' AND detail ->> 'client' = %(client)s"
    return Target({"client": client}, (made,), line, {"client": client})


def old_webhook(action: str, act: str) -> Callable[[Store], Target]:
    def prepare(store: Store) -> Target:
        owner = webhook(store)
        line = f"action = '{action}' AND detail ->> 'webhook' = %(webhook)s::text"
        return Target({"webhook": owner}, (act,), line, {"webhook": owner})

    return prepare


def account(store: Store) -> Target:
    name = f"account-{next(NUMBERS)}"
    made = "SELECT count(*) FROM accounts WHERE name = %(account)s AND email IS NOT NULL"
    line = "action = 'account_email_set' AND detail ->> 'account' = %(account)s"
    return Target({"account": name}, (made,), line, {"account": name})


def signed_out(store: Store) -> Target:
    caller = admin(store)
    signed_in = "SELECT count(*) FROM console_sessions WHERE key_id = %(key)s"
    line = "action = 'signed_in' AND detail ->> 'key' = %(key)s::text"
    return Target({"by": columns(caller)}, (signed_in,), line, {"key": caller.key_id})


def signed_in(store: Store) -> Target:
    caller = admin(store)
    token = sessions.begin(store.owner, caller)
    assert token is not None
    ended = "SELECT 1 - count(*) FROM console_sessions WHERE key_id = %(key)s"
    line = "action = 'signed_out' AND detail ->> 'key' = %(key)s::text"
    given = {"session": [sessions.digest_of(token).hex(), *columns(caller)]}
    return Target(given, (ended,), line, {"key": caller.key_id})


#: For each operation, the objects that it is tried on; some have more than one.
CASES: Final[list[tuple[str, Callable[[Store], Target]]]] = [
    ("cancel", queued),
    ("replay", one_failed),
    ("replay_each", some_failed),
    ("replay_all", all_failed),
    ("refund", taken),
    ("approve", awaiting_approval("approve")),
    ("deny", awaiting_approval("deny")),
    ("confirm", to_confirm),
    ("send_code_again", to_send_again),
    ("pause", partition),
    ("resume", paused_partition),
    ("resend", delivery),
    ("resend_failed", deliveries),
    ("begin", to_begin("replay")),
    ("begin", to_begin("refund")),
    ("run_part", part_of_replays),
    ("run_part", part_of_refunds),
    ("run_part", part_without_valid_key),
    ("stop", to_stop("replay")),
    ("stop", to_stop("refund")),
    ("create_key", new_key),
    ("revoke_key", old_key),
    ("register", new_webhook),
    ("delete", old_webhook("webhook_deleted", "SELECT 1 - count(*) FROM webhooks WHERE id = %(webhook)s")),
    ("rotate", old_webhook("webhook_secret_rotated", ROTATED)),
    ("rotate_once", old_webhook("webhook_secret_rotated", ROTATED)),
    ("capture", reserved("capture")),
    ("release", reserved("release")),
    ("set_email", account),
    ("sign in", signed_out),
    ("sign out", signed_in),
]
#: Operations without a caller among their parameters, and the one that is wrong on purpose.
OTHERS: Final = {"run_part", "sign in", "sign out", "refund in two transactions"}


# ---------------------------------------------------------------- tests


def half_done(
    store: Store, killer: Killer, operation: str, prepare: Callable[[Store], Target]
) -> list[tuple[int, list[int], int]]:
    """
    Kill an operation after each of its answers, on a fresh target each time, until it comes to its end.

    Returns the runs that left an act without its line, or a line without its act. Each is the number of answers, the
    rows of the act, and the lines.
    """
    found = []
    for answers in range(ANSWERS_MAX):
        target = prepare(store)
        has_ended = killer.run(operation, store.database.api_url, answers, target.arguments)
        acts = [store.owner.execute(query, target.values).fetchall()[0][0] for query in target.acts]
        [(lines,)] = store.owner.execute(
            f"SELECT count(*) FROM audit WHERE {target.lines}",  # noqa: S608 - our own constants
            target.values,
        ).fetchall()
        if {*acts, lines} not in ({0}, {target.count}):
            found.append((answers, acts, lines))
        if has_ended:
            assert lines == target.count, "it came to its end and has no line"
            assert answers >= ANSWERS_MIN
            return found
    raise AssertionError("the operation does not come to its end")


@pytest.mark.parametrize(("operation", "prepare"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_an_act_and_its_audit_line_are_both_there_or_neither(
    store: Store, killer: Killer, operation: str, prepare: Callable[[Store], Target]
) -> None:
    """
    Wherever the process is killed with SIGKILL.
    """
    assert half_done(store, killer, operation, prepare) == []


def test_an_audit_line_in_a_second_transaction_is_found(store: Store, killer: Killer) -> None:
    """
    The test above finds a refund without its line, where the line is written afterwards.
    """
    halves = half_done(store, killer, "refund in two transactions", taken)

    assert [(acts, lines) for _, acts, lines in halves] == [([1], 0)] * len(halves)
    assert halves


def test_each_operation_has_its_case() -> None:
    """
    Operations are the functions that take the caller, or its name for the audit.
    """
    operations = {
        name
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        if {"by", "actor"} & set(inspect.signature(function).parameters)
    }

    assert operations == set(OPERATIONS) - OTHERS
    assert {operation for operation, _ in CASES} == set(OPERATIONS) - {"refund in two transactions"}


# ---------------------------------------------------------------- refusals


def test_only_an_admin_refunds_and_begins_or_stops_refunds(store: Store) -> None:
    """
    The operation itself refuses an operator, and writes nothing.
    """
    action, requests = begun(store, "refund")
    before = store.one("SELECT count(*) FROM audit")

    with pytest.raises(Forbidden):
        failed_requests.refund(refuse_all, store.owner, requests[0], None, "r", OPERATOR, "a key")
    with pytest.raises(Forbidden):
        bulk_actions.begin(store.owner, new_id(), "refund", FailedFilter(), {}, "r", OPERATOR)
    with pytest.raises(Forbidden):
        bulk_actions.stop(store.owner, action, OPERATOR)

    assert bulk_actions.read(store.owner, action).stopped_by is None
    assert store.one("SELECT count(*) FROM audit") == before


def refuse_all(submissions: Sequence[Submission]) -> list[Receipt]:
    raise AssertionError("a refund came to intake")


def test_a_replay_of_named_requests_returns_those_that_are_not_failed(store: Store) -> None:
    """
    An unknown request is among them. If none is failed, the replay is refused.
    """
    [failed_one] = one_failed(store).values["requests"]
    queued_one = queued(store).arguments["request"]
    unknown = new_id()

    replayed = failed_requests.replay_each(store.owner, [failed_one, queued_one, unknown], "test", "r")

    assert replayed.sent == {failed_one}
    assert replayed.not_failed == {queued_one, unknown}
    with pytest.raises(NotFailed):
        failed_requests.replay_each(store.owner, [queued_one, unknown], "test", "r")


def test_a_client_gives_no_reason_for_a_cancel(store: Store) -> None:
    """
    The request stays as it is.
    """
    request = queued(store).arguments["request"]
    client = Caller(new_id(), "shop", "shop", "client")

    with pytest.raises(ReasonRefused):
        cancel.cancel(store.owner, request, client, "changed my mind")

    assert store.one("SELECT count(*) FROM inbox WHERE request_id = %s AND verb = 'cancel'", request) == 0
    assert cancel.cancel(store.owner, request, client)[1].is_new
