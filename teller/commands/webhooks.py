"""
`teller webhooks`: list webhooks, and since when, how often and why each fails.
"""

from __future__ import annotations

import click

from processor.reading import webhooks as webhook_queries
from teller.arguments import identifier
from teller.commands.requests import limit_option
from teller.printing import Command, Group, caption_of, show, table
from teller.reach import reached


@click.group(cls=Group)
def webhooks() -> None:
    """
    List webhooks, and since when, how often and why each fails.
    """


@webhooks.command("list", cls=Command)
@click.option("--client", type=identifier, metavar="ID", help="Only webhooks of this client.")
@click.option("--state", type=click.Choice(("failing", "disabled")), help="Only webhooks in this state.")
@limit_option
def list_(client: str | None, state: webhook_queries.WebhookState | None, limit: int) -> None:
    """
    List webhooks, newest first.
    """
    with reached() as (connection, _):
        found = webhook_queries.list_webhooks(connection, client, limit, None, state=state)
    rows = found.rows
    more = caption_of(len(rows), "webhook", is_cut=found.next_cursor is not None)
    show(
        {
            "data": [
                {
                    **one.document(),
                    "failing": None
                    if one.failing_since is None
                    else {
                        "since": one.failing_since.isoformat(),
                        "tries": one.failing_tries,
                        "error": one.failing_error,
                    },
                }
                for one in rows
            ]
        },
        lambda: table(
            ("id", "client", "state", "since", "failures", "reason", "address"),
            [
                (
                    str(one.id),
                    one.client_id,
                    "disabled" if one.disabled_at else "failing" if one.failing_since else "enabled",
                    one.disabled_at or one.failing_since,
                    one.failing_tries or None,
                    one.disabled_reason or one.failing_error,
                    one.url,
                )
                for one in rows
            ],
            spare=("address", "client", "since"),
            caption=more,
        ),
    )
