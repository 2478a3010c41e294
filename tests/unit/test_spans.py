"""
Spans are recorded on request alone, and cost nothing otherwise.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import structlog

from processor.tracing import spans
from processor.tracing.correlation import Correlation

ASKED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
CALLED = Correlation("order-7", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ca902c7-01")
#: redis imports the metrics of OpenTelemetry where they are installed. Teller uses none of them.
WITHOUT = """
import sys
if sys.argv[1] == "without the extra":
    sys.modules["opentelemetry"] = None
import api.app, api.server, workers.courier.main, workers.worker.main, teller.root
from processor.tracing import spans
spans.begin("api", {"OTEL_SERVICE_NAME": "shop"})
own = "processor.tracing.opentelemetry_spans"
of_spans = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf", own)
print([name for name in sys.modules if name.startswith(of_spans)])
"""


@pytest.mark.parametrize("extra", ["with the extra", "without the extra"])
def test_without_an_endpoint_opentelemetry_is_not_imported(extra: str) -> None:
    """By no process. A span carries the correlation on as it is."""
    command = [sys.executable, "-c", WITHOUT, extra]
    found = subprocess.run(command, check=True, capture_output=True, text=True)

    assert found.stdout == "[]\n"
    assert not spans.are_recorded()
    assert spans.start("client", "call", CALLED).correlation is CALLED


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ASKED, "OTEL_SDK_DISABLED": "true"},
        {**ASKED, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_who_did_not_ask_gets_spans(given: dict[str, str]) -> None:
    """As the specification of these variables says."""
    with structlog.testing.capture_logs() as lines:
        spans.begin("api", given)

    assert (spans.are_recorded(), lines) == (False, [])


def test_without_the_extra_a_warning_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on without spans."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "processor.tracing.opentelemetry_spans", raising=False)
    with structlog.testing.capture_logs() as lines:
        spans.begin("api", ASKED)

    assert not spans.are_recorded()
    assert [(line["event"], line["log_level"]) for line in lines] == [("spans_unavailable", "warning")]
    assert "teller[otel]" in lines[0]["detail"]


def test_another_protocol_is_named() -> None:
    """The extra has OTLP over HTTP alone."""
    with structlog.testing.capture_logs() as lines:
        spans.begin("api", {**ASKED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    assert (spans.are_recorded(), [line["event"] for line in lines]) == (False, ["spans_unavailable"])


def test_a_span_continues_the_trace_of_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same trace, another parent. A call without traceparent begins a trace, which its log lines name."""
    for name, value in ASKED.items():
        monkeypatch.setenv(name, value)
    spans.begin("api")
    try:
        assert spans.are_recorded()
        below = spans.start("client", "call", CALLED)
        new = spans.start("server", "GET", Correlation("order-8"))
        assert (below.correlation.x_request_id, below.correlation.trace_id) == ("order-7", CALLED.trace_id)
        assert below.correlation.traceparent != CALLED.traceparent
        assert len(new.correlation.log_fields()["trace_id"]) == 32
    finally:
        spans.end()
    assert not spans.are_recorded()
