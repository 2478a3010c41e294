"""
Legs: the resources of a request that has several, and the change of each.

A request keeps its legs in its details, as its client sent them: `{"resource": "points:u_1", "take": 100}`. The table
`legs` has the same rows for constraints and queries; a trigger of PostgreSQL writes them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from processor.domain.partitioning import partition_of


class Leg(NamedTuple):
    """One resource of a request. Either `take` or `give` is set, in whole units of the resource."""

    resource_id: str
    take: int | None = None
    give: int | None = None

    @property
    def quantity(self) -> int:
        """The quantity that is taken or given."""
        return self.take or self.give or 0

    def reversed(self) -> "Leg":
        """Return the leg of a refund, which undoes this one."""
        return Leg(self.resource_id, take=self.give, give=self.take)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read a leg from the details of a request."""
        return cls(document["resource"], document.get("take"), document.get("give"))

    def document(self) -> dict[str, Any]:
        """Return the leg as the API and the details of a request show it."""
        move = {"give": self.give} if self.take is None else {"take": self.take}
        return {"resource": self.resource_id, **move}


def legs_of(details: Mapping[str, Any] | None) -> tuple[Leg, ...]:
    """Return the legs in the details of a request, in the order sent; none for a request with a single resource."""
    if details is None or "legs" not in details:
        return ()
    return tuple(Leg.of(document) for document in details["legs"])


def partitions_of(details: Mapping[str, Any] | None, home: int, count: int) -> frozenset[int]:
    """Return the partitions of a request: its home partition, and that of each leg. `count` is the number of all."""
    if details is None or "legs" not in details:
        return frozenset((home,))
    return frozenset((home, *(partition_of(leg.resource_id, count) for leg in legs_of(details))))
