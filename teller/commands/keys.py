"""
`teller keys`: make, list and revoke API keys.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final, get_args

import click

from processor.clients import keys as api_keys
from processor.reading import keys as key_queries
from teller.arguments import identifier
from teller.printing import Command, Group, as_json, show, table
from teller.reach import operator, reached

if TYPE_CHECKING:
    from uuid import UUID


#: The units of a lifetime.
UNITS: Final = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}

_LIFETIME = re.compile(r"([0-9]{1,9})([dhm])", re.ASCII)


def lifetime(value: str) -> timedelta:
    """Parse a number of days, hours or minutes, such as 90d, 12h or 30m."""
    found = _LIFETIME.fullmatch(value)
    if found is None:
        raise click.BadParameter("a lifetime is a number of days, hours or minutes: 90d, 12h, 30m")
    try:
        return int(found[1]) * UNITS[found[2]]
    except OverflowError:
        raise click.BadParameter("that is longer than any lifetime") from None


@click.group(cls=Group)
def keys() -> None:
    """
    Make, list and revoke API keys.

    A client makes requests and sees its own; an operator sees all, replays and cancels; an admin may do everything.
    """


@keys.command(cls=Command)
@click.argument("name")
@click.option(
    "--role", required=True, type=click.Choice(get_args(api_keys.Role)), help="The rights of the key."
)
@click.option(
    "--client",
    type=identifier,
    metavar="ID",
    help="Make a second key of this client. Without it, the key has a client of its own.",
)
@click.option(
    "--expires",
    type=lifetime,
    metavar="90d|12h|30m",
    help="The lifetime in days, hours or minutes. Without it, the key works until it is revoked.",
)
def create(name: str, role: str, client: str | None, expires: timedelta | None) -> None:
    """
    Make a key called NAME, and print it once. Only its digest is stored.

    \b
    KEY=$(teller keys create shop --role client)
    curl -H "Authorization: Bearer $KEY" http://127.0.0.1:8000/v1/requests
    """  # noqa: D301 - \b makes click keep the lines
    with reached() as (connection, _):
        created = api_keys.create_key(
            connection, name, role, client, lifetime=expires, actor=operator().actor
        )
    show(created.document(), lambda: created.key)
    if not as_json():
        click.echo(f"{role} key {created.id} of client {created.client}; it is shown this once", err=True)


@keys.command("list", cls=Command)
def list_() -> None:
    """
    List all keys, revoked ones included, newest first, without their secrets.
    """
    with reached() as (connection, _):
        found = key_queries.list_keys(connection).rows
    show(
        {"data": [key.document() for key in found]},
        lambda: table(
            ("id", "name", "role", "client", "created", "revoked", "expires", "last used"),
            [
                (
                    str(key.id),
                    key.name,
                    key.role,
                    key.client,
                    key.created_at,
                    key.revoked_at,
                    key.expires_at,
                    key.last_used_at,
                )
                for key in found
            ],
            spare=("revoked", "expires", "last used", "created"),
        ),
    )


@keys.command(cls=Command)
@click.argument("key", metavar="ID", type=click.UUID)
def revoke(key: UUID) -> None:
    """
    Revoke the key ID. It stops working within a second; its client and that client's requests stay.
    """
    with reached() as (connection, _):
        was_valid = api_keys.revoke_key(connection, key, actor=operator().actor)
    show(
        {"id": str(key), "revoked": was_valid},
        lambda: f"{'revoked' if was_valid else 'was revoked already:'} {key}",
    )
