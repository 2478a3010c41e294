"""
Reads the data of a run after its end, from PostgreSQL and over HTTP.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.faults.clients import Http
from tests.faults.history import Delivery, Entry, History, Resource, State, Stored

if TYPE_CHECKING:
    from tests.faults.system import FaultStack

#: The number of newest requests that are also read over HTTP.
SHOWN_MAX = 3_000

REQUESTS = """
SELECT id::text, client_id, idempotency_key, kind, resource_id, partition, account, amount, refund_of::text,
       (extract(epoch FROM apply_before) * 1000000)::bigint, coalesce(details, '{}'),
       (extract(epoch FROM created_at) * 1000000)::bigint
  FROM requests ORDER BY id"""
STATES = """
SELECT request_id::text, version, status, stage, code, refunded, sequence,
       (extract(epoch FROM decided_at) * 1000000)::bigint, (extract(epoch FROM at) * 1000000)::bigint,
       CASE detail WHEN 'paid_after_refund' THEN detail END, leg, captured,
       CASE WHEN current THEN xmin::text::bigint END
  FROM decisions ORDER BY request_id, version"""
ENTRIES = """
SELECT resource_id, version, kind, request_id::text, account, amount, available, held,
       (extract(epoch FROM created_at) * 1000000)::bigint, leg, xmin::text::bigint
  FROM entries ORDER BY resource_id, version"""
HEARD = "SELECT DISTINCT request_id::text FROM attempts WHERE outcome = 'done'"
PAID = "SELECT request_id::text, count(*) FROM sandbox_payouts GROUP BY 1"
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
DELIVERIES = "SELECT request_id::text, version, type, webhook_id::text, status FROM deliveries ORDER BY id"


def read_back(system: FaultStack, bank: Counter[str]) -> History:
    """Read everything except the observations of clients and subscribers."""
    requests = {row[0]: Stored(*row) for row in _rows(system, REQUESTS)}
    for request, *state in _rows(system, STATES):
        requests[request].states.append(State(*state))
    for document in _shown(system):
        if document["id"] in requests:
            requests[document["id"]].shown = document["status"], document["version"]
    return History(
        requests=list(requests.values()),
        entries=[Entry(*row) for row in _rows(system, ENTRIES)],
        resources=[
            Resource(*row) for row in _rows(system, "SELECT id, available, held, version FROM resources")
        ],
        payouts=dict(bank + Counter(dict(_rows(system, PAID)))),
        heard=[request for (request,) in _rows(system, HEARD)],
        deliveries=[Delivery(*row) for row in _rows(system, DELIVERIES)],
        sequences=dict(_rows(system, "SELECT id, sequence FROM partitions WHERE sequence > 0")),
        read_us=_rows(system, NOW)[0][0],
    )


def _rows(system: FaultStack, query: str) -> list[Any]:
    rows = system.query(query)
    assert rows is not None, "PostgreSQL is unavailable"
    return rows


def _shown(system: FaultStack) -> list[dict[str, Any]]:
    """Return the newest requests, as an admin sees them."""
    reader = Http(system.ports, system.admin)
    found: list[dict[str, Any]] = []
    cursor = ""
    while len(found) < SHOWN_MAX:
        page = reader.call("GET", f"/v1/requests?limit=100{cursor}")
        assert page.status == 200, page
        found += page.document["data"]
        if page.document["next_cursor"] is None:
            break
        cursor = f"&cursor={page.document['next_cursor']}"
    reader.hang_up()
    return found
