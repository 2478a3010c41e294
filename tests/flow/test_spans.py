"""
Spans: one trace from a call to its batch, its gateway and its webhook, in a collector; and a collector that fails.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.collector import collecting
from tests.flow.courier.outside import serving
from tests.stack import Stack
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ca902c7"
SERVER, CLIENT, CONSUMER = 2, 3, 5
#: The promised time of a stop, in seconds.
STOP_SECONDS = 10.0
#: Longer than the test: only the end of a process exports.
NEVER_MS = "600000"


def test_a_trace_leads_from_the_call_to_batch_gateway_and_webhook(settings: Settings, tmp_path: Path) -> None:
    """
    The spans of all processes that a withdrawal passes. Each process exports its spans when it stops.
    """
    with collecting() as collector, serving() as receiver, Stack(settings.environment(), tmp_path) as stack:
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": NEVER_MS,
            "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
        }
        stack.start("worker", **given)
        stack.start_api(**given)
        stack.start("courier", TELLER_PORT=str(stack.ports[-1]), **given)
        stack.until_shared()
        admin = stack.new_client("admin")
        admin.post("/v1/webhooks", {"url": f"{receiver.url}/hook", "events": ["request.completed"]}, 201)
        rules = {"kind": "balance", "available": 10, "gateway": "sandbox"}
        admin.post("/v1/resources", {"id": "a", **rules}, 200, wait=30)
        eventually(lambda: len(receiver.calls) == 1)
        admin.http.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        body = {"resource": "a", "account": "u", "amount": 1}
        asked = admin.post("/v1/withdrawals", body, 200, wait=30)["id"]
        eventually(lambda: len(receiver.calls) == 2)
        assert collector.spans == []
        began = time.monotonic()
        stack.stop()
        assert time.monotonic() - began < STOP_SECONDS

    of_trace = {one.name: one for one in collector.spans if one.trace == TRACE}
    call = of_trace["POST /v1/withdrawals"]
    paid, pays = of_trace["call sandbox"], of_trace["POST /sandbox/gateway"]
    delivered = of_trace["deliver request.completed"]
    assert [call.parent, paid.parent, pays.parent, delivered.parent] == [PARENT, call.id, paid.id, call.id]
    assert [one.service for one in (call, paid, pays, delivered)] == [
        "teller-api",
        "teller-courier",
        "teller-api",
        "teller-courier",
    ]
    assert [one.kind for one in (call, paid, delivered)] == [SERVER, CLIENT, CLIENT]
    assert {one.attributes["teller.request"] for one in (call, paid, delivered)} == {asked}
    assert (paid.attributes["teller.outcome"], delivered.attributes["http.response.status_code"]) == (
        "done",
        200,
    )
    batches = [one for one in collector.named("batch") if call.place in one.links]
    assert len(batches) == 2  # the hold, and the settlement
    assert {(one.service, one.kind) for one in batches} == {("teller-worker", CONSUMER)}
    [delivery] = [one for one in receiver.calls if asked.encode() in one.body]
    assert delivery.headers["traceparent"] == f"00-{TRACE}-{delivered.id}-01"
    assert not [one for one in collector.spans if one.is_error or "readyz" in one.name]


@pytest.mark.parametrize("fault", ["no connection", "no answer"])
def test_a_collector_that_fails_delays_nothing(settings: Settings, tmp_path: Path, fault: str) -> None:
    """
    Requests are decided as fast as ever, the log says once that spans are lost, and a stop takes less than 10 s.
    """
    with collecting() as collector, Stack(settings.environment(), tmp_path) as stack:
        collector.answers.clear()
        url = collector.url if fault == "no answer" else f"http://127.0.0.1:{free_port()}"
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1" if fault == "no connection" else "600",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        stack.start("worker", **given)
        api = stack.start_api(**given)
        stack.start("courier", **given)
        stack.until_shared()
        admin = stack.new_client("admin")
        admin.post("/v1/resources", {"id": "a", "kind": "stock", "available": 100}, 200, wait=30)
        began = time.monotonic()
        for _ in range(50):
            admin.post("/v1/redemptions", {"resource": "a", "account": "u"}, 200, wait=30)
        assert time.monotonic() - began < STOP_SECONDS
        if fault == "no connection":
            eventually(lambda: api.events("spans_not_exported"))
        began = time.monotonic()
        stack.stop()
        assert time.monotonic() - began < STOP_SECONDS
        assert len(api.events("spans_not_exported")) <= 1
        assert collector.spans == []
