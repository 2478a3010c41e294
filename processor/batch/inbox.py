"""
The inbox in a batch: lock partitions, take their oldest rows, and end the batch of each.

Every function runs in the transaction and the pipeline of `processor/batch/run.py`, and none commits.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Final
from uuid import UUID

from processor.batch import crossing
from processor.batch.crossing import Crossing
from processor.batch.snapshot import CancelCommand, Row
from processor.domain.legs import partitions_of
from processor.domain.model import Request
from processor.errors import DatabaseUnavailable
from processor.storage import connections, statements
from processor.storage.arrays import Execute

SQL = statements.beside(__file__)
#: Limits of one statement of a batch, its wait for a row that another transaction has locked, and a pause between two
#: statements.
TIMEOUTS: Final = {"statement_ms": 10_000, "lock_ms": 1_000, "idle_ms": 10_000}
#: The longest wait of a batch for the lock of a partition that it needs, in milliseconds. Its worker decides nothing
#: else meanwhile.
CROSSING_LOCK_MS: Final = 250


@dataclass(frozen=True, slots=True)
class Taken:
    """The work of some partitions, whose locks this transaction holds."""

    #: In `seq` order, over all partitions. Rows that wait for another batch are not among them.
    rows: list[Row]
    #: The partition and the seq of rows without a request of their partition. The API writes none.
    strays: list[tuple[int, int]]
    #: Partitions with as many rows as their share. More may wait.
    deep: frozenset[int]
    #: Partitions that are left out, because another backend holds their lock.
    locked: frozenset[int]
    #: Partitions that are left out, because an operator paused them.
    paused: frozenset[int]
    #: The time of the batch. No row was accepted later.
    now: datetime
    #: The number of each partition's last decision.
    sequences: dict[int, int]
    #: The commands to cancel that wait, by request.
    cancels: dict[UUID, CancelCommand]
    #: All transactions before this one had ended when the rows were taken.
    settled_xid: int
    #: The number of partitions of the installation.
    partition_count: int
    #: The rows are in the inbox, and leave it at the end of the batch.
    is_queued: bool = True
    #: The rows of the later legs of the requests in `rows`, by request and verb.
    places: dict[tuple[UUID, str], list[Row]] = field(default_factory=dict)
    #: Requests that need more partitions than this batch has, and the partitions in which rows wait for them.
    crossings: list[Crossing] = field(default_factory=list)
    blocked: frozenset[int] = frozenset()

    def with_places(self, rows: list[Row]) -> list[Row]:
        """Return rows, each followed by the rows of its later legs, which have the same seq."""
        if not self.places:
            return rows
        return [one for row in rows for one in (row, *self.places.get((row.request.id, row.verb), ()))]


def take(execute: Execute, partitions: Collection[int], limit: int, *, needs_all: bool = False) -> Taken:
    """
    Lock partitions and take their oldest rows, in one round trip.

    Takes up to `limit` rows, and at least one of each partition that has work. `needs_all` waits for the locks, and
    raises LockNotAvailable if one is not granted in time.
    """
    return _take(execute, partitions, limit, "take_inbox", needs_all=needs_all)


def take_expired(
    execute: Execute, partitions: Collection[int], limit: int, *, needs_all: bool = False
) -> Taken:
    """
    Lock partitions, and take up to `limit` of their reservations whose time is over, in one round trip.

    The rows have the verb `expire` and are not in the inbox: what waits there does not delay them. A reservation with
    legs is taken if the locks of all its partitions are. `needs_all` as for `take`.
    """
    return _take(execute, partitions, limit, "take_expired", needs_all=needs_all, is_queued=False)


def _take(
    execute: Execute,
    partitions: Collection[int],
    limit: int,
    statement: str,
    *,
    needs_all: bool = False,
    is_queued: bool = True,
) -> Taken:
    ascending = sorted(partitions)  # all batches lock in this order
    share = max(1, limit // len(ascending))
    begun = execute("begin_batch", TIMEOUTS | {"lock_ms": CROSSING_LOCK_MS} if needs_all else TIMEOUTS)
    lock = "lock_partitions_in_turn" if needs_all else "lock_partitions"
    locks = execute(lock, {"lock_class": connections.LOCK_CLASS, "partitions": ascending})
    inbox = execute(statement, {"partitions": ascending, "share": share, "batch_limit": limit})
    # After the take, because of the clock: no request is decided at an earlier time than it was accepted.
    state = execute("read_partitions", {"partitions": ascending})
    [(*_, partition_count, settled_xid)] = begun.fetchall()
    locked = frozenset(partition for partition, is_granted in locks if not is_granted)
    found = inbox.fetchall()
    states = {partition: columns for partition, *columns in state}
    paused = frozenset(partition for partition, (_, is_paused, *_) in states.items() if is_paused)
    rows = []
    strays = []
    has_legs = False
    for seq, partition, verb, payload, leg, ctid, *asked in sorted(found, key=itemgetter(0)):
        if partition in locked:
            continue
        if asked[0] is None:
            strays.append((partition, seq))
        else:
            request = Request(*asked)
            rows.append(Row(seq, partition, verb, payload, request, leg, ctid))
            has_legs = has_legs or leg > 0 or (request.details is not None and "legs" in request.details)
    depths = Counter(row.partition for row in rows) + Counter(partition for partition, _ in strays)
    cancels: dict[UUID, CancelCommand] = {}
    for _, _, waiting, _ in states.values():
        cancels |= {UUID(request): CancelCommand.of(payload) for request, payload in (waiting or {}).items()}
    taken = Taken(
        rows=rows,
        strays=strays,
        deep=frozenset(partition for partition, depth in depths.items() if depth >= share),
        locked=locked,
        paused=paused - locked,
        now=max(now for *_, now in states.values()),
        sequences={partition: sequence for partition, (sequence, *_) in states.items()},
        cancels=cancels,
        settled_xid=settled_xid,
        partition_count=partition_count,
        is_queued=is_queued,
    )
    if not has_legs:
        return taken
    return _without_waiting(taken) if is_queued else _with_locks(taken)


def _without_waiting(taken: Taken) -> Taken:
    """Leave the requests that need more partitions, and all rows behind them, to another batch."""
    split = crossing.split(taken.rows, taken.partition_count)
    return replace(
        taken,
        rows=split.ready,
        strays=taken.strays + [(row.partition, row.seq) for row in split.strays],
        deep=taken.deep - split.blocked,
        places=split.places,
        crossings=split.crossings,
        blocked=split.blocked,
    )


def _with_locks(taken: Taken) -> Taken:
    """Leave the reservations that have a leg in a locked partition to the next look."""
    rows = [
        row
        for row in taken.rows
        if taken.locked.isdisjoint(partitions_of(row.request.details, row.partition, taken.partition_count))
    ]
    return replace(taken, rows=rows, deep=taken.deep - taken.locked)


def delete_strays(execute: Execute, strays: list[tuple[int, int]]) -> None:
    """
    Delete rows without a request of their partition, which would otherwise be taken again and again.
    """
    partitions, seqs = zip(*strays, strict=True)
    execute("delete_strays", {"partitions": list(partitions), "seqs": list(seqs)})


def note_misplaced(execute: Execute, misplaced: Counter[int]) -> None:
    """
    Raise the alarm about rows that are in a partition where they do not belong.
    """
    details = [
        f"{count} rows of partition {partition} belong elsewhere" for partition, count in misplaced.items()
    ]
    execute("note_misplaced", {"partitions": list(misplaced), "details": details})


def finish(execute: Execute, taken: Taken, done: list[Row], sequences: dict[int, int]) -> Callable[[], None]:
    """
    Send the end of the batch: the rows that are done are deleted, and their partitions counted on.

    The rows of later legs are deleted with that of their request.

    Returns a check for the time when the pipeline was synced. It raises DatabaseUnavailable if another transaction
    took one of the rows: the next batch reads again.
    """
    if not taken.is_queued:
        return lambda: None
    done = taken.with_places(done)
    counts = Counter(row.partition for row in done)
    last_seqs = {row.partition: row.seq for row in done}
    partitions = sorted(counts)
    finished = execute(
        "finish_partitions",
        {
            "ctids": [row.ctid for row in done],
            "seqs": [row.seq for row in done],
            "partitions": partitions,
            "sequences": [sequences[partition] for partition in partitions],
            "counts": [counts[partition] for partition in partitions],
            "last_seqs": [last_seqs[partition] for partition in partitions],
            "settled_xid": taken.settled_xid,
        },
    )

    def check() -> None:
        if finished.rowcount != len(partitions):
            raise DatabaseUnavailable("the inbox changed while the batch was under way; nothing was written")

    return check
