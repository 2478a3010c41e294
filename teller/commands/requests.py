"""
`teller requests`: list, show, cancel and release requests of all clients.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from processor.domain.amounts import DECIMALS_MAX, NO_UNIT, format_amount, read_amount
from processor.domain.kinds import KINDS
from processor.domain.model import STATUSES
from processor.operations import approvals, reservations
from processor.operations import cancel as cancellations
from processor.reading import request_lists
from processor.reading import requests as stored_requests
from processor.reading import reservations as held_requests
from processor.reading.request_lists import RequestFilter
from processor.reading.units import read_units
from processor.visible import visible
from teller.arguments import identifier, reason_option
from teller.printing import Amount, Cell, Command, Group, as_json, fields, show, table
from teller.reach import notify, operator, reached

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from processor.clients.keys import Caller
    from processor.domain.amounts import Unit
    from processor.intake.commands import Recorded
    from processor.records.documents import Document, RequestRecord
    from processor.storage.connections import Connection

#: Rows of a list by default, and at most.
LIMIT: Final = 20
LIMIT_MAX: Final = 1_000
#: Entries of one request that are shown.
ENTRIES_MAX: Final = 100

if TYPE_CHECKING:
    Verdict = Callable[[Connection, UUID, Caller, str], tuple[RequestRecord, Recorded]]


@click.group(cls=Group)
def requests() -> None:
    """
    List, show, cancel and release requests of all clients.
    """


limit_option = click.option(
    "--limit",
    type=click.IntRange(1, LIMIT_MAX),
    default=LIMIT,
    show_default=True,
    help="The greatest number of rows.",
)


@requests.command("list", cls=Command)
@click.option("--status", type=click.Choice(STATUSES), help="Only requests with this status.")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only requests of this kind.")
@click.option("--resource", type=identifier, metavar="ID", help="Only requests of this resource.")
@click.option(
    "--account", type=identifier, metavar="ID", help="Only requests of this account, of any client."
)
@click.option("--client", type=identifier, metavar="ID", help="Only requests of this client.")
@click.option("--code", metavar="CODE", help="Only requests with this code, such as out_of_stock.")
@click.option("--amount", metavar="N", help="Only requests of this amount, as people write it: 250.00")
@click.option("--key", metavar="KEY", help="Only the request with this idempotency key.")
@click.option("--metadata", metavar="VALUE", help="Only requests with this value in their metadata.")
@limit_option
def list_(limit: int, amount: str | None, **chosen: str | None) -> None:
    """
    List requests, newest first. Those of the race lab appear with --client race-lab.
    """
    amounts = None if amount is None else tuple(read_amount(amount, n) for n in range(DECIMALS_MAX + 1))
    if amounts is not None and not any(one is not None for one in amounts):
        raise click.UsageError("--amount is not a number such as 250 or 250.00")
    if not all(value is None or value.isprintable() for value in chosen.values()):
        raise click.UsageError("a filter has characters that cannot be printed")
    wanted = RequestFilter(**chosen, amounts=amounts).hiding_lab()  # type: ignore[arg-type]  # the filters are texts
    with reached() as (connection, _):
        rows = request_lists.list_all(connection, None, wanted, limit)
        units = read_units(connection, (record.resource_id for record in rows))
        caption = counted(connection, wanted, len(rows), limit)
    show({"data": [record.document() for record in rows]}, lambda: listing(rows, units, caption))


@requests.command(cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
@reason_option()
def approve(request: UUID, why: str | None) -> None:
    """
    Approve the request ID, which waits for an approval. It is decided in its turn.
    """
    _judge(request, approvals.approve, why, "approval")


@requests.command(cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
@reason_option()
def deny(request: UUID, why: str | None) -> None:
    """
    Deny the request ID, which waits for an approval. It is rejected in its turn.
    """
    _judge(request, approvals.deny, why, "denial")


def _judge(request: UUID, verdict: Verdict, why: str | None, noun: str) -> None:
    if why is None:
        raise click.UsageError("--reason is missing: the audit keeps the reason of each verdict")
    with reached() as (connection, settings):
        _, command = verdict(connection, request, operator(), why)
        document = read(connection, request)
        notify(connection, settings, [command.partition])
    show(document, lambda: f"the {noun} of {request} is recorded; see teller requests show {request}")


@requests.command("show", cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
def show_(request: UUID) -> None:
    """
    Show the request ID as it is now, its history, and its entries.
    """
    with reached() as (connection, _):
        document = read(connection, request)
        units = units_of(connection, document)
    show(document, lambda: describe(document, units))


@requests.command(cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
@reason_option()
def cancel(request: UUID, why: str | None) -> None:
    """
    Cancel the request ID. The command may come too late: `teller requests show ID` shows the status.
    """
    with reached() as (connection, settings):
        _, command = cancellations.cancel(connection, request, operator(), why)
        document = read(connection, request)
        notify(connection, settings, [command.partition])
    show(document, lambda: f"the command to cancel {request} is recorded; see teller requests show {request}")


@requests.command(cls=Command)
@limit_option
def held(limit: int) -> None:
    """
    List the reservations that are held, the first to expire first.
    """
    with reached() as (connection, _):
        rows = held_requests.list_held(connection, limit, None).rows
    show(
        {"data": [one.request.document() for one in rows]},
        lambda: table(
            ("id", "until", "amount", "resource", "account", "client"),
            [
                (
                    str(one.request.id),
                    one.expires_at,
                    Amount(amount),
                    resource,
                    one.request.account,
                    one.request.client_id,
                )
                for one in rows
                for resource, amount in one.amounts  # a line for each leg
            ],
        ),
    )


@requests.command(cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
@reason_option()
def release(request: UUID, why: str | None) -> None:
    """
    Release the reservation ID: all that it holds goes back, and its client can no longer capture it.
    """
    with reached() as (connection, settings):
        _, command = reservations.release(connection, request, operator(), why)
        document = read(connection, request)
        notify(connection, settings, [command.partition])
    show(document, lambda: f"the release of {request} is accepted; see teller requests show {request}")


def read(connection: Connection, request: UUID) -> Document:
    """
    Return the document of a request, with its client, events and entries. Raises RequestNotFound.
    """
    record, place = stored_requests.read_request(connection, request, None)
    entries = stored_requests.list_request_entries(connection, request, None, ENTRIES_MAX, None).rows
    return {
        **record.document(),
        **({} if place is None else place.document()),
        "client": record.client_id,
        "events": stored_requests.read_events(connection, request, traces=True),
        "entries": [entry.document() for entry in reversed(entries)],
    }


def units_of(connection: Connection, document: Document) -> dict[str, Unit]:
    """Return the units of the resources in the document of a request."""
    moved = [line["resource"] for name in ("legs", "entries") for line in document.get(name, ())]
    return read_units(connection, [document.get("resource", ""), *moved])


def counted(connection: Connection, wanted: RequestFilter, shown: int, limit: int) -> str:
    """Return what a list shows of all that match, such as "20 of 50 requests, newest first"."""
    noun = "request" if shown == 1 else "requests"
    if as_json() or not sys.stdout.isatty():
        return ""
    if shown < limit:
        return f"{shown} {noun}, newest first"
    counts = request_lists.count_requests(connection, wanted)
    statuses = [wanted.status] if wanted.status else list(counts.by_status)
    total = sum(counts.by_status.get(status, 0) for status in statuses)
    if counts.more & set(statuses or counts.more):
        total = request_lists.COUNTED_MAX if wanted.status is None else total
        return f"{shown} of {max(total, shown):,}+ requests, newest first (--limit)"
    return f"{shown} of {max(total, shown):,} requests, newest first (--limit)"


def listing(rows: list[RequestRecord], units: dict[str, Unit], caption: str = "") -> str:
    """Format requests, one line each."""
    return table(
        ("id", "kind", "status", "why", "resource", "account", "amount", "created"),
        [
            (
                str(record.id),
                record.kind,
                record.status,
                record.stage or record.code,
                record.resource_id + (f" and {len(record.legs) - 1} more" if record.legs else ""),
                record.account,
                _amount(record.amount, units.get(record.resource_id, NO_UNIT)),
                record.created_at,
            )
            for record in rows
        ],
        spare=("why", "created", "kind"),
        caption=caption,
    )


def describe(document: Document, units: dict[str, Unit]) -> str:
    """Format a request, its history, and its entries."""
    unit = units.get(document.get("resource", ""), NO_UNIT)
    shown = [
        (name, _amount(value, unit) if name in ("amount", "refunded") else _cell(value))
        for name, value in document.items()
        if name not in ("legs", "events", "entries")
    ]
    shown += [
        (verb, f"{format_amount(leg[verb], units.get(leg['resource'], NO_UNIT))} of {leg['resource']}")
        for leg in document.get("legs", ())
        for verb in ("take", "give")
        if verb in leg
    ]
    history = [
        (event["at"], event["status"], event["stage"], event["actor"], event["detail"])
        for event in document["events"]
    ]
    entries = [
        (
            line["resource"],
            line["version"],
            line["kind"],
            *(
                _amount(line[name], units.get(line["resource"], NO_UNIT))
                for name in ("amount", "available", "held")
            ),
        )
        for line in document["entries"]
    ]
    traces = [event["trace"] for event in document["events"] if event.get("trace")]
    parts = [
        fields(shown),
        table(("at", "status", "stage", "actor", "detail"), history),
        *(
            [table(("resource", "version", "entry", "amount", "available", "held"), entries)]
            if entries
            else []
        ),
        *(visible(trace, lines=True) for trace in traces),
    ]
    return "\n\n".join(parts)


def _amount(amount: int | None, unit: Unit) -> Cell:
    return None if amount is None else Amount(format_amount(amount, unit))


def _cell(value: Any) -> Cell:
    """Convert a value for printing. Returns None for an empty object, which is left out."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if value else None
    return value if isinstance(value, int | None) else str(value)
