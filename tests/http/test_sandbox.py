"""
The sandbox gateway: it answers by destination, pays once for each key, and records its calls.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from api import create_app
from processor.gateways import sandbox, signatures
from tests.http.teller import Client
from tests.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.teller import Reply, Teller

PATH = "/sandbox/gateway"
#: The id of no request.
OTHER = "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4"


@pytest.fixture
def ask(teller: Teller) -> Callable[..., Reply]:
    """Call the gateway as a courier does. `changes` replace headers, and None removes one."""
    settings = teller.settings
    secret = signatures.gateway_key(settings.gateway_secret, settings.secret)

    def call(
        key: str | uuid.UUID,
        destination: Any = "IBAN 1",
        *,
        age: int = 0,
        secret: bytes = secret,
        **changes: Any,
    ) -> Reply:
        sent = changes.pop("data", None)
        body = json.dumps({"request": str(key), "amount": 5, "destination": destination}).encode()
        headers = {
            "Authorization": None,
            "Content-Type": "application/json",
            "Idempotency-Key": str(key),
            **signatures.headers(str(key), int(time.time()) - age, body, [secret]),
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return teller.client.call("POST", PATH, data=body if sent is None else sent, headers=headers)

    return call


def recorded_calls(teller: Teller, key: object) -> tuple[list[int], int]:
    """Return the recorded statuses of a request's calls, and the number of payouts."""
    answer = teller.operator.get(f"{PATH}/calls?request={key}")
    assert answer.status_code == 200, answer.json
    times = [one["at"] for one in answer.json["data"]]
    assert times == sorted(times)
    return [one["status"] for one in answer.json["data"]], answer.json["payouts"]


@pytest.mark.parametrize(
    ("destination", "statuses", "payouts"),
    [
        ("IBAN 1", [200, 200, 200], 1),
        (None, [200, 200, 200], 1),
        (7, [200, 200, 200], 1),
        ("decline", [422, 422, 422], 0),
        ("unavailable", [503, 503, 503, 503], 0),
        ("flaky", [503, 503, 200, 200], 1),
        ("slow", [200, 200], 1),
    ],
)
def test_the_sandbox_answers_by_destination_and_pays_once(
    teller: Teller,
    ask: Callable[..., Reply],
    monkeypatch: pytest.MonkeyPatch,
    destination: Any,
    statuses: list[int],
    payouts: int,
) -> None:
    """
    A payout has the same reference each time, and a refusal has a reason. Each call is recorded.
    """
    monkeypatch.setattr(sandbox, "SLOW_SECONDS", 0.1)
    key = uuid.uuid4()

    answers = [ask(key, destination) for _ in statuses]

    assert [one.status_code for one in answers] == statuses
    for one in answers:
        assert set(one.json) == {"reference"} if one.status_code == 200 else {"reason"}
        assert ("Retry-After" in one.headers) is (one.status_code == 503)
    assert len({one.json["reference"] for one in answers if one.status_code == 200}) == payouts
    assert recorded_calls(teller, key) == (statuses, payouts)
    assert recorded_calls(teller, uuid.uuid4()) == ([], 0)


def test_slow_pays_before_it_answers_after_three_seconds(teller: Teller, ask: Callable[..., Reply]) -> None:
    """
    A caller that does not wait for the answer finds the payout nevertheless. The pause takes no place of the views.
    """
    key = uuid.uuid4()
    payment, answering = Deadline(2.5), Deadline(4.5)
    with ThreadPoolExecutor(1) as courier:
        answer = courier.submit(ask, key, "slow")
        payment.until(lambda: recorded_calls(teller, key) == ([200], 1))
        # It holds no place that another call of a gateway needs.
        payment.until(lambda: teller.services.views.taken(PATH) == 0)
        assert not answer.done()
        assert answer.result().status_code == 200
    assert answering.check() >= sandbox.SLOW_SECONDS


@pytest.mark.parametrize(("destination", "refused"), [("IBAN 1", 0), ("flaky", 2)])
def test_simultaneous_calls_with_one_key_pay_once(
    teller: Teller, ask: Callable[..., Reply], destination: str, refused: int
) -> None:
    """
    Thirty simultaneous calls make one payout. The destination `flaky` is unavailable for exactly two of them.
    """
    key = uuid.uuid4()
    together = threading.Barrier(30)

    def call(_: int) -> int:
        together.wait()
        return ask(key, destination).status_code

    with ThreadPoolExecutor(30) as crowd:
        answers = sorted(crowd.map(call, range(30)))

    assert answers == [200] * (30 - refused) + [503] * refused
    statuses, payouts = recorded_calls(teller, key)
    assert (sorted(statuses), payouts) == (answers, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"secret": b"another secret of 32 bytes......"},
        {"age": 400},
        {"age": -400},
        {"webhook_signature": None},
        {"webhook_signature": "v1,bm9uc2Vuc2U="},
        {"webhook_signature": "v1,\xff"},
        {"webhook_timestamp": "soon"},
        {"webhook_timestamp": "9" * 40},
        {"webhook_id": OTHER},
        {"Idempotency_Key": OTHER},
        {"data": b'{"destination": "another account"}'},
    ],
    ids=str,
)
def test_a_call_without_the_couriers_signature_pays_nothing(
    teller: Teller, ask: Callable[..., Reply], change: dict[str, Any]
) -> None:
    """
    Another secret, an old message, another key and another body return 401 and are not recorded.
    """
    key = uuid.uuid4()

    answer = ask(key, **change)

    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert recorded_calls(teller, key) == ([], 0)
    assert recorded_calls(teller, change.get("Idempotency_Key", key)) == ([], 0)


def test_one_valid_signature_of_several_is_enough(teller: Teller, ask: Callable[..., Reply]) -> None:
    """
    During a rotation the courier signs with two secrets (Standard Webhooks).
    """
    settings = teller.settings
    key, body = str(uuid.uuid4()), b"{}"
    keys = [b"x" * 32, signatures.gateway_key(settings.gateway_secret, settings.secret)]
    signed = signatures.headers(key, int(time.time()), body, keys)

    assert ask(key, data=body, **signed).status_code == 200


def test_the_idempotency_key_is_the_id_of_a_request(teller: Teller, ask: Callable[..., Reply]) -> None:
    """
    A missing key, or one that is no id, is refused.
    """
    assert ask("order-7").json["code"] == "invalid"
    assert ask(uuid.uuid4(), Idempotency_Key=None).json["code"] == "idempotency_key_missing"
    for query in ("", "?request=nonsense", "?request="):
        assert teller.operator.get(f"{PATH}/calls{query}").json["code"] == "invalid"


@pytest.mark.parametrize("gateways", [{"bank": "http://127.0.0.1:1/"}, {"sandbox": "http://127.0.0.1:1/"}])
def test_the_sandbox_is_served_only_if_it_is_configured(teller: Teller, gateways: dict[str, str]) -> None:
    """
    With other gateways the routes return 404. Resources may name only configured gateways.
    """
    application = create_app(replace(teller.settings, gateways=gateways))
    try:
        admin = Client(application, teller.admin.key, teller.admin.id)
        assert admin.post(PATH, {}).status_code == 404
        assert admin.get(f"{PATH}/calls?request={uuid.uuid4()}").status_code == 404
        opening = {"id": "a", "kind": "balance", "available": 1}
        assert admin.post("/v1/resources", {**opening, "gateway": next(iter(gateways))}).status_code == 202
        assert admin.post("/v1/resources", {**opening, "gateway": "other"}).status_code == 422
    finally:
        application.extensions["teller"].close()


def test_the_sandbox_is_configured_by_default(teller: Teller) -> None:
    """
    Without a setting it is served, and a resource may name it.
    """
    teller.open("bank", "balance", 10, gateway="sandbox")

    assert teller.quantities("bank") == (10, 0)
    assert recorded_calls(teller, uuid.uuid4()) == ([], 0)
