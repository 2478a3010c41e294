"""
Keys on the command line: create, show once, list, revoke.
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

    from tests.cli.result import Result
    from tests.servers import Database


def authenticate(database: Database, key: str) -> keys.Caller | None:
    """Return the caller for which the API takes this key."""
    with db.connect(database.url, application_name="test") as connection:
        return keys.authenticate(connection, keys.digest_of(key))


def test_a_new_key_is_all_that_is_printed_and_it_works(
    teller: Callable[..., Result], database: Database
) -> None:
    """
    `KEY=$(teller keys create …)` is the key of a new client. All other text goes to standard error.
    """
    printed = teller("keys", "create", "shop", "--role", "client")

    assert printed.status == 0
    caller = authenticate(database, printed.out.removesuffix("\n"))
    assert caller is not None
    assert (caller.name, caller.role) == ("shop", "client")
    assert caller.client in printed.err
    assert printed.out.strip() not in printed.err


def test_a_second_key_of_a_client(teller: Callable[..., Result], database: Database) -> None:
    """
    With --client the key belongs to that client. An unknown client is refused.
    """
    first = teller("keys", "create", "shop", "--role", "client", "--json").document
    second = teller(
        "keys", "create", "spare", "--role", "client", "--client", first["client"], "--json"
    ).document

    assert set(second) == {"id", "client", "name", "role", "key"}
    assert second["client"] == first["client"]
    refused = teller("keys", "create", "x", "--role", "client", "--client", "nobody", "--json")
    assert "nobody" in refused.refuses(1, "key_refused")


def test_listed_keys_show_everything_but_the_key(teller: Callable[..., Result]) -> None:
    """
    Keys are listed newest first, as columns in a pipe or as one JSON document. Neither contains the secret.
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


def test_a_revoked_key_authenticates_no_caller(teller: Callable[..., Result], database: Database) -> None:
    """
    Revoking twice is harmless. Revoking an unknown key is an error.
    """
    made = teller("keys", "create", "shop", "--role", "client", "--json").document

    assert teller("keys", "revoke", made["id"], "--json").document == {"id": made["id"], "revoked": True}
    assert teller("keys", "revoke", made["id"], "--json").document == {"id": made["id"], "revoked": False}

    assert authenticate(database, made["key"]) is None
    assert teller("keys", "list").rows[0][5] != ""
    unknown_id = str(uuid.uuid4())
    assert unknown_id in teller("keys", "revoke", unknown_id, "--json").refuses(1, "key_not_found")


def test_a_name_with_control_characters_is_refused(teller: Callable[..., Result]) -> None:
    """
    Names are printable, so that no name changes the terminal. A refused name creates no key.
    """
    teller("keys", "create", "\x1b[31mred", "--role", "client", "--json").refuses(1, "key_refused")
    teller("keys", "create", "", "--role", "client", "--json").refuses(1, "key_refused")

    assert teller("keys", "list").out == ""


def test_an_expiry_is_shown_when_a_key_has_one(teller: Callable[..., Result], database: Database) -> None:
    """
    The expiry is given in days, hours or minutes. It is shown after creation and in the list, in both formats.
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
    assert authenticate(database, made["key"]) is not None


@pytest.mark.parametrize("lifetime", ["0d", "4000d", "999999999d", "90", "-1d", "1w", "", "9" * 40 + "d"])
def test_an_invalid_lifetime_creates_no_key(teller: Callable[..., Result], lifetime: str) -> None:
    """
    An invalid lifetime is an error of one line.
    """
    printed = teller("keys", "create", "shop", "--role", "client", f"--expires={lifetime}", "--json")

    assert printed.status in (1, 2)
    assert len(printed.err.splitlines()) == 1
    assert teller("keys", "list").out == ""
