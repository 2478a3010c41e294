"""
Large bodies and small ones: a large body waits for its turn, and a small one never does.
"""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from api.web import deadline, large_bodies
from api.web.large_bodies import AT_ONCE, LARGE_BYTES, LargeBodies

if TYPE_CHECKING:
    from tests.http.teller import Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}
BATCH: dict[str, list[dict[str, str]]] = {
    "requests": [
        {"kind": "redemption", "idempotency_key": f"k{number}", **REDEMPTION} for number in range(200)
    ]
}


def test_small_bodies_are_answered_while_large_ones_wait(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While the turns are taken, a large body gets 503 with Retry-After, nothing is stored, and small ones are served.
    """
    small, large = json.dumps(REDEMPTION).encode(), json.dumps(REDEMPTION).encode().ljust(LARGE_BYTES + 1)
    sent = {"method": "POST", "path": "/v1/redemptions", "content_type": "application/json"}
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.5)
    with contextlib.ExitStack() as turns:
        for number in range(AT_ONCE):
            turns.enter_context(teller.services.large_bodies.take(f"client {number}", is_shared=False))
        refused = teller.client.call(**sent, data=large, headers={"Idempotency-Key": "large"})
        batch = teller.client.post("/v1/batches", BATCH)
        accepted = teller.client.call(**sent, data=small, headers={"Idempotency-Key": "small"})

    for answer in (refused, batch):
        assert (answer.status_code, answer.json["code"]) == (503, "too_many_large_bodies")
        assert answer.headers["Retry-After"] == "1"
    assert accepted.status_code == 202
    assert len(teller.client.get("/v1/requests").json["data"]) == 1
    again = teller.client.call(**sent, data=large, headers={"Idempotency-Key": "large"})
    assert again.status_code == 202
    assert "Idempotency-Replayed" not in again.headers


def test_a_large_batch_takes_turns_and_is_stored_whole(teller: Teller) -> None:
    """
    A batch that needs a turn for parsing and one for its items leaves none taken.
    """
    for _ in range(2 * AT_ONCE):
        answer = teller.client.post("/v1/batches", BATCH)
        assert [one["status"] for one in answer.json["results"]] == [202] * 200
    assert teller.services.large_bodies.waiting() == 0


@pytest.mark.parametrize(("is_shared", "rests"), [(True, [0.2, 0.5]), (False, [])])
def test_a_rest_follows_each_large_body_while_other_clients_are_active(
    monkeypatch: pytest.MonkeyPatch, *, is_shared: bool, rests: list[float]
) -> None:
    """
    The rest is in proportion to the time of the processor, and has a limit. A client alone has none.
    """
    work = iter([0.0, 0.1, 0.1, 9.9, 9.9, 9.9])
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 7.0, thread_time=lambda: next(work), sleep=slept.append)
    monkeypatch.setattr(large_bodies, "time", clock)
    turns = LargeBodies()

    for _ in range(3):
        with turns.take("client", is_shared=is_shared):
            pass

    assert slept == pytest.approx(rests)


def test_a_length_of_many_digits_is_too_large(teller: Teller) -> None:
    """
    A header Content-Length that Python would not read as a number gets 413.
    """
    environ = {"CONTENT_LENGTH": "9" * 5_000}
    answer = teller.client.call("POST", "/v1/redemptions", environ_overrides=environ)

    assert (answer.status_code, answer.json["code"]) == (413, "body_too_large")


def test_a_query_has_a_limit(teller: Teller) -> None:
    """
    More parameters than any query has are refused before they are read.
    """
    answer = teller.client.get("/v1/requests?" + "&".join(f"a{number}=1" for number in range(101)))

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")
    assert answer.json["errors"] == [{"pointer": "", "detail": "has more than 100 query parameters"}]


def test_a_batch_may_have_more_values_than_a_request(teller: Teller) -> None:
    """
    A body of one request with too many values is refused, and a batch with as many is accepted.
    """
    metadata = {"x": [1] * 1_000}
    items = [{**item, "metadata": metadata} for item in BATCH["requests"]]

    refused = teller.client.post("/v1/redemptions", {**REDEMPTION, "metadata": {"x": [1] * 20_000}})
    batch = teller.client.post("/v1/batches", {"requests": items})

    assert (refused.status_code, refused.json["code"]) == (422, "invalid")
    assert refused.json["errors"] == [{"pointer": "", "detail": "holds more than 16,384 values"}]
    assert {one["status"] for one in batch.json["results"]} == {202}
