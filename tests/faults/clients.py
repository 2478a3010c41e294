"""
Clients under load. They send, wait, retry with the same key, cancel, and record their observations.

Each client's requests follow from the seed, but their times do not. A request without an answer is sent again
until it gets one, or until the run ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.faults.choices import CASH, LIMITED, RESOURCES, SAND, SCARCE, TRADE, TTL_SECONDS_MAX, choose
from tests.faults.history import Asked, Command, Try

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from tests.faults.system import Caller

#: Time limit for an answer, in seconds. Afterwards the client sends again.
ANSWER_SECONDS: Final = 5.0
#: Time limit for a 503, in seconds: the promised one, and a margin for a busy machine.
UNAVAILABLE_SECONDS: Final = 3.5
#: The longest pauses before a retry and after an answer, in seconds.
RETRY_SECONDS: Final = 0.2
THINK_SECONDS: Final = 0.05
#: The most requests of one client that an admin may still refund.
REMEMBERED_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. Without one, `status` is None."""

    status: int | None
    document: Any = None
    retry_after: str | None = None


@dataclass
class Http:
    """One connection at a time, to each API in turn."""

    ports: Sequence[int]
    caller: Caller
    _number: int = 0
    _connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send one request. Returns its answer."""
        try:
            if self._connection is None:
                self._number += 1
                port = self.ports[self._number % len(self.ports)]
                self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
            sent = {"Authorization": f"Bearer {self.caller.key}", "Content-Type": "application/json"}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            payload = None if body is None else json.dumps(body)
            self._connection.request(method, path, payload, sent)
            answer = self._connection.getresponse()
            content = answer.read()
            return Answer(
                answer.status, json.loads(content) if content else None, answer.getheader("Retry-After")
            )
        except (OSError, http.client.HTTPException, ValueError):
            self.hang_up()
            return Answer(None)

    def hang_up(self) -> None:
        """Let the next call go to another API."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass
class Standstill:
    """The times at which an API is suspended and cannot answer. They do not count as late."""

    ended_at: float = 0.0
    is_on: bool = False

    @contextlib.contextmanager
    def lasting(self) -> Iterator[None]:
        """Cover the time from before an API is suspended until it continues."""
        self.is_on = True
        try:
            yield
        finally:
            self.ended_at, self.is_on = time.monotonic(), False

    def counted(self, since: float) -> float:
        """Return the seconds since `since` in which an answer could have come."""
        return 0.0 if self.is_on else time.monotonic() - max(since, self.ended_at)


@dataclass
class Client:
    """
    A client that sends requests until `stopping`.

    Afterwards it only retries requests without an answer, until `deadline`.
    """

    number: int
    seed: int
    http: Http
    stopping: threading.Event
    asked: list[Asked] = field(default_factory=list)
    #: Answers that break a promise: too late, or without Retry-After.
    wrong: list[str] = field(default_factory=list)
    #: Shared by all clients of a run.
    standstill: Standstill = field(default_factory=Standstill)
    answered: int = 0
    deadline: float = float("inf")
    #: The captures and releases that were sent.
    commands: list[Command] = field(default_factory=list)
    #: Reservations that may be held, and when their command is sent.
    _held: list[tuple[float, str, int]] = field(default_factory=list)
    _keys: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}/{self.number}")

    def run(self) -> None:
        """Act until `stopping`."""
        while not self.stopping.is_set():
            self.act()
            time.sleep(self.chance.uniform(0, THINK_SECONDS))
        self.http.hang_up()

    def act(self) -> None:
        """Send one random request, batch or command."""
        self._end_some()
        chosen = self.chance.random()
        if chosen < 0.08:
            self._send_batch()
            return
        if chosen < 0.25:
            self._reserve()
            return
        kind, body = choose(self.chance)
        headers = {"Prefer": "wait=1"} if self.chance.random() < 0.2 else {}
        request = self.send(f"/v1/{kind}s", kind, body, **headers)
        if request is not None and self.chance.random() < 0.05:
            self.http.call("POST", f"/v1/requests/{request}/cancel")

    def send(
        self, path: str, kind: str, body: dict[str, Any], *, resource: str | None = None, **headers: str
    ) -> str | None:
        """Send until there is an answer. Returns the id of the request, if known."""
        asked = self._asked(kind, body, resource)
        while self._may_try(asked):
            tried = self._try(asked)
            answer = self.http.call("POST", path, body, Idempotency_Key=asked.key, **headers)
            self._note(tried, answer.status, answer.document)
            self._judge(asked.key, tried, answer, int(headers.get("Prefer", "wait=0").removeprefix("wait=")))
            if _is_answer(answer.status):
                break
            self.http.hang_up()
            time.sleep(self.chance.uniform(0, RETRY_SECONDS))
        return asked.promised.request if asked.promised else None

    def once(self, path: str, kind: str, body: dict[str, Any]) -> Answer:
        """Send once, whatever the result."""
        asked = self._asked(kind, body, None)
        tried = self._try(asked)
        answer = self.http.call("POST", path, body, Idempotency_Key=asked.key)
        self._note(tried, answer.status, answer.document)
        self.http.hang_up()
        return answer

    def send_items(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """Send several requests in one call until there is an answer. Returns the known ids."""
        some = [self._asked(kind, body, None) for kind, body in requests]
        items = [
            {"kind": asked.kind, "idempotency_key": asked.key, **body}
            for asked, (_, body) in zip(some, requests, strict=True)
        ]
        while self._may_try(some[0]):
            tries = [self._try(asked) for asked in some]
            answer = self.http.call("POST", "/v1/batches", {"requests": items})
            self._judge(some[0].key, tries[0], answer)
            if answer.status == http.HTTPStatus.ACCEPTED:
                for tried, result in zip(tries, answer.document["results"], strict=True):
                    self._note(tried, result["status"], result.get("request"))
                break
            self.http.hang_up()
            time.sleep(self.chance.uniform(0, RETRY_SECONDS))
        return [asked.promised.request for asked in some if asked.promised and asked.promised.request]

    # ------------------------------------------------------------ reservations

    def _reserve(self) -> None:
        """Reserve, and decide what to do with it and when: before its end, at its very end, or never."""
        resource = self.chance.choice([name for name in RESOURCES if not name.startswith(SAND)])
        amount, seconds = self.chance.randint(1, 3), self.chance.randint(1, TTL_SECONDS_MAX)
        body = {"resource": resource, "account": f"u{self.chance.randrange(12)}", "amount": amount}
        request = self.send("/v1/reservations", "reservation", body | {"ttl_seconds": seconds})
        if request is not None and self.chance.random() < 0.7:
            at_the_end = self.chance.random() < 0.3
            wait = seconds + self.chance.uniform(-0.1, 0.1) if at_the_end else self.chance.uniform(0, seconds)
            self._held.append((time.monotonic() + wait, request, amount))

    def _end_some(self) -> None:
        """Capture or release the reservations whose time has come, sometimes twice."""
        now = time.monotonic()
        due = [one for one in self._held if one[0] <= now]
        self._held = [one for one in self._held if one[0] > now]
        for _, request, amount in due:
            for _ in range(self.chance.choice([1, 1, 1, 2])):
                self.command(request, self.chance.choice(["capture", "capture", "release"]), amount)

    def command(self, request: str, verb: str, held: int) -> None:
        """Send a capture of all or a part of what is held, or a release. It is sent once."""
        amount = self.chance.randint(1, held) if verb == "capture" and self.chance.random() < 0.5 else None
        command = Command(request, verb, amount)
        self.commands.append(command)
        body = {} if amount is None else {"amount": amount}
        answer = self.http.call("POST", f"/v1/requests/{request}/{verb}", body)
        command.status = answer.status if answer.status is None or answer.status < 500 else None
        if answer.status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
            self.wrong.append(f"answered_500 {verb} of {request}: {answer.document}")

    def _send_batch(self) -> None:
        self.send_items([choose(self.chance) for _ in range(self.chance.randint(2, 12))])

    # ------------------------------------------------------------ recording

    def _asked(self, kind: str, body: dict[str, Any], resource: str | None) -> Asked:
        self._keys += 1
        asked = Asked(
            self.http.caller.client,
            f"{self.number}-{self._keys}",
            kind,
            resource
            or body.get("resource")
            or (body["legs"][0]["resource"] if "legs" in body else body["id"]),
            body.get("account"),
            body["available"] if kind == "opening" else body.get("amount"),
            legs=body.get("legs", []),
        )
        self.asked.append(asked)
        return asked

    def _may_try(self, asked: Asked) -> bool:
        return not asked.tries or (time.monotonic() < self.deadline and asked.promised is None)

    def _try(self, asked: Asked) -> Try:
        tried = Try(time.monotonic())
        asked.tries.append(tried)
        return tried

    def _note(self, tried: Try, status: int | None, document: Any) -> None:
        if status is None:
            return
        tried.answered_at, tried.status = time.monotonic(), status
        if tried.accepted and isinstance(document, dict):
            tried.request, tried.state, tried.version = (
                document["id"],
                document["status"],
                document["version"],
            )
            self.answered += 1

    def _judge(self, key: str, tried: Try, answer: Answer, waits_seconds: int = 0) -> None:
        """Check an answer's time. The request had asked to wait `waits_seconds` for its decision."""
        if answer.status not in (429, 500, 503):
            return
        took = self.standstill.counted(tried.sent_at)
        if answer.status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
            self.wrong.append(f"answered_500 {key}: {answer.document}")
        elif answer.retry_after is None:
            self.wrong.append(f"no_retry_after {key}: {answer.status}")
        elif took > UNAVAILABLE_SECONDS + waits_seconds:
            self.wrong.append(f"late_503 {key}: after {took:.1f} s")


class Admin(Client):
    """Opens, restocks, changes rules, and handles failed requests."""

    def open_all(self) -> None:
        """Open the resources of the run, and those of the probes."""
        for name, (kind, available, rules) in RESOURCES.items():
            self.open(name, kind, available, **rules)

    def open(self, name: str, kind: str, available: int, **rules: Any) -> None:
        """Open one resource. Returns once it exists."""
        body = {"id": name, "kind": kind, "available": available, **rules}
        self.send("/v1/resources", "opening", body, Prefer="wait=10")

    def act(self) -> None:
        """Do one random act of an admin."""
        time.sleep(self.chance.uniform(0.05, 0.2))
        chosen = self.chance.random()
        if chosen < 0.4:
            resource = self.chance.choice([name for name in RESOURCES if name.startswith((SCARCE, TRADE))])
            self.send("/v1/deposits", "deposit", {"resource": resource, "amount": self.chance.randint(1, 9)})
        elif chosen < 0.5:
            limit = self.chance.choice([None, 30, 60, 90])
            self._amend(f"{LIMITED}-1", {"per_account_limit": limit})
        elif chosen < 0.75:
            self._see_to("/v1/admin/failed?limit=20", replay=self.chance.random() < 0.7)
        else:
            kind = self.chance.choice(["redemption", "withdrawal", "exchange", "reservation"])
            self._see_to(f"/v1/requests?status=completed&kind={kind}&limit=20", replay=False)

    def replay_all(self) -> None:
        """Replay all failed requests of the bank."""
        for name in RESOURCES:
            if name.startswith(CASH):
                body = {"resource": name, "reason": "the bank is reliable"}
                self.http.call("POST", "/v1/admin/replay", body)
        self.http.hang_up()

    def _amend(self, resource: str, changes: dict[str, Any]) -> None:
        """Send a PATCH. Only its recorded kind differs from a POST's."""
        asked = self._asked("amendment", changes, resource)
        asked.amount = None
        while self._may_try(asked):
            tried = self._try(asked)
            answer = self.http.call("PATCH", f"/v1/resources/{resource}", changes, Idempotency_Key=asked.key)
            self._note(tried, answer.status, answer.document)
            if _is_answer(answer.status):
                return
            self.http.hang_up()
            time.sleep(RETRY_SECONDS)

    def _see_to(self, path: str, *, replay: bool) -> None:
        found = self.http.call("GET", path)
        if found.status != http.HTTPStatus.OK or not found.document["data"]:
            return
        one = self.chance.choice(found.document["data"])
        url = f"/v1/admin/requests/{one['id']}"
        if replay:
            self.http.call("POST", f"{url}/replay", {"reason": "once more"})
            return
        body: dict[str, Any] = {"reason": "as asked"}
        legs = [_opposite(leg) for leg in one.get("legs", ())]
        if self.chance.random() < 0.3 and not legs:
            body["amount"] = 1
        resource = legs[0]["resource"] if legs else one["resource"]
        asked = self._asked("refund", {**body, "account": one["account"], "legs": legs}, resource)
        asked.refund_of = one["id"]
        while self._may_try(asked):
            tried = self._try(asked)
            answer = self.http.call("POST", f"{url}/refund", body, Idempotency_Key=asked.key)
            self._note(tried, answer.status, answer.document)
            if _is_answer(answer.status):
                return
            self.http.hang_up()
            time.sleep(RETRY_SECONDS)


def _opposite(leg: dict[str, Any]) -> dict[str, Any]:
    """Return the leg of a refund."""
    change = {"give": leg["take"]} if "take" in leg else {"take": leg["give"]}
    return {"resource": leg["resource"], **change}


def _is_answer(status: int | None) -> bool:
    """Return whether a retry would bring nothing new."""
    return status is not None and status < 500 and status != http.HTTPStatus.TOO_MANY_REQUESTS
