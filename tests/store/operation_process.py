"""
Run operations in processes that kill themselves between two statements.

Each line of standard input is a JSON object: an operation, its arguments, the URL of the database, and a number of
answers. A forked process runs the operation, and kills itself after that many answers of the database. Each line of
standard output is the exit status of such a process: -9 was killed, 0 ended.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import traceback
import uuid
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg

from processor.clients import accounts, keys, sessions, webhooks
from processor.clients.codes import digits_of
from processor.clients.keys import Caller
from processor.clients.sessions import Session
from processor.intake.intake import Intake
from processor.operations import (
    approvals,
    bulk_actions,
    cancel,
    failed_requests,
    pauses,
    resends,
    reservations,
)
from processor.reading.failed import FailedFilter
from processor.records import audit
from processor.settings import Settings
from processor.storage import connections
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from processor.intake.intake import Receipt, Submission
    from processor.storage.connections import Connection

#: An operator of another client than `shop`, which makes the requests.
OPERATOR: Final = Caller(uuid.UUID(int=2), "staff", "olga", "operator")
ADMIN: Final = Caller(uuid.UUID(int=3), "staff", "anna", "admin")
REASON: Final = "a reason"
SECRET: Final = "a secret of at least thirty-two characters"

Arguments = dict[str, Any]


def kill_after(answers: int) -> None:
    """Kill this process when its connections together have received this many answers."""
    wait = psycopg.Connection.wait
    received = itertools.count(1)

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        if answers == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = wait(self, *arguments, **named)
        if next(received) == answers:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    psycopg.Connection.wait = counted  # type: ignore[method-assign]


def settings_of(url: str) -> Settings:
    """Return settings with the secret and the lifetimes of codes."""
    return Settings.from_environment(
        {"DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1", "TELLER_SECRET": SECRET}
    )


def accept(url: str, submissions: Sequence[Submission]) -> list[Receipt]:
    """Hand requests to an intake of this process."""
    intake = Intake(lambda: _connect(url), PARTITIONS, 10**9, lambda _: None)
    intake.start()
    return intake.accept(submissions)


def _refund(connection: Connection, url: str, given: Arguments) -> None:
    request = UUID(given["request"])
    failed_requests.refund(
        lambda refunds: accept(url, refunds), connection, request, None, REASON, ADMIN, given["request"]
    )


def _refund_in_two_transactions(connection: Connection, url: str, given: Arguments) -> None:
    request = UUID(given["request"])

    def accept_without_line(refunds: Sequence[Submission]) -> list[Receipt]:
        return accept(url, [refund._replace(audit=None) for refund in refunds])

    failed_requests.refund(accept_without_line, connection, request, None, REASON, ADMIN, given["request"])
    audit.note(connection, ADMIN.actor, "refund", request, REASON)


def _confirm(connection: Connection, url: str, given: Arguments) -> None:
    typed = digits_of(SECRET, UUID(given["code"]))
    approvals.confirm(connection, settings_of(url), UUID(given["request"]), typed, OPERATOR)


def _rotate_once(connection: Connection, _: str, given: Arguments) -> None:
    webhook = UUID(given["webhook"])
    webhooks.rotate_once(connection, webhook, OPERATOR, REASON, webhooks.read_rotated(connection, webhook))


def _session(given: Arguments) -> Session:
    [digest, *caller] = given["session"]
    return Session(bytes.fromhex(digest), _caller(caller), None)  # type: ignore[arg-type]  # not read


def _caller(columns: list[Any]) -> Caller:
    return Caller(UUID(columns[0]), *columns[1:])


def _call(operation: Callable[..., object], name: str) -> Callable[[Connection, str, Arguments], object]:
    """Call an operation on one request."""
    return lambda connection, _, given: operation(connection, UUID(given[name]), OPERATOR, REASON)


OPERATIONS: Final[dict[str, Callable[[Connection, str, Arguments], object]]] = {
    "cancel": _call(cancel.cancel, "request"),
    "replay": _call(failed_requests.replay, "request"),
    "replay_each": lambda connection, _, given: failed_requests.replay_each(
        connection, [UUID(one) for one in given["requests"]], OPERATOR.actor, REASON
    ),
    "replay_all": lambda connection, _, given: failed_requests.replay_all(
        connection, None, given["resource"], OPERATOR.actor, REASON
    ),
    "refund": _refund,
    "refund in two transactions": _refund_in_two_transactions,
    "approve": _call(approvals.approve, "request"),
    "deny": _call(approvals.deny, "request"),
    "confirm": _confirm,
    "send_code_again": lambda connection, url, given: approvals.send_code_again(
        connection, settings_of(url), UUID(given["request"]), OPERATOR
    ),
    "pause": lambda connection, _, given: pauses.pause(connection, given["partition"], OPERATOR, REASON),
    "resume": lambda connection, _, given: pauses.resume(connection, given["partition"], OPERATOR, REASON),
    "resend": lambda connection, _, given: resends.resend(connection, given["delivery"], OPERATOR),
    "resend_failed": lambda connection, _, given: resends.resend_failed(
        connection, UUID(given["webhook"]), given["newest"], OPERATOR, REASON
    ),
    "capture": lambda connection, _, given: reservations.capture(connection, UUID(given["request"]), ADMIN),
    "release": _call(reservations.release, "request"),
    "begin": lambda connection, _, given: bulk_actions.begin(
        connection,
        UUID(given["action"]),
        given["kind"],
        FailedFilter(resource=given["resource"]),
        {},
        REASON,
        _caller(given["by"]),
    ),
    "run_part": lambda connection, url, given: bulk_actions.run_part(
        connection, UUID(given["action"]), lambda refunds: accept(url, refunds)
    ),
    "stop": lambda connection, _, given: bulk_actions.stop(connection, UUID(given["action"]), ADMIN),
    "create_key": lambda connection, _, given: keys.create_key(
        connection, given["name"], "client", actor=OPERATOR.actor
    ),
    "revoke_key": lambda connection, _, given: keys.revoke_key(
        connection, UUID(given["key"]), actor=OPERATOR.actor, reason=REASON
    ),
    "register": lambda connection, _, given: webhooks.register(
        connection, given["client"], "https://example.com/", None, OPERATOR.actor
    ),
    "delete": _call(webhooks.delete, "webhook"),
    "rotate": _call(webhooks.rotate, "webhook"),
    "rotate_once": _rotate_once,
    "set_email": lambda connection, _, given: accounts.set_email(
        connection, given["account"], "ada@example.com", OPERATOR
    ),
    "sign in": lambda connection, _, given: sessions.begin(connection, _caller(given["by"])),
    "sign out": lambda connection, _, given: sessions.end(connection, _session(given)),
}


def _connect(url: str) -> Connection:
    return connections.connect(url, application_name="test operation")


def _run(order: dict[str, Any]) -> None:
    connection = _connect(order["url"])
    kill_after(order["answers"])
    OPERATIONS[order["operation"]](connection, order["url"], order["arguments"])


def main() -> None:
    """Fork a process for each line."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _run(json.loads(line))
            except BaseException:  # noqa: BLE001 - the status reports it
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main()
