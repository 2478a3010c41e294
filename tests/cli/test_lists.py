"""
`teller resources`, `teller webhooks` and the completion of the shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import click.shell_completion
import pytest

from processor.clients import webhooks
from teller.root import COMMANDS
from teller.root import teller as root

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result
    from tests.store.store import Store


def test_resources_are_listed_and_shown(
    teller: Callable[..., Result], store: Store, terminal: Callable[[int], None]
) -> None:
    """
    Amounts are printed as people write them, also in 80 columns. An unknown resource is an error of one line.
    """
    store.open("cash", "balance", 12_345, unit="EUR", decimals=2)
    store.open("seat", available=1)

    assert [one["id"] for one in teller("resources", "list", "--json").document["data"]] == ["seat", "cash"]
    assert [row[:3] for row in teller("resources", "list", "--kind", "balance").rows] == [
        ["cash", "balance", "123.45 EUR"]
    ]
    shown = teller("resources", "show", "cash")
    assert ["available", "123.45 EUR"] in shown.rows
    assert "no resource lost" in teller("resources", "show", "lost", "--json").refuses(1, "not_found")
    terminal(80)
    lines = click.unstyle(teller("resources", "list").out).splitlines()
    assert lines[0] == "2 resources"
    assert all(len(line) <= 80 for line in lines)


def test_webhooks_are_listed_with_their_failures(
    teller: Callable[..., Result], store: Store, terminal: Callable[[int], None]
) -> None:
    """
    A webhook that fails has the time, the failures and the error, also in 80 columns.
    """
    store.owner.execute("INSERT INTO clients (id) VALUES ('shop')")
    hook, _ = webhooks.register(store.owner, "shop", f"https://shop.example/{'x' * 90}", None, "test")
    store.owner.execute(
        "UPDATE webhooks SET failing_since = now(), failing_tries = 2110, failing_error = 'no connection'"
    )

    [one] = teller("webhooks", "list", "--state", "failing", "--json").document["data"]
    assert (one["id"], one["failing"]["tries"], one["failing"]["error"]) == (
        str(hook.id),
        2110,
        "no connection",
    )
    assert teller("webhooks", "list", "--state", "disabled").rows == []
    terminal(80)
    line = click.unstyle(teller("webhooks", "list").out).splitlines()[2]
    assert line.split()[0] == str(hook.id)
    assert "failing" in line
    assert "2110" in line
    assert len(line) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_completes_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The documented line makes a script for the shell, which asks for the commands that begin as the person typed.
    """
    monkeypatch.setenv("COMP_WORDS", "teller re")
    monkeypatch.setenv("COMP_CWORD", "1")
    complete = click.shell_completion.get_completion_class(shell)
    assert complete is not None
    completion = complete(root, {}, "teller", "_TELLER_COMPLETE")

    assert "_TELLER_COMPLETE" in completion.source()
    found = {one.value for one in completion.get_completions(["requests"], "ap")}
    assert found == {"approve"}
    assert {one.value for one in completion.get_completions([], "re")} == {
        name for name in COMMANDS if name.startswith("re")
    }
