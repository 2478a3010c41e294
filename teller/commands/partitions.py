"""
`teller partitions`: list partitions with their workers and backlogs, pause and resume them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from processor.cluster import ownership
from processor.operations import pauses
from teller.printing import Command, Group, show, table
from teller.reach import notify, operator, reached

if TYPE_CHECKING:
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
    show(
        {"data": [asdict(one) for one in found]},
        lambda: table(
            ("partition", "owner", "backlog", "oldest", "paused", "locked by"),
            [
                (
                    one.id,
                    one.owner or "none",
                    one.backlog,
                    None if one.oldest_seconds is None else f"{one.oldest_seconds:.1f} s",
                    "paused" if one.paused else None,
                    one.locked_by,
                )
                for one in found
            ],
        ),
    )


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
def pause(partition: int) -> None:
    """
    Stop the decisions of partition N until it is resumed. It still accepts requests.

    Returns when its last batch has ended.
    """
    with reached() as (connection, _):
        changed = pauses.pause(connection, partition, operator())
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'is' if changed else 'was already'} paused")


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
def resume(partition: int) -> None:
    """
    Resume the decisions of partition N, in the order of acceptance.
    """
    with reached() as (connection, settings):
        changed = pauses.resume(connection, partition, operator())
        notify(connection, settings, [partition])
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'decides again' if changed else 'was not paused'}")


def _read(connection: Connection, partition: int) -> Document:
    return next(asdict(one) for one in ownership.list_partitions(connection) if one.id == partition)
