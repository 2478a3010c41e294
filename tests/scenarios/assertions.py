"""
Ledger assertions: answers, entries, state and order after a scenario, exactly.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.waiting import TIMEOUT_SECONDS, Deadline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.crowd import Caller, Crowd, Reply
    from tests.scenarios.scenario_stack import ScenarioStack
    from tests.stack import Document

#: The longest wait for a decision that a request may ask for.
WAIT = "wait=20"
#: The pause between two reads of requests that are not decided yet, in seconds.
LOOK_SECONDS = 0.01
#: The connections over which entries are read.
READERS = 16


@dataclass(frozen=True)
class Mode:
    """A way to send requests: wait for the decision or poll for it, at one API or at two."""

    waits: bool
    apis: int

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        return {"Prefer": WAIT} if self.waits else {}


#: The modes of the rounds of a scenario, in turn.
MODES = (
    Mode(waits=True, apis=1),
    Mode(waits=False, apis=2),
    Mode(waits=True, apis=2),
    Mode(waits=False, apis=1),
)


def mode_of(round_number: int) -> Mode:
    """
    Return the mode of a round.
    """
    return MODES[round_number % len(MODES)]


def submit(crowd: Crowd, caller: Caller, path: str, bodies: Sequence[Document], mode: Mode) -> list[Document]:
    """
    Send all at the same instant. Returns the decided requests in the order of the bodies.
    """
    replies = crowd.ask([caller.post(path, body, **mode.headers) for body in bodies])
    for reply in replies:
        check_acceptance(reply, mode)
    return until_over(crowd, caller, [reply.document for reply in replies])


def check_acceptance(reply: Reply, mode: Mode) -> None:
    """
    Check the first answer to a request.

    202 names the request and the time to read it again. 200 has a final state, after a wait that was granted.
    Without a wait the request is queued.
    """
    document, headers = reply.document, reply.headers
    assert headers["location"] == f"/v1/requests/{document['id']}"
    assert headers["etag"] == f'"{document["version"]}"'
    assert "idempotency-replayed" not in headers
    if mode.waits and "preference-applied" in headers:
        assert headers["preference-applied"] == WAIT
        assert reply.status == 200, reply.body
    if reply.status == 200:
        assert document["finished_at"] is not None
        return
    assert reply.status == 202, reply.body
    assert headers["retry-after"] == "1"
    if not mode.waits:
        assert (document["status"], document["stage"], document["version"]) == ("processing", "queued", 1)
        assert document["sequence"] is document["decided_at"] is document["finished_at"] is None


def until_over(crowd: Crowd, caller: Caller, documents: Sequence[Document]) -> list[Document]:
    """
    Poll the requests until all are decided. Returns their documents.
    """
    found = {document["id"]: document for document in documents}
    limit = Deadline(TIMEOUT_SECONDS)
    while waiting := [one["id"] for one in found.values() if one["status"] == "processing"]:
        assert limit.is_met(), f"{len(waiting)} are not decided: {waiting[:3]}"
        for reply in crowd.ask([caller.get(f"/v1/requests/{request_id}") for request_id in waiting]):
            assert reply.status == 200, reply.body
            found[reply.document["id"]] = reply.document
        time.sleep(LOOK_SECONDS)
    return [found[document["id"]] for document in documents]


def outcomes(documents: Sequence[Document]) -> Counter[str]:
    """
    Count the outcomes: the code of a refused request, else its status.
    """
    return Counter(one["error"]["code"] if one["error"] else one["status"] for one in documents)


@dataclass(frozen=True)
class Sale:
    """A new resource, and simultaneous requests for the same amount of it."""

    stack: ScenarioStack
    opening: Document
    documents: Sequence[Document]

    def check(self, *, completed: int, refusal: str, left: int) -> None:
        """
        Check how many requests completed, the refusal of all others, and the amount that is left.

        Answers, order, entries, the state of the resource and the list of its requests must agree.
        """
        count = len(self.documents)
        assert outcomes(self.documents) == Counter({"completed": completed, refusal: count - completed})
        in_order = sorted(self.documents, key=lambda one: int(one["sequence"]))
        first = self.opening["sequence"] + 1
        assert [one["sequence"] for one in in_order] == list(range(first, first + count))
        assert [one["status"] for one in in_order] == ["completed"] * completed + ["rejected"] * (
            count - completed
        )
        assert len({one["id"] for one in self.documents}) == count
        for document in self.documents:
            _check_decided(document)
        self._check_request_entries()
        self._check_resource_entries(in_order[:completed], left)
        self._check_list()

    def _check_request_entries(self) -> None:
        """Check that a completed request has one debit, and a refused one has none."""
        client = self.stack.client
        with self.stack.crowd(READERS) as readers:
            replies = readers.ask([client.get(f"/v1/requests/{one['id']}/entries") for one in self.documents])
        for document, reply in zip(self.documents, replies, strict=True):
            entries = reply.document["data"]
            assert len(entries) == (document["status"] == "completed")
            for entry in entries:
                names = ("resource", "account", "amount")
                assert [entry[name] for name in names] == [document[name] for name in names]
                assert (entry["kind"], entry["request"]) == ("debit", document["id"])

    def _check_resource_entries(self, winners: Sequence[Document], left: int) -> None:
        """Check the credit of the opening, then the debits in order, each with the state after it."""
        resource, opened_with = self.opening["resource"], self.opening["amount"]
        entries = self.stack.listed(self.stack.admin, f"/v1/resources/{resource}/entries")[::-1]
        assert [entry["version"] for entry in entries] == list(range(1, 2 + len(winners)))
        assert (entries[0]["kind"], entries[0]["amount"]) == ("credit", opened_with)
        assert [entry["request"] for entry in entries] == [
            self.opening["id"],
            *(one["id"] for one in winners),
        ]
        taken = list(itertools.accumulate((one["amount"] for one in winners), initial=0))
        assert [entry["available"] for entry in entries] == [opened_with - amount for amount in taken]
        assert {entry["held"] for entry in entries} == {0}
        times = [entry["created_at"] for entry in entries]
        assert times == sorted(times)

        state = self.stack.resource(resource)
        assert (state["available"], state["held"], state["version"]) == (left, 0, len(entries))
        assert opened_with - taken[-1] == left

    def _check_list(self) -> None:
        """Check that the list has these requests and no others."""
        path = f"/v1/requests?resource={self.opening['resource']}"
        listed = self.stack.listed(self.stack.client, path)
        assert sorted(one["id"] for one in listed) == sorted(one["id"] for one in self.documents)
        assert {one["id"]: one for one in listed} == {one["id"]: one for one in self.documents}


def _check_decided(document: Document) -> None:
    """Check that a request was decided once and is finished."""
    assert (document["version"], document["stage"], document["refunded"]) == (2, None, 0)
    assert document["result"] is None
    assert document["created_at"] <= document["decided_at"] == document["finished_at"]
