"""
For one resource, requests are decided in the order of their acceptance, whatever happens to the workers.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.scenarios.books import READERS, outcomes, until_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scenarios.crowd import Reply
    from tests.scenarios.system import Document, System

#: People who want one thing after the other, and how many things each of them wants.
PEOPLE, THINGS = 64, 30


def check_order(replies: Sequence[Reply], documents: Sequence[Document]) -> None:
    """
    Nobody was decided before somebody who had the answer already when he began to ask: of all pairs.
    """
    decided = sorted(zip(documents, replies, strict=True), key=lambda pair: int(pair[0]["sequence"]))
    latest = 0.0  # when the last of those before began to ask
    for document, reply in decided:
        assert reply.answered_at >= latest, f"{document['id']} was overtaken"
        latest = max(latest, reply.sent_at)


def test_who_was_answered_first_is_decided_first(system: System, told: int) -> None:
    """
    64 people redeem thirty times each of two hot resources, the next when the last one was answered, each time at the
    other API process, while one of the two workers leaves and comes back.
    """
    resources = [system.name("queue"), system.name("queue")]
    openings = [system.open(name, "stock", 1_000) for name in resources]
    chains = [
        [
            system.client.post("/v1/redemptions", {"resource": resources[person % 2], "account": f"u{person}"})
            for _ in range(THINGS)
        ]
        for person in range(PEOPLE)
    ]

    with system.crowd(2 * PEOPLE) as crowd:
        shopping: list[list[Reply]] = []
        shoppers = threading.Thread(target=lambda: shopping.extend(crowd.converse(chains)))
        shoppers.start()
        system.stop_worker(system.workers[told % 2])
        system.start_worker()
        shoppers.join()
    system.until_shared()

    assert [len(said) for said in shopping] == [THINGS] * PEOPLE
    with system.crowd(READERS) as crowd:
        for number, opening in enumerate(openings):
            replies = [reply for said in shopping[number::2] for reply in said]
            assert {reply.status for reply in replies} == {202}
            documents = until_over(crowd, system.client, [reply.document for reply in replies])
            check_order(replies, documents)
            for said in shopping[number::2]:
                known = {one["id"]: one["sequence"] for one in documents}
                mine = [known[reply.document["id"]] for reply in said]
                assert mine == sorted(mine)
            assert outcomes(documents) == {"completed": 960}
            state = system.resource(opening["resource"])
            assert (state["available"], state["version"]) == (40, 961)
