"""
Every list of the API with each combination of filters, and the rows that PostgreSQL reads for it.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from processor.reading import request_lists, requests
from processor.reading import webhooks as webhook_queries
from processor.reading.request_lists import RequestFilter
from processor.records import audit
from processor.records.audit import AuditFilter
from processor.records.pages import partial_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.records.documents import ResourceRecord
    from processor.storage.connections import Connection

#: The hot resource for all, which has half of the requests, and a client with few requests of it.
HOT: Final = "resource:0"
RARE: Final = "client-rare"
#: A request in the middle.
MIDDLE: Final = UUID(f"{1795000000000 + 100_000 * 40:012x}70008{0:015x}")
#: The rows of one walk, in place of those of the product.
WALKED: Final = 300
WALKED_OF_EACH_CLIENT: Final = 20
#: The rows that all nodes of a plan may read together: a few walks, each with its look-ups.
READ_MAX: Final = 20 * WALKED


class Measured:
    """A connection that runs each statement twice: once to count what it reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.read_max = 0
        self.sequential: set[str] = set()

    def execute(self, query: str, params: Any = None) -> Any:
        """Execute a statement and note the rows that it reads, and the tables that it scans."""
        explain = "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON) "
        [(plan,)] = self._connection.execute(explain + query, params).fetchall()
        self.read_max = max(self.read_max, self._note(plan[0]["Plan"]))
        return self._connection.execute(query, params)

    def _note(self, node: dict[str, Any]) -> int:
        """Return the rows that a node and the nodes below it read."""
        if node["Node Type"] == "Seq Scan":
            self.sequential.add(node["Relation Name"])
        each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        if "Relation Name" not in node:
            each = node.get("Rows Removed by Filter", 0)
        below = sum(self._note(inner) for inner in node.get("Plans", ()))
        return int(each * node["Actual Loops"]) + below


def resource_of(connection: Any, name: str) -> ResourceRecord:
    """Return a resource that exists."""
    found = requests.read_resource(connection, name, None)
    assert found is not None
    return found


Read = tuple[str, "Callable[[Any], object]"]


def reads() -> Iterator[Read]:
    """Return the name of each list, and the function that reads a page of it."""
    later = partial_page([], [str(MIDDLE)]).next_cursor
    for status, (kind, cursor), resource, account, client in itertools.product(
        (None, "processing", "failed", "cancelled", "completed", "rejected"),
        ((None, None), (None, later), ("deposit", None)),
        (None, HOT),
        (None, "account-7"),
        (None, RARE, "client-5"),
    ):
        chosen = RequestFilter(status, kind, resource, account)
        yield (
            f"{chosen} of {client} from {cursor}",
            lambda one, client=client, chosen=chosen, cursor=cursor: request_lists.list_requests(  # type: ignore[misc]
                one, client, chosen, 20, cursor
            ),
        )
    noon = datetime.fromtimestamp(1_795_004_000, UTC)
    for narrow, client, cursor in itertools.product(
        (
            RequestFilter(key="key-9"),
            RequestFilter(amounts=(77, 770)),
            RequestFilter(amounts=(1_000, None)),
            RequestFilter(metadata="A-17"),
            RequestFilter(prefix=str(MIDDLE)[:10]),
            RequestFilter("completed", since=noon, until=noon + timedelta(seconds=9)),
            RequestFilter("processing", until=noon, resource=HOT),
            RequestFilter(client="client-5", kind="deposit"),
        ),
        (None, RARE, "client-5"),
        (None, later),
    ):
        yield (
            f"{narrow} of {client} from {cursor}",
            lambda one, client=client, chosen=narrow, cursor=cursor: request_lists.list_requests(  # type: ignore[misc]
                one, client, chosen, 20, cursor
            ),
        )
    for narrow in (
        RequestFilter(),
        RequestFilter("failed", resource=HOT),
        RequestFilter(account="account-7"),
        RequestFilter(client=RARE, amounts=(77,)),
        RequestFilter(client="client-5", account="account-5", metadata="A-17"),
        RequestFilter(key="key-9"),
    ):
        yield (
            f"counts of {narrow}",
            lambda one, chosen=narrow: request_lists.count_requests(one, chosen),  # type: ignore[misc]
        )
    for name, client in itertools.product((HOT, "resource:7"), (None, RARE, "client-5")):
        yield (
            f"entries of {name} for {client}",
            lambda one, name=name, client=client: requests.list_resource_entries(  # type: ignore[misc]
                one, resource_of(one, name), client, 20, None
            ),
        )
    for name, at in itertools.product((HOT, "resource:7"), (1_795_000_001, 1_795_004_000, 1_800_000_000)):
        yield (
            f"{name} at {at}",
            lambda one, name=name, at=at: requests.read_resource_at(  # type: ignore[misc]
                one, name, "client-5", datetime.fromtimestamp(at, UTC)
            ),
        )
    for client, kind in itertools.product((None, RARE), (None, "balance", "seat")):
        yield (
            f"resources of {client}, kind {kind}",
            lambda one, client=client, kind=kind: requests.list_resources(one, client, kind, 20, None),  # type: ignore[misc]
        )
    hook = UUID("00000000-0000-7000-8000-000000000001")
    yield "deliveries", lambda one: webhook_queries.list_deliveries(one, hook, None, 20, None)
    yield "webhooks", lambda one: webhook_queries.list_webhooks(one, "client-5", 20, None)
    yield "audit", lambda one: audit.list_audit(one, AuditFilter(), 20, None)
    yield "events", lambda one: requests.read_events(one, MIDDLE, traces=True)
    yield "entries of a request", lambda one: requests.list_request_entries(one, MIDDLE, None, 20, None)
    yield "gauges", requests.read_gauges
