"""
The audit, for those who run Teller: who did what, when and why.
"""

from typing import Any

from pydantic import AwareDatetime, BaseModel

from api.services import Call
from api.web.auth import OPERATORS
from api.web.pagination import Page, listed
from api.web.responses import ListOf
from api.web.routing import Answer, AnswerDoc, Routes
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

    Keys made and revoked, partitions paused and resumed, requests replayed and refunded, webhooks changed: what was
    done beyond making requests.
    """
    part: Page = call.query
    with call.services.connection() as connection:
        page = audit.list_audit(connection, AuditFilter(), part.limit, part.cursor)
    return Answer(listed(page))
