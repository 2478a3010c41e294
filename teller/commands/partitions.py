"""
`teller partitions`: list partitions with their workers and backlogs, pause and resume them.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC
from typing import TYPE_CHECKING

import click

from processor.cluster import ownership
from processor.operations import pauses
from processor.reading import overview
from processor.records.documents import timestamp
from teller.arguments import reason_option
from teller.printing import Command, Group, show, table
from teller.reach import notify, operator, reached

if TYPE_CHECKING:
    from processor.reading.overview import Pause
    from processor.records.documents import Document
    from processor.storage.connections import Connection


@click.group(cls=Group, short_help="List partitions, pause and resume them.")
def partitions() -> None:
    """
    List the partitions in which requests are decided, pause and resume them.
    """


@partitions.command("list", cls=Command)
def list_() -> None:
    """
    List all partitions: the worker of each (host:pid), its backlog, the age of the oldest row, pauses and locks.
    """
    with reached() as (connection, _):
        found = ownership.list_partitions(connection)
        pauses_now = {one.partition: one for one in overview.read_pauses(connection, limit=len(found))}
    show(
        {"data": [{**asdict(one), "pause": _document(pauses_now.get(one.id))} for one in found]},
        lambda: table(
            ("partition", "owner", "backlog", "oldest", "paused", "locked by"),
            [
                (
                    one.id,
                    one.owner or "none",
                    one.backlog,
                    None if one.oldest_seconds is None else f"{one.oldest_seconds:.1f} s",
                    _describe(pauses_now.get(one.id)),
                    one.locked_by,
                )
                for one in found
            ],
            spare=("locked by",),
        ),
    )


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
@reason_option()
def pause(partition: int, why: str | None) -> None:
    """
    Stop the decisions of partition N until it is resumed. It still accepts requests.

    Returns when its last batch has ended.
    """
    with reached() as (connection, _):
        changed = pauses.pause(connection, partition, operator(), why)
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'is' if changed else 'was already'} paused")


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
@reason_option()
def resume(partition: int, why: str | None) -> None:
    """
    Resume the decisions of partition N, in the order of acceptance.
    """
    with reached() as (connection, settings):
        changed = pauses.resume(connection, partition, operator(), why)
        notify(connection, settings, [partition])
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'decides again' if changed else 'was not paused'}")


def _document(pause: Pause | None) -> Document | None:
    if pause is None:
        return None
    return {"since": timestamp(pause.since), "actor": pause.actor, "reason": pause.reason}


def _describe(pause: Pause | None) -> str | None:
    if pause is None:
        return None
    return f"{pause.reason or 'no reason'} ({pause.actor}, {pause.since.astimezone(UTC):%d %b %H:%M} UTC)"


def _read(connection: Connection, partition: int) -> Document:
    return next(asdict(one) for one in ownership.list_partitions(connection) if one.id == partition)
