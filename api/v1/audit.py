"""
The audit, for those who run Teller: who did what, when and why.
"""

from api.services import Call
from api.web import responses
from api.web.auth import OPERATORS
from api.web.pagination import Page, listed
from api.web.routing import Answer, Routes, Shown
from processor.records import audit
from processor.records.audit import AuditFilter

routes = Routes("Audit")


@routes.add(
    "GET",
    "/v1/admin/audit",
    roles=OPERATORS,
    query=Page,
    answers={200: Shown("Newest first.", responses.AuditList)},
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
