"""
The log lines about a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from processor import correlation
from processor.errors import DatabaseUnavailable
from processor.records import correlations

if TYPE_CHECKING:
    from processor.batch.run import BatchReport
    from processor.storage.connections import Reconnecting

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
    if report.misplaced:
        log.error("work_misplaced", rows_by_partition=dict(report.misplaced))
    if report.paid_after_refund:
        _log_paid_after_refund(report, connection)


def _log_paid_after_refund(report: BatchReport, connection: Reconnecting) -> None:
    """Log each request whose gateway has paid after the refund, also if PostgreSQL no longer answers."""
    try:
        made_by = correlations.read(connection.get(), report.paid_after_refund)
    except DatabaseUnavailable:
        connection.close()
        made_by = {}
    for request_id in report.paid_after_refund:
        fields = made_by.get(request_id, correlation.NONE).log_fields()
        log.error("paid_after_refund", request=str(request_id), **fields)
