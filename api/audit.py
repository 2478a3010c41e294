"""
The audit, for those who run Teller: who did what, when and why.
"""

from api import documents
from api.auth import OPERATORS
from api.lists import Page, listed
from api.routing import Answer, Call, Routes, Shown
from processor import queries

routes = Routes("Audit")


@routes.add(
    "GET",
    "/v1/admin/audit",
    roles=OPERATORS,
    query=Page,
    answers={200: Shown("Newest first.", documents.AuditList)},
)
def list_audit(call: Call) -> Answer:
    """
    Read the audit.

    Keys made and revoked, partitions paused and resumed, requests replayed and refunded, webhooks changed: what was
    done beyond making requests.
    """
    part: Page = call.query
    with call.services.connection() as connection:
        page = queries.list_audit(connection, part.limit, part.cursor)
    return Answer(listed(page))
