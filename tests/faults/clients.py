"""
Clients under load: they send, wait, retry with the same key, change their minds, and write down what they saw.

What each of them wants follows from the seed; when, does not. A request that nobody answered is sent again until
somebody does, or until the run is over.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.faults.history import Asked, Try

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from tests.faults.system import Caller

#: Who gets no answer for so long gives up and asks again, in seconds.
ANSWER_SECONDS: Final = 5.0
#: A server that cannot know must say so within this, in seconds: what is promised, and what a busy machine adds.
UNAVAILABLE_SECONDS: Final = 3.5
#: The pause before asking again, and after an answer, at the most, in seconds.
RETRY_SECONDS: Final = 0.2
THINK_SECONDS: Final = 0.05
#: Requests of one client that an admin may still want to give back.
REMEMBERED_MAX: Final = 200

SHOP, CASH, SAND, LIMITED, SCARCE = "shop", "cash", "sand", "limited", "scarce"
#: The resources of a run: kind, what they begin with, and rules.
RESOURCES: Final[dict[str, tuple[str, int, dict[str, Any]]]] = {
    f"{SHOP}-1": ("stock", 10**9, {}),
    f"{SHOP}-2": ("stock", 10**9, {}),
    f"{CASH}-1": ("balance", 10**6, {"gateway": "bank"}),
    f"{CASH}-2": ("pool", 2_000, {"gateway": "bank", "overdraft": 500}),
    f"{SAND}-1": ("balance", 10**6, {"gateway": "sandbox"}),
    f"{LIMITED}-1": ("points", 10**6, {"per_account_limit": 20}),
    f"{SCARCE}-1": ("coupon", 5, {}),
    f"{SCARCE}-2": ("balance", 5, {}),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status None: nothing."""

    status: int | None
    document: Any = None
    retry_after: str | None = None


@dataclass
class Http:
    """One connection at a time, to one API after the other."""

    ports: Sequence[int]
    caller: Caller
    _number: int = 0
    _connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request, and what came back."""
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
            said = answer.read()
            return Answer(answer.status, json.loads(said) if said else None, answer.getheader("Retry-After"))
        except (OSError, http.client.HTTPException, ValueError):
            self.hang_up()
            return Answer(None)

    def hang_up(self) -> None:
        """The next call is made to another API."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass
class Standstill:
    """While an API is stopped it can answer nobody in time: for as long, nobody counts."""

    ended_at: float = 0.0
    is_on: bool = False

    @contextlib.contextmanager
    def lasting(self) -> Iterator[None]:
        """From before an API is stopped until it goes on."""
        self.is_on = True
        try:
            yield
        finally:
            self.ended_at, self.is_on = time.monotonic(), False

    def counted(self, since: float) -> float:
        """The seconds since then in which an answer could have come."""
        return 0.0 if self.is_on else time.monotonic() - max(since, self.ended_at)


@dataclass
class Client:
    """
    Somebody who asks for one thing after the other until `stopping`, and then goes on only until what is open has an
    answer, or until `deadline`.
    """

    number: int
    seed: int
    http: Http
    stopping: threading.Event
    asked: list[Asked] = field(default_factory=list)
    #: Answers that break a promise of their own: too late, or without a word of when to ask again.
    wrong: list[str] = field(default_factory=list)
    #: Shared by all clients of a run.
    standstill: Standstill = field(default_factory=Standstill)
    answered: int = 0
    deadline: float = float("inf")
    _keys: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}/{self.number}")

    def run(self) -> None:
        """Until stopping."""
        while not self.stopping.is_set():
            self.act()
            time.sleep(self.chance.uniform(0, THINK_SECONDS))
        self.http.hang_up()

    def act(self) -> None:
        """One thing that this client does."""
        chosen = self.chance.random()
        if chosen < 0.08:
            self._send_batch()
            return
        kind, body = self._wish()
        headers = {"Prefer": "wait=1"} if self.chance.random() < 0.2 else {}
        request = self.send(f"/v1/{kind}s", kind, body, **headers)
        if request is not None and self.chance.random() < 0.05:
            self.http.call("POST", f"/v1/requests/{request}/cancel")

    def send(
        self, path: str, kind: str, body: dict[str, Any], *, resource: str | None = None, **headers: str
    ) -> str | None:
        """Ask until there is an answer; returns the id of the request, if it is known."""
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
        """Ask a single time, whatever comes of it."""
        asked = self._asked(kind, body, None)
        tried = self._try(asked)
        answer = self.http.call("POST", path, body, Idempotency_Key=asked.key)
        self._note(tried, answer.status, answer.document)
        self.http.hang_up()
        return answer

    def send_items(self, wishes: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """Several in one call, until there is an answer; returns the ids that are known."""
        some = [self._asked(kind, body, None) for kind, body in wishes]
        items = [
            {"kind": asked.kind, "idempotency_key": asked.key, **body}
            for asked, (_, body) in zip(some, wishes, strict=True)
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

    # ------------------------------------------------------------ what is wanted

    def _wish(self) -> tuple[str, dict[str, Any]]:
        resource = self.chance.choice(list(RESOURCES))
        account = f"u{self.chance.randrange(12)}"
        body: dict[str, Any] = {"resource": resource, "account": account, "amount": self.chance.randint(1, 3)}
        if self.chance.random() < 0.02:
            body["resource"] = "nothing"
        if RESOURCES[resource][0] not in ("balance", "pool"):
            return "redemption", body
        if resource.startswith(SAND):
            # Few that never get an answer: their breaker would keep all others waiting.
            [body["destination"]] = self.chance.choices(
                ["ok", "decline", "flaky", "unavailable"], [60, 15, 15, 1]
            )
        return "withdrawal", body

    def _send_batch(self) -> None:
        self.send_items([self._wish() for _ in range(self.chance.randint(2, 12))])

    # ------------------------------------------------------------ writing it down

    def _asked(self, kind: str, body: dict[str, Any], resource: str | None) -> Asked:
        self._keys += 1
        asked = Asked(
            self.http.caller.client,
            f"{self.number}-{self._keys}",
            kind,
            resource or body.get("resource") or body["id"],
            body.get("account"),
            body["available"] if kind == "opening" else body.get("amount"),
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
        """`waits_seconds`: for so long it had been asked to wait for a decision, before it found out."""
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
    """Opens, restocks, changes rules, and sees to what is parked."""

    def open_all(self) -> None:
        """The resources of the run; those of the probes, too."""
        for name, (kind, available, rules) in RESOURCES.items():
            self.open(name, kind, available, **rules)

    def open(self, name: str, kind: str, available: int, **rules: Any) -> None:
        """One resource, which is there when this returns."""
        body = {"id": name, "kind": kind, "available": available, **rules}
        self.send("/v1/resources", "opening", body, Prefer="wait=10")

    def act(self) -> None:
        """One thing that has to be done."""
        time.sleep(self.chance.uniform(0.05, 0.2))
        chosen = self.chance.random()
        if chosen < 0.4:
            resource = self.chance.choice([name for name in RESOURCES if name.startswith(SCARCE)])
            self.send("/v1/deposits", "deposit", {"resource": resource, "amount": self.chance.randint(1, 9)})
        elif chosen < 0.5:
            limit = self.chance.choice([None, 30, 60, 90])
            self._amend(f"{LIMITED}-1", {"per_account_limit": limit})
        elif chosen < 0.75:
            self._see_to("/v1/admin/failed?limit=20", replay=self.chance.random() < 0.7)
        else:
            kind = self.chance.choice(["redemption", "withdrawal"])
            self._see_to(f"/v1/requests?status=completed&kind={kind}&limit=20", replay=False)

    def replay_all(self) -> None:
        """Everything that waits for the bank, once more."""
        for name in RESOURCES:
            if name.startswith(CASH):
                body = {"resource": name, "reason": "the bank is well"}
                self.http.call("POST", "/v1/admin/replay", body)
        self.http.hang_up()

    def _amend(self, resource: str, changes: dict[str, Any]) -> None:
        """A PATCH has no other way of being told apart than a POST."""
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
        if self.chance.random() < 0.3:
            body["amount"] = 1
        asked = self._asked("refund", {**body, "account": one["account"]}, one["resource"])
        asked.refund_of = one["id"]
        while self._may_try(asked):
            tried = self._try(asked)
            answer = self.http.call("POST", f"{url}/refund", body, Idempotency_Key=asked.key)
            self._note(tried, answer.status, answer.document)
            if _is_answer(answer.status):
                return
            self.http.hang_up()
            time.sleep(RETRY_SECONDS)


def _is_answer(status: int | None) -> bool:
    """Whether asking again would bring nothing new."""
    return status is not None and status < 500 and status != http.HTTPStatus.TOO_MANY_REQUESTS
