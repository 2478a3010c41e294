"""
Keys from the command line: made, shown once, listed, revoked.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from processor.clients import keys
from processor.storage import connections as db

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.said import Said
    from tests.servers import Database


def caller(database: Database, key: str) -> keys.Caller | None:
    """Whom the API would take it for."""
    with db.connect(database.url, application_name="test") as connection:
        return keys.authenticate(connection, keys.digest_of(key))


def test_a_new_key_is_all_that_is_printed_and_it_works(
    teller: Callable[..., Said], database: Database
) -> None:
    """
    `KEY=$(teller keys create …)` is the key of a client of its own; the rest is said on standard error.
    """
    said = teller("keys", "create", "shop", "--role", "client")

    assert said.status == 0
    who = caller(database, said.out.removesuffix("\n"))
    assert who is not None
    assert (who.name, who.role) == ("shop", "client")
    assert who.client in said.err
    assert said.out.strip() not in said.err


def test_a_second_key_of_a_client(teller: Callable[..., Said], database: Database) -> None:
    """
    With --client it belongs to that client; a client that nobody knows is refused.
    """
    first = teller("keys", "create", "shop", "--role", "client", "--json").document
    second = teller(
        "keys", "create", "spare", "--role", "client", "--client", first["client"], "--json"
    ).document

    assert set(second) == {"id", "client", "name", "role", "key"}
    assert second["client"] == first["client"]
    refused = teller("keys", "create", "x", "--role", "client", "--client", "nobody", "--json")
    assert "nobody" in refused.refuses(1, "key_refused")


def test_listed_keys_show_everything_but_the_key(teller: Callable[..., Said]) -> None:
    """
    Newest first, as lines of columns in a pipe, as one document for programs; the secret is in neither.
    """
    made = [
        teller("keys", "create", name, "--role", name, "--json").document for name in ("operator", "admin")
    ]

    text, document = teller("keys", "list"), teller("keys", "list", "--json").document

    assert [row[:4] for row in text.rows] == [
        [key["id"], key["name"], key["role"], key["client"]] for key in reversed(made)
    ]
    assert [key["id"] for key in document["data"]] == [key["id"] for key in reversed(made)]
    assert not any(key["key"] in text.out + str(document) for key in made)


def test_a_revoked_key_is_nobodys(teller: Callable[..., Said], database: Database) -> None:
    """
    Revoking twice is harmless; revoking what isn't there is a failure.
    """
    made = teller("keys", "create", "shop", "--role", "client", "--json").document

    assert teller("keys", "revoke", made["id"], "--json").document == {"id": made["id"], "revoked": True}
    assert teller("keys", "revoke", made["id"], "--json").document == {"id": made["id"], "revoked": False}

    assert caller(database, made["key"]) is None
    assert teller("keys", "list").rows[0][5] != ""
    stranger = str(uuid.uuid4())
    assert stranger in teller("keys", "revoke", stranger, "--json").refuses(1, "key_not_found")


def test_a_name_that_a_terminal_would_obey_is_refused(teller: Callable[..., Said]) -> None:
    """
    Names are printable; nothing is made.
    """
    teller("keys", "create", "\x1b[31mred", "--role", "client", "--json").refuses(1, "key_refused")
    teller("keys", "create", "", "--role", "client", "--json").refuses(1, "key_refused")

    assert teller("keys", "list").out == ""


def test_a_key_that_expires_says_when(teller: Callable[..., Said], database: Database) -> None:
    """
    In days, hours or minutes; told in both forms and in the list; one without says nothing of it.
    """
    made = teller("keys", "create", "shop", "--role", "client", "--expires", "90d", "--json").document
    plain = teller("keys", "create", "shop", "--role", "client", "--json").document
    expires = datetime.fromisoformat(made["expires_at"])

    assert "expires_at" not in plain
    assert abs(expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)
    [listed, first] = teller("keys", "list", "--json").document["data"]
    assert (listed["expires_at"], listed["last_used_at"]) == (None, None)
    assert first["expires_at"] == made["expires_at"]
    assert teller("keys", "list").rows[1][6] != ""
    assert caller(database, made["key"]) is not None


@pytest.mark.parametrize("lifetime", ["0d", "4000d", "999999999d", "90", "-1d", "1w", "", "9" * 40 + "d"])
def test_a_lifetime_that_makes_no_sense_makes_no_key(teller: Callable[..., Said], lifetime: str) -> None:
    """
    One line says why.
    """
    said = teller("keys", "create", "shop", "--role", "client", f"--expires={lifetime}", "--json")

    assert said.status in (1, 2)
    assert len(said.err.splitlines()) == 1
    assert teller("keys", "list").out == ""
