"""
`teller audit`: who did what, when and why.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from processor.records import audit as audit_records
from processor.records.audit import AuditFilter
from teller.arguments import moment
from teller.commands.requests import limit_option
from teller.printing import Command, caption_of, show, table
from teller.reach import reached

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


@click.command(cls=Command)
@click.option("--action", metavar="NAME", help="Only acts of this name, such as partition_paused.")
@click.option("--actor", metavar="NAME", help="Only acts of this actor, as the list shows it.")
@click.option("--request", type=click.UUID, metavar="ID", help="Only acts on this request.")
@click.option("--since", type=moment, metavar="TIME", help="Only acts from this time on.")
@limit_option
def audit(
    action: str | None, actor: str | None, request: UUID | None, since: datetime | None, limit: int
) -> None:
    """
    List who did what, when and why, newest first.
    """
    if not all(value is None or value.isprintable() for value in (action, actor)):
        raise click.UsageError("a filter has characters that cannot be printed")
    wanted = AuditFilter(actor=actor, action=action, request=request, since=since)
    with reached() as (connection, _):
        found = audit_records.list_audit(connection, wanted, limit, None)
    rows = found.rows
    more = caption_of(len(rows), "act", is_cut=found.next_cursor is not None)
    show(
        {"data": [one.document() for one in rows]},
        lambda: table(
            ("at", "action", "actor", "reason", "request", "detail"),
            [
                (
                    one.at,
                    one.action,
                    one.actor,
                    one.reason,
                    None if one.request_id is None else str(one.request_id),
                    json.dumps(one.detail, ensure_ascii=False) if one.detail else None,
                )
                for one in rows
            ],
            spare=("detail", "request"),
            caption=more,
        ),
    )
