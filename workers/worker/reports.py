"""
The log lines about a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from processor.errors import DatabaseUnavailable
from processor.records import correlations
from processor.tracing import correlation, spans

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from processor.batch.run import BatchReport
    from processor.storage.connections import Reconnecting
    from processor.tracing.correlation import Correlation

#: The links of the span of a batch, at most.
LINKS_MAX: Final = 128

log = structlog.get_logger(__name__)


def log_batch(report: BatchReport, connection: Reconnecting) -> None:
    """Log one line for a batch that is committed, at level debug for an empty one, and one for each alert."""
    write = log.info if report.taken else log.debug
    write(
        "batch_applied",
        partitions=len(report.taken_from),
        taken=report.taken,
        decided=len(report.decided),
        rejected=report.rejected,
        failed=report.failed,
        paused=len(report.paused),
        duration_ms=round(report.duration_ms, 1),
    )
    if spans.are_recorded() and report.taken:
        _add_span(report, connection)
    if report.misplaced:
        log.error("work_misplaced", rows_by_partition=dict(report.misplaced))
    if report.paid_after_refund:
        _log_paid_after_refund(report, connection)


def _add_span(report: BatchReport, connection: Reconnecting) -> None:
    """Add the span of a batch, with links to the calls that made its requests, or to the first of them."""
    attributes: spans.Attributes = {
        "teller.partitions": len(report.taken_from),
        "teller.taken": report.taken,
        "teller.rejected": report.rejected,
        "teller.failed": report.failed,
    }
    made_by = _read(report.decided[:LINKS_MAX], connection)
    spans.add("consumer", "batch", made_by.values(), report.duration_ms / 1_000, attributes)


def _read(request_ids: Collection[UUID], connection: Reconnecting) -> dict[UUID, Correlation]:
    """Return the calls that made some requests, or none if PostgreSQL no longer answers."""
    try:
        return correlations.read(connection.get(), request_ids)
    except DatabaseUnavailable:
        connection.close()
        return {}


def _log_paid_after_refund(report: BatchReport, connection: Reconnecting) -> None:
    """Log each request whose gateway has paid after the refund, also if PostgreSQL no longer answers."""
    made_by = _read(report.paid_after_refund, connection)
    for request_id in report.paid_after_refund:
        fields = made_by.get(request_id, correlation.NONE).log_fields()
        log.error("paid_after_refund", request=str(request_id), **fields)
