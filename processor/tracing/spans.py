"""
Spans: what an HTTP call, a batch, a call of a gateway or a delivery took, for OpenTelemetry.

They are recorded if OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `teller[otel]` is installed. Otherwise no module
of OpenTelemetry is imported, and a span only carries the correlation on.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from processor.tracing.correlation import Correlation

#: The variables of which one switches spans on.
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
#: The one protocol that the extra brings.
PROTOCOL: Final = "http/protobuf"

Kind = Literal["server", "client", "consumer"]
Attributes = dict[str, str | int | bool]

log = structlog.get_logger(__name__)


class Span(Protocol):
    """A piece of work that is under way."""

    @property
    def correlation(self) -> Correlation:
        """The correlation for calls within this piece of work."""

    def end(self, attributes: Attributes, *, name: str | None = None, error: str | None = None) -> None:
        """End it. `error` says why it failed."""


class Recorder(Protocol):
    """Makes spans, and exports them in the background."""

    def start(self, kind: Kind, name: str, within: Correlation) -> Span:
        """Start a span below the traceparent of a correlation, or a trace of its own."""

    def add(
        self,
        kind: Kind,
        name: str,
        links: Collection[Correlation],
        seconds: float,
        attributes: Attributes,
    ) -> None:
        """Add a span that ends now and took some seconds, with links to the traces that it worked for."""

    def close(self) -> None:
        """Export what is left, for a limited time."""


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """A span that is not recorded."""

    correlation: Correlation

    def end(self, attributes: Attributes, *, name: str | None = None, error: str | None = None) -> None:
        """Do nothing."""


_recorder: Recorder | None = None


def begin(process: str, environ: Mapping[str, str] = os.environ) -> None:
    """
    Record the spans of this process, if the environment asks for it. Called after the last fork.

    Without the extra, or with another protocol, a warning says so, and nothing is recorded.
    """
    global _recorder  # noqa: PLW0603 - one for each process, as its log
    if not any(map(environ.get, ENDPOINTS)) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return
    asked = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if asked not in (None, "", PROTOCOL):
        log.warning("spans_unavailable", detail=f"OTEL_EXPORTER_OTLP_PROTOCOL must be {PROTOCOL}")
        return
    try:
        opentelemetry: Any = importlib.import_module("processor.tracing.opentelemetry_spans")
        _recorder = opentelemetry.SdkRecorder(process)
    except ImportError:
        log.warning("spans_unavailable", detail="install the extra: pip install 'teller[otel]'")
    except Exception as fault:  # noqa: BLE001 - a mistake in OTEL_… must not stop the process
        log.warning("spans_unavailable", detail=f"{type(fault).__name__}: {fault}")


def end() -> None:
    """Export what is left, for a limited time, and record no more."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.close()


def are_recorded() -> bool:
    """Return whether this process records spans."""
    return _recorder is not None


def start(kind: Kind, name: str, within: Correlation) -> Span:
    """Start a span. Its correlation is `within` if spans are not recorded."""
    return _Unrecorded(within) if _recorder is None else _recorder.start(kind, name, within)


def add(
    kind: Kind, name: str, links: Collection[Correlation], seconds: float, attributes: Attributes
) -> None:
    """Add a span that ends now."""
    if _recorder is not None:
        _recorder.add(kind, name, links, seconds, attributes)
