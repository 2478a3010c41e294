"""
`teller failed`: list and show failed requests, replay or refund them.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING
from uuid import UUID

import click

from processor.domain.amounts import format_amount
from processor.operations import failed_requests
from processor.operations.failed_requests import NotFailed
from processor.reading import attempts as gateway_attempts
from processor.reading import failed as failed_queries
from processor.reading import request_lists
from processor.reading.failed import FailedFilter, Sum
from processor.reading.request_lists import RequestFilter
from processor.reading.units import read_units
from teller.arguments import identifier, reason
from teller.commands import requests
from teller.printing import Command, Group, show, table
from teller.reach import notify, operator, reached, temporary_intake

if TYPE_CHECKING:
    from processor.records.documents import Document


@click.group(cls=Group)
def failed() -> None:
    """
    List failed requests, and replay or refund them.

    A request fails when Teller could not finish it, or when its gateway's answer is unknown. Nothing is lost, and its
    hold stays open. A replay tries it as if it were new, and can never take twice. A refund gives back.
    """


@failed.command("list", cls=Command)
@click.option("--resource", type=identifier, metavar="ID", help="Only requests of this resource.")
@click.option("--code", metavar="CODE", help="Only requests with this code, such as gateway_unreachable.")
@requests.limit_option
def list_(resource: str | None, code: str | None, limit: int) -> None:
    """
    List failed requests, newest first.
    """
    if code is not None and not code.isprintable():
        raise click.UsageError("--code has characters that cannot be printed")
    with reached() as (connection, _):
        wanted = RequestFilter(status="failed", resource=resource, code=code)
        rows = request_lists.list_all(connection, None, wanted, limit)
        units = read_units(connection, (record.resource_id for record in rows))
        caption = requests.counted(connection, wanted, len(rows), limit)
    show({"data": [record.document() for record in rows]}, lambda: requests.listing(rows, units, caption))


@failed.command("show", cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
def show_(request: UUID) -> None:
    """
    Show the request ID, its history, its error, and each call of its gateway.
    """
    with reached() as (connection, _):
        document = requests.read(connection, request)
        units = requests.units_of(connection, document)
        attempts = [attempt.document() for attempt in gateway_attempts.read_attempts(connection, request)]
    columns = ("started_at", "ended_at", "status", "outcome", "error")
    calls = table(columns, [[attempt[name] for name in columns] for attempt in attempts]) if attempts else ""
    show(
        {**document, "attempts": attempts},
        lambda: "\n\n".join(part for part in (requests.describe(document, units), calls) if part),
    )


@failed.command(cls=Command)
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID)
@click.option(
    "--all", "every", is_flag=True, help="All failed requests, or those that --code and --resource select."
)
@click.option(
    "--code", metavar="CODE", help="With --all: only requests with this code, such as gateway_unreachable."
)
@click.option("--resource", type=identifier, metavar="ID", help="With --all: only requests of this resource.")
@click.option(
    "--reason", "why", required=True, type=reason, metavar="TEXT", help="The reason, which the audit keeps."
)
@click.option("--dry-run", is_flag=True, help="With --all: only print how many match, and their sums.")
def replay(
    ids: tuple[UUID, ...], every: bool, code: str | None, resource: str | None, why: str, dry_run: bool
) -> int:
    """
    Send failed requests to the end of their queues, to be tried as if they were new.

    \b
    teller failed replay --all --code gateway_unreachable --reason "bank is back" --dry-run
    """  # noqa: D301 - \b makes click keep the lines
    if bool(ids) == every:
        raise click.UsageError("name the requests, or use --all")
    if not every and (code or resource or dry_run):
        raise click.UsageError("--code, --resource and --dry-run go with --all")
    if code is not None and not code.isprintable():
        raise click.UsageError("--code has characters that cannot be printed")
    sums: list[Sum] = []
    with reached() as (connection, settings):
        if every and dry_run:
            sums = failed_queries.sum_up(connection, FailedFilter(code=code, resource=resource)).units
        if every:
            done = failed_requests.replay_all(
                connection, code, resource, operator().actor, why, dry_run=dry_run
            )
        else:
            try:
                done = failed_requests.replay_each(connection, ids, operator().actor, why)
            except NotFailed as refused:
                raise NotFailed(f"{refused}; see teller failed list") from None
        notify(connection, settings, done.partitions)
    wanted = done.matched + len(done.not_failed)
    show(
        {
            "matched": done.matched,
            "replayed": len(done.sent),
            **({"sums": _documents(sums)} if dry_run else {}),
        },
        lambda: (
            f"{done.matched} would be replayed{_describe(sums)}"
            if dry_run
            else f"replayed {len(done.sent)} of {wanted}"
        ),
    )
    return 1 if done.not_failed else 0


def _documents(sums: list[Sum]) -> list[Document]:
    return [
        {"unit": one.unit.name, "decimals": one.unit.decimals, "requests": one.counted, "amount": one.amount}
        for one in sums
    ]


def _describe(sums: list[Sum]) -> str:
    """Return the sums of each unit, such as ": 3 with 75.00 EUR, 2 with 4"."""
    parts = [f"{one.counted} with {format_amount(one.amount, one.unit)}" for one in sums if one.counted]
    return f": {', '.join(parts)}" if parts else ""


@failed.command(cls=Command)
@click.argument("request", metavar="ID", type=click.UUID)
@click.option(
    "--reason", "why", required=True, type=reason, metavar="TEXT", help="The reason, which the audit keeps."
)
def refund(request: UUID, why: str) -> None:
    """
    Give back all that the request ID holds or has taken.

    The refund is a request of its own, and is decided in its turn.
    """
    key = f"refund-{uuid.uuid4()}"
    with reached() as (connection, settings), temporary_intake(connection, settings) as intake:
        record, _ = failed_requests.refund(intake.accept, connection, request, None, why, operator(), key)
    show(
        record.document(),
        lambda: f"the refund is request {record.id}; see teller requests show {record.id}",
    )
