"""
The rows and blocks that the plan of a statement reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from processor.storage.connections import Connection


class Reads(NamedTuple):
    """The most rows that a node of the plan read, and the blocks of all nodes."""

    rows: int
    blocks: int


def reads(
    connection: Connection, statement: str, parameters: dict[str, Any], small: Collection[str] = ()
) -> Reads:
    """
    Run a statement and roll it back. The rows of the tables in `small` do not count.
    """
    with connections.faults(), connection.transaction(force_rollback=True):
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        [(plans,)] = connection.execute(explain, parameters).fetchall()
    plan = plans[0]["Plan"]
    return Reads(max(_rows(plan, small)), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _rows(node: dict[str, Any], small: Collection[str]) -> Iterator[int]:
    if node.get("Relation Name") not in small:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
        yield int(node["Actual Loops"] * (node["Actual Rows"] + removed))
    for child in node.get("Plans", ()):
        yield from _rows(child, small)
