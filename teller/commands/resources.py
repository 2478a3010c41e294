"""
`teller resources`: list resources, and show one with its last entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

import click

from processor.domain.amounts import format_amount
from processor.domain.model import ResourceKind
from processor.domain.roles import LAB_CLIENT
from processor.errors import TellerError
from processor.reading import requests as stored_requests
from teller.arguments import identifier
from teller.commands.requests import limit_option
from teller.printing import Amount, Command, Group, caption_of, fields, show, table
from teller.reach import reached

if TYPE_CHECKING:
    from processor.records.documents import ResourceRecord

#: Resources of one page of a query.
PAGE: Final = 100
#: Entries of one resource that are shown.
ENTRIES_SHOWN: Final = 20


class ResourceNotFound(TellerError):
    """No resource has this id."""

    code = "not_found"


@click.group(cls=Group)
def resources() -> None:
    """
    List resources, and show one with its last entries.
    """


@resources.command("list", cls=Command)
@click.option("--kind", type=click.Choice(get_args(ResourceKind)), help="Only resources of this kind.")
@limit_option
def list_(kind: str | None, limit: int) -> None:
    """
    List resources, newest first, without those of the race lab.
    """
    found: list[ResourceRecord] = []
    cursor: str | None = None
    with reached() as (connection, _):
        while len(found) < limit:
            size = min(PAGE, limit - len(found))
            part = stored_requests.list_resources(connection, None, kind, size, cursor, without=LAB_CLIENT)
            found += part.rows
            cursor = part.next_cursor
            if cursor is None:
                break
    more = caption_of(len(found), "resource", is_cut=cursor is not None)
    show(
        {"data": [one.document() for one in found]},
        lambda: table(
            ("id", "kind", "available", "held", "client", "gateway", "partition", "closed"),
            [
                (
                    one.id,
                    one.kind,
                    Amount(format_amount(one.available, one.written_unit)),
                    Amount(format_amount(one.held, one.written_unit)),
                    one.client_id,
                    one.gateway,
                    one.partition,
                    one.closed_at,
                )
                for one in found
            ],
            spare=("closed", "gateway", "partition", "client"),
            caption=more,
        ),
    )


@resources.command("show", cls=Command)
@click.argument("resource", metavar="ID", type=identifier)
def show_(resource: str) -> None:
    """
    Show the resource ID as it is now, and its last entries.
    """
    with reached() as (connection, _):
        record = stored_requests.read_resource(connection, resource, None)
        if record is None:
            raise ResourceNotFound(f"there is no resource {resource}")
        entries = stored_requests.list_resource_entries(connection, record, None, ENTRIES_SHOWN, None).rows
    unit = record.written_unit
    quantities = ("available", "held", "overdraft", "per_account_limit", "confirm_above", "approve_above")
    document = {**record.document(), "entries": [one.document() for one in entries]}
    pairs = [
        (name, format_amount(value, unit) if name in quantities and isinstance(value, int) else str(value))
        for name, value in document.items()
        if name != "entries" and value not in (None, {})
    ]
    show(
        document,
        lambda: "\n\n".join(
            [
                fields(pairs),
                table(
                    ("version", "entry", "amount", "available", "held", "account", "request", "at"),
                    [
                        (
                            one.version,
                            one.kind,
                            *(
                                Amount(format_amount(n or 0, unit))
                                for n in (one.amount, one.available, one.held)
                            ),
                            one.account,
                            str(one.request_id),
                            one.created_at,
                        )
                        for one in entries
                    ],
                    spare=("request", "account", "held"),
                ),
            ]
        ),
    )
