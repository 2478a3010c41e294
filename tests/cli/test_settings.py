"""
`teller settings`: every setting with its value, default and meaning, and no secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from teller.commands.settings import HIDDEN, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result


def test_each_setting_has_its_value_its_default_and_its_meaning(
    teller: Callable[..., Result], terminal: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A program gets all four fields. A terminal shows the default where nothing is set, in at most its columns.
    """
    monkeypatch.setenv("TELLER_GATEWAY_TRIES", "3")
    found = {one["name"]: one for one in teller("settings", "--json").document["data"]}
    terminal(80)
    text = click.unstyle(teller("settings").out)

    assert found["TELLER_GATEWAY_TRIES"] == {
        "name": "TELLER_GATEWAY_TRIES",
        "value": "3",
        "default": "6",
        "meaning": "Calls of one effect before its request is failed.",
    }
    assert found["TELLER_BACKLOG_LIMIT"]["value"] is None
    assert "TELLER_GATEWAY_TRIES  3 (default: 6)\n    Calls of one effect" in text
    assert "TELLER_BACKLOG_LIMIT  2000000 (default)\n" in text
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith("    "))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELLER_SECRET", "0123456789abcdef"),
        ("DATABASE_URL", "postgresql://teller:hidden@db/teller"),
        ("DATABASE_URL", "postgresql://db/teller?password=hidden"),
        ("DATABASE_URL", "host=db password=hidden"),
        ("TELLER_SMTP_URL", "smtp://hidden@mail"),
        ("REDIS_URL", "redis://[::1:hidden@"),
    ],
)
def test_secrets_and_passwords_are_hidden(name: str, value: str) -> None:
    """
    A value that may contain a password is not printed, in whatever form it is written.
    """
    assert shown(name, value) == HIDDEN


def test_an_address_without_a_password_is_shown() -> None:
    """
    Addresses help only if they can be read.
    """
    assert shown("DATABASE_URL", "postgresql://db/teller") == "postgresql://db/teller"
