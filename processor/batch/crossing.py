"""
Requests with legs in a batch: which of them it can decide, with their rows in every partition.

Pure. A request with legs has a row in the partition of each leg, all with one seq. A batch decides it if it took all
of these rows: then it also took every row before it, in each of these partitions. Otherwise the request blocks its
partitions: what is behind it there must wait for a batch that has all of them.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

from processor.batch.snapshot import Row
from processor.domain.legs import partitions_of
from processor.domain.partitioning import partition_of

#: The verbs that move no leg. Their rows are in the home partition alone, as the trigger `queue_legs` has it.
_MOVING_NOTHING: Final = frozenset({"settle", "cancel", "deny"})


class Crossing(NamedTuple):
    """A request that needs the rows of more partitions than the batch has."""

    home: int
    #: All partitions that a batch needs for it.
    partitions: frozenset[int]


class Split(NamedTuple):
    """The rows of a batch, divided into those that it can decide and those that have to wait."""

    #: In `seq` order. A request with legs has the row of its home partition here.
    ready: list[Row]
    #: The rows of the later legs of these requests, by request and verb.
    places: dict[tuple[UUID, str], list[Row]]
    #: The requests that need more partitions, or wait behind one that does. The first of them do not wait for others.
    crossings: list[Crossing]
    #: The partitions in which rows wait for them.
    blocked: frozenset[int]
    #: Rows of later legs whose request has no leg in their partition. PostgreSQL writes none.
    strays: list[Row]


def split(rows: Iterable[Row], partition_count: int) -> Split:
    """Divide rows that are in `seq` order, with at least one request with legs among them."""
    rows = list(rows)
    needed = {(row.request.id, row.verb): _needed(row, partition_count) for row in rows}
    taken: dict[tuple[UUID, str], set[int]] = {}
    for row in rows:
        taken.setdefault((row.request.id, row.verb), set()).add(row.partition)
    result = Split([], {}, [], frozenset(), [])
    blocked: set[int] = set()
    for row in rows:
        name = (row.request.id, row.verb)
        partitions = needed[name]
        if row.partition not in partitions:  # the worksheet refuses a misplaced request
            (result.strays if row.leg else result.ready).append(row)
        elif not blocked.isdisjoint(partitions) or not partitions <= taken[name]:
            blocked |= partitions
            crossing = Crossing(partition_of(row.request.resource_id, partition_count), partitions)
            if len(partitions) > 1 and crossing not in result.crossings:
                result.crossings.append(crossing)
        elif row.leg:
            result.places.setdefault(name, []).append(row)
        else:
            result.ready.append(row)
    return result._replace(blocked=frozenset(blocked))


def _needed(row: Row, partition_count: int) -> frozenset[int]:
    """Return the partitions whose rows a batch must have to decide this one."""
    request = row.request
    if not request.legs:
        return frozenset(() if row.leg else (row.partition,))
    home = partition_of(request.resource_id, partition_count)
    return (
        frozenset((home,))
        if row.verb in _MOVING_NOTHING
        else partitions_of(request.details, home, partition_count)
    )
