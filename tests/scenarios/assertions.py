"""
What must be so after a story, exactly: in the answers, in the entries, in the resource and in the order.
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

#: Who waits for an answer, waits so long, in seconds; longer than anything takes.
WAIT = "wait=20"
#: Between two looks at requests that are not decided yet, in seconds.
LOOK_SECONDS = 0.01
#: Connections over which the books are read.
READERS = 16


@dataclass(frozen=True)
class Way:
    """How a crowd asks: waiting for the decision or polling for it; one API process, or each half another one."""

    waits: bool
    apis: int

    @property
    def headers(self) -> dict[str, str]:
        """What each request says of it."""
        return {"Prefer": WAIT} if self.waits else {}


#: One after the other, as a story is told again and again.
WAYS = (Way(waits=True, apis=1), Way(waits=False, apis=2), Way(waits=True, apis=2), Way(waits=False, apis=1))


def way_of(told: int) -> Way:
    """Each time another way."""
    return WAYS[told % len(WAYS)]


def submit(crowd: Crowd, caller: Caller, path: str, bodies: Sequence[Document], way: Way) -> list[Document]:
    """All at the same instant; returns the requests once all are decided, in the order of the bodies."""
    replies = crowd.ask([caller.post(path, body, **way.headers) for body in bodies])
    for reply in replies:
        check_acceptance(reply, way)
    return until_over(crowd, caller, [reply.document for reply in replies])


def check_acceptance(reply: Reply, way: Way) -> None:
    """
    202 with where and when to ask again; 200 only for who waited and with a final state. Who did not want to wait
    has not waited; who wanted to is told the state, or that too many wait.
    """
    document, headers = reply.document, reply.headers
    assert headers["location"] == f"/v1/requests/{document['id']}"
    assert headers["etag"] == f'"{document["version"]}"'
    assert "idempotency-replayed" not in headers
    if way.waits and "preference-applied" in headers:
        assert headers["preference-applied"] == WAIT
        assert reply.status == 200, reply.body
    if reply.status == 200:
        assert document["finished_at"] is not None
        return
    assert reply.status == 202, reply.body
    assert headers["retry-after"] == "1"
    if not way.waits:
        assert (document["status"], document["stage"], document["version"]) == ("processing", "queued", 1)
        assert document["sequence"] is document["decided_at"] is document["finished_at"] is None


def until_over(crowd: Crowd, caller: Caller, documents: Sequence[Document]) -> list[Document]:
    """Ask for those that are not decided yet until all are, as clients do who poll."""
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
    """How many of them came to what: the code of what was refused, else the status."""
    return Counter(one["error"]["code"] if one["error"] else one["status"] for one in documents)


@dataclass(frozen=True)
class Sale:
    """A new resource, and those who all want the same amount of it at the same instant."""

    stack: ScenarioStack
    opening: Document
    documents: Sequence[Document]

    def check(self, *, completed: int, refusal: str, left: int) -> None:
        """
        So many got it, all others this refusal, and so much is left: in the answers, the order, the entries of each
        request, the entries of the resource, its state, and the list of its requests.
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
        """What a request took is one debit of the whole; what was refused took nothing."""
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
        """The opening's credit, then a debit for each who got it, in their order, each with what was left then."""
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
        """Nobody has made a request that we do not know of."""
        path = f"/v1/requests?resource={self.opening['resource']}"
        listed = self.stack.listed(self.stack.client, path)
        assert sorted(one["id"] for one in listed) == sorted(one["id"] for one in self.documents)
        assert {one["id"]: one for one in listed} == {one["id"]: one for one in self.documents}


def _check_decided(document: Document) -> None:
    """Decided once, and over with it."""
    assert (document["version"], document["stage"], document["refunded"]) == (2, None, 0)
    assert document["result"] is None
    assert document["created_at"] <= document["decided_at"] == document["finished_at"]
