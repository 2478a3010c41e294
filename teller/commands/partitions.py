"""
`teller partitions`: who drains which, what waits, pause and resume.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from processor.cluster import ownership
from processor.operations import pauses
from teller.printing import Command, Group, show, table
from teller.reach import operator, reached, ring

if TYPE_CHECKING:
    from processor.records.documents import Document
    from processor.storage.connections import Connection


@click.group(cls=Group, short_help="See the lanes, pause and resume them.")
def partitions() -> None:
    """
    See the lanes that requests are decided in, pause and resume them.
    """


@partitions.command("list", cls=Command)
def list_() -> None:
    """
    List all partitions: the worker that drains each (host:pid), how much waits for how long, and which are paused.
    """
    with reached() as (connection, _):
        found = ownership.list_partitions(connection)
    show(
        {"data": [asdict(one) for one in found]},
        lambda: table(
            ("partition", "owner", "backlog", "oldest", "paused"),
            [
                (
                    one.id,
                    one.owner or "nobody",
                    one.backlog,
                    None if one.oldest_seconds is None else f"{one.oldest_seconds:.1f} s",
                    "paused" if one.paused else None,
                )
                for one in found
            ],
        ),
    )


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
def pause(partition: int) -> None:
    """
    Let partition N accept, but decide nothing, until it is resumed.

    Returns when no batch of it is under way.
    """
    with reached() as (connection, _):
        changed = pauses.pause(connection, partition, operator())
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'is' if changed else 'was already'} paused")


@partitions.command(cls=Command)
@click.argument("partition", metavar="N", type=click.IntRange(min=0))
def resume(partition: int) -> None:
    """
    Let partition N decide again: first what was accepted meanwhile, in order.
    """
    with reached() as (connection, settings):
        changed = pauses.resume(connection, partition, operator())
        ring(settings, [partition])
        document = _read(connection, partition)
    show(document, lambda: f"partition {partition} {'decides again' if changed else 'was not paused'}")


def _read(connection: Connection, partition: int) -> Document:
    return next(asdict(one) for one in ownership.list_partitions(connection) if one.id == partition)
