"""
The audit, for operators and admins: each action with its actor, time and reason.
"""

from typing import Any

from pydantic import AwareDatetime, BaseModel

from api.services import Call
from api.web.pagination import Page, listed
from api.web.responses import ListOf
from api.web.routing import Answer, AnswerDoc, Routes
from processor.domain.roles import OPERATORS
from processor.records import audit
from processor.records.audit import AuditFilter

routes = Routes("Audit")


class AuditLine(BaseModel):
    """An action with its actor, time and reason."""

    id: int
    at: AwareDatetime
    actor: str
    action: str
    request: str | None
    reason: str | None
    detail: dict[str, Any] | None


class AuditList(ListOf[AuditLine]):
    """Lines of the audit."""


@routes.add(
    "GET",
    "/v1/admin/audit",
    roles=OPERATORS,
    query=Page,
    answers={200: AnswerDoc("Newest first.", AuditList)},
)
def list_audit(call: Call) -> Answer:
    """
    Read the audit.

    Lists every action beyond the making of requests. Examples are keys that were created or revoked, partitions that
    were paused, requests that were replayed or refunded, and webhooks that were changed.
    """
    part: Page = call.query
    with call.services.connection() as connection:
        page = audit.list_audit(connection, AuditFilter(), part.limit, part.cursor)
    return Answer(listed(page))
