"""
Parked requests as people look for them: which match, how many they are, and what they add up to.

Reads only, for those who see everything. What a filter matches costs as much as there are failed requests, never as
much as there are requests.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

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
    """Which parked requests; None: all."""

    code: str | None = None
    resource: str | None = None
    account: str | None = None
    client: str | None = None
    #: They failed from this moment on, and before that one.
    since: datetime | None = None
    until: datetime | None = None
    #: They had failed by then: what fails while somebody reads a preview is not in it.
    seen: datetime | None = None
    #: These alone.
    ids: tuple[UUID, ...] | None = None

    def conditions(self) -> str:
        """Only what is asked for, so that each has the plan that its index gives it."""
        asked = [SQL[f"filter_{name}"] for name, value in asdict(self).items() if value is not None]
        return "\n       AND ".join([SQL["filter_failed"], *asked])

    def parameters(self) -> dict[str, Any]:
        """The values for the conditions."""
        return asdict(self) | {"ids": None if self.ids is None else list(self.ids)}


@dataclass(frozen=True, slots=True)
class Sum:
    """How many requests of one sort, and what they add up to."""

    #: A code or a resource.
    name: str | None
    unit: str | None
    requests: int
    #: Those of them that have an amount.
    counted: int
    amount: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What all requests that match come to."""

    requests: int
    #: How many resources they are of.
    resources: int
    codes: list[Sum]
    units: list[Sum]
    #: The NAMED_MAX resources with most of them.
    largest: list[Sum]


def list_failed(
    connection: Connection, wanted: FailedFilter, limit: int, cursor: str | None
) -> Page[RequestRecord]:
    """Those that match, the last to fail first. Raises CursorInvalid, DatabaseUnavailable."""
    before_at, before_id = read_cursor(cursor, datetime.fromisoformat, UUID)
    conditions = wanted.conditions()
    if cursor is not None:
        conditions += "\n       AND " + SQL["filter_before"]
    parameters = wanted.parameters() | {"before_at": before_at, "before_id": before_id, "limit": limit + 1}
    with connections.faults():
        rows = connection.execute(SQL["list_failed"].replace("{filters}", conditions), parameters).fetchall()
    found = [RequestRecord(*row) for row in rows]
    return page(found, limit, lambda one: ("" if one.at is None else one.at.isoformat(), str(one.id)))


def sum_up(connection: Connection, wanted: FailedFilter) -> Summary:
    """The exact number of those that match, and their sums. Raises DatabaseUnavailable."""
    statement = SQL["sum_up"].replace("{filters}", wanted.conditions())
    parts: dict[str, list[Sum]] = {"code": [], "unit": [], "resource": []}
    resources = 0
    with connections.faults(), connection.transaction():
        connection.execute(SQL["plan_for_many"])
        rows = connection.execute(statement, wanted.parameters() | {"limit": NAMED_MAX}).fetchall()
    for part, name, unit, requests, counted, amount in rows:
        if part == "resources":
            resources = int(requests)
        else:
            parts[part].append(Sum(name, unit, int(requests), int(counted), int(amount or 0)))
    codes = sorted(parts["code"], key=lambda one: -one.requests)
    units = sorted(parts["unit"], key=lambda one: -one.requests)
    return Summary(sum(one.requests for one in codes), resources, codes, units, parts["resource"])
