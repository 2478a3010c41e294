"""
Spans by the SDK of OpenTelemetry, exported by OTLP over HTTP. Only `processor.tracing.spans` imports this module.

The SDK reads its variables OTEL_… itself. A collector that is unavailable delays nothing. Spans wait in a queue of
limited length, from which a thread of the SDK exports them, and those beyond it are dropped.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span as SdkSpan

    from processor.tracing.correlation import Correlation
    from processor.tracing.spans import Attributes, Kind

#: The longest time for the last export, in seconds. A process has 10 s to stop.
CLOSE_SECONDS: Final = 2.0
#: The links of one span, at most. The SDK drops further ones.
LINKS_MAX: Final = 128

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}

log = structlog.get_logger(__name__)


class RecordedSpan:
    """A span of the SDK."""

    def __init__(self, span: SdkSpan, correlation: Correlation) -> None:
        self._span = span
        self.correlation = correlation

    def end(self, attributes: Attributes, *, name: str | None = None, error: str | None = None) -> None:
        """End it."""
        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class SdkRecorder:
    """Makes spans, and exports them in the background."""

    def __init__(self, process: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `_Watched` logs the change alone
        names = ("service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")) or os.environ.get(
            "OTEL_SERVICE_NAME"
        )
        resource = Resource.create({} if names else {SERVICE_NAME: f"teller-{process}"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Watched(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("teller")

    def start(self, kind: Kind, name: str, within: Correlation) -> RecordedSpan:
        """Start a span below the traceparent of a correlation, or a trace of its own."""
        span = self._tracer.start_span(name, _parent_of(within), kind=_KINDS[kind])
        made = span.get_span_context()
        traceparent = f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags & 0x01:02x}"
        return RecordedSpan(span, within._replace(traceparent=traceparent))

    def add(
        self, kind: Kind, name: str, links: Collection[Correlation], seconds: float, attributes: Attributes
    ) -> None:
        """Add a span that ends now."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            name,
            kind=_KINDS[kind],
            attributes=attributes,
            links=[Link(found) for one in links if (found := _context_of(one)) is not None],
            start_time=ended - round(seconds * 1e9),
        )
        span.end(ended)

    def close(self) -> None:
        """Export what is left, for at most CLOSE_SECONDS."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


def _parent_of(within: Correlation) -> Context | None:
    found = _context_of(within)
    return None if found is None else set_span_in_context(NonRecordingSpan(found))


def _context_of(correlation: Correlation) -> SpanContext | None:
    found = correlation.parsed()
    if found is None:
        return None
    trace, span, flags = found
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))


class _Watched(SpanExporter):
    """An exporter that logs when the collector becomes unavailable, and when it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export some spans. Those that are refused are lost."""
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        if self._works and not works:
            log.warning("spans_not_exported", lost=len(spans))
        elif works and not self._works:
            log.info("spans_exported")
        self._works = works
        return result

    def shutdown(self) -> None:
        """End the export that is under way."""
        self._exporter.shutdown()
