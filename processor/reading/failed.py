"""
Failed requests that match a filter: the list, their number and their sums.

For operators, who see all clients. The cost grows with the number of failed requests, not with that of all requests.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from processor.domain.amounts import Unit
from processor.records import documents
from processor.records.documents import RequestRecord
from processor.records.pages import Page, page, read_cursor
from processor.storage import connections, statements
from processor.storage.connections import Connection

#: Resources that a summary names.
NAMED_MAX: Final = 10

SQL = {
    name: text.replace("{request_columns}", documents.REQUEST_COLUMNS)
    for name, text in statements.beside(__file__).items()
}


@dataclass(frozen=True, slots=True)
class FailedFilter:
    """The failed requests that a list shows; None: all."""

    code: str | None = None
    resource: str | None = None
    account: str | None = None
    client: str | None = None
    #: They failed from `since` on, and before `until`.
    since: datetime | None = None
    until: datetime | None = None
    #: They had failed by this time. A preview excludes later failures.
    seen: datetime | None = None
    #: Only these.
    ids: tuple[UUID, ...] | None = None

    def conditions(self) -> str:
        """Return the conditions in use, so that the planner picks the index of each."""
        asked = [SQL[f"filter_{name}"] for name, value in asdict(self).items() if value is not None]
        return "\n       AND ".join([SQL["filter_failed"], *asked])

    def parameters(self) -> dict[str, Any]:
        """Return the values for the conditions."""
        return asdict(self) | {"ids": None if self.ids is None else list(self.ids)}


@dataclass(frozen=True, slots=True)
class Sum:
    """The number of requests with one code, unit or resource, and their sum."""

    #: A code or a resource.
    name: str | None
    unit: Unit
    requests: int
    #: The requests that have an amount.
    counted: int
    amount: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The number and the sums of all requests that match."""

    requests: int
    #: The number of their resources.
    resources: int
    codes: list[Sum]
    units: list[Sum]
    #: The NAMED_MAX resources with the most of them.
    largest: list[Sum]


def list_failed(
    connection: Connection, chosen: FailedFilter, limit: int, cursor: str | None
) -> Page[RequestRecord]:
    """List the requests that match; the last to fail is first. Raises CursorInvalid, DatabaseUnavailable."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, UUID)
    conditions = chosen.conditions()
    if cursor is not None:
        conditions += "\n       AND " + SQL["filter_before"]
    parameters = chosen.parameters() | {"before_at": before_at, "before_id": before_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_failed"].replace("{filters}", conditions), parameters).fetchall()
    found = [RequestRecord(*row) for row in rows]
    return page(found, limit, lambda one: ("" if one.at is None else one.at.isoformat(), str(one.id)))


def sum_up(connection: Connection, chosen: FailedFilter) -> Summary:
    """Count and sum the requests that match. Raises DatabaseUnavailable."""
    statement = SQL["sum_up"].replace("{filters}", chosen.conditions())
    parts: dict[str, list[Sum]] = {"code": [], "unit": [], "resource": []}
    resources = 0
    with connections.faults(), connection.transaction():
        connection.execute(SQL["plan_for_many"])
        rows = connection.execute(statement, chosen.parameters() | {"limit": NAMED_MAX}).fetchall()
    for part, name, unit, decimals, requests, counted, amount in rows:
        if part == "resources":
            resources = int(requests)
        else:
            parts[part].append(Sum(name, Unit(unit, decimals), int(requests), int(counted), int(amount or 0)))
    codes = sorted(parts["code"], key=lambda one: -one.requests)
    units = sorted(parts["unit"], key=lambda one: -one.requests)
    return Summary(sum(one.requests for one in codes), resources, codes, units, parts["resource"])
