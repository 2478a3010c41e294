"""
`teller export`: the tools that read the files are the judges.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from processor.domain.model import MAX_QUANTITY
from tests.store.history import play

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.result import Result
    from tests.store.store import Store

#: Installed for this test alone: nothing of Teller needs it.
BEANCOUNT = "beancount==3.2.3"
#: The time for an installation, in seconds.
INSTALL_SECONDS = 120
ADA = "Assets:Teller:Rwallet-3Aada"


@pytest.fixture(scope="session")
def bean_check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The checker of beancount, in an environment of its own, which later runs find in the cache.
    """
    assert request.config.cache is not None
    home = request.config.cache.mkdir(BEANCOUNT.replace("==", "-"))
    checker: Path = home / "bin" / "bean-check"
    if not checker.exists():
        made = tmp_path_factory.mktemp("beancount")
        for command in (
            [sys.executable, "-m", "venv", str(made)],
            [str(made / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:", BEANCOUNT],
            [sys.executable, "-m", "venv", "--without-pip", str(home)],
        ):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if done.returncode:
                pytest.skip(f"without {BEANCOUNT}: {done.stderr.strip().splitlines()[-1:]}")
        lib = next((home / "lib").iterdir()) / "site-packages"
        shutil.copytree(next((made / "lib").iterdir()) / "site-packages", lib, dirs_exist_ok=True)
        script = made / "bin" / "bean-check"
        partial = home / "bin" / f"bean-check.{made.name}"
        partial.write_text(script.read_text().replace(str(made), str(home)))
        partial.chmod(0o755)
        partial.rename(checker)  # the last step, so that a checker that is there is whole
    return checker


@pytest.fixture
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str | None]:
    """
    Return a function that gives a file to the tool of its format. It returns None, or the complaint of the tool.
    """

    def check(name: str, text: str) -> str | None:
        path = tmp_path / f"ledger.{name}"
        path.write_text(text)
        if name == "hledger":
            if shutil.which("hledger") is None:
                pytest.skip("without hledger (Debian: apt-get install hledger)")
            command = ["hledger", "-f", f"{name}:{path}".replace("hledger:", "journal:"), "check"]
        else:
            command = [str(request.getfixturevalue("bean_check")), "--no-cache", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        return done.stdout + done.stderr if done.returncode else None

    return check


@pytest.fixture
def books(store: Store) -> Store:
    """
    Resources of several units, with each kind of entry, an overdraft, the largest quantity, and no entry at all.
    """
    store.owner.execute("INSERT INTO clients (id) VALUES ('shop'), ('other')")
    store.open("wallet:ada", "balance", 25_000, unit="EUR", decimals=2, overdraft=50_000)
    store.open("wallet.ada", "points", MAX_QUANTITY, unit="points")
    store.open("-_~@", "balance", MAX_QUANTITY, unit="€", decimals=9)
    store.open("bank", "balance", 1_000, gateway="sandbox")
    store.open("Bank", "stock", 0)
    asked = store.accept(
        store.asks("withdrawal", "wallet:ada", "u_1", 40_001),
        store.asks("withdrawal", "wallet:ada", "u-5F1", 1, client="other"),
        store.asks("deposit", "wallet:ada", amount=7),
        store.asks("withdrawal", "wallet.ada", "u_1", MAX_QUANTITY),
        store.asks("withdrawal", "-_~@", "u_1", 1),
        store.asks("withdrawal", "bank", "u_1", 10),
        store.asks("withdrawal", "bank", "u_1", 20),
    )
    for resource in ("wallet:ada", "wallet.ada", "-_~@", "bank"):
        store.drain(resource)
    assert store.statuses(asked)[:5] == ["completed"] * 5
    return store


@pytest.mark.parametrize("name", ["hledger", "beancount"])
def test_the_tools_accept_the_ledger_and_refuse_a_changed_one(
    teller: Callable[..., Result], books: Store, tool: Callable[[str, str], str | None], name: str
) -> None:
    """
    Also one that was changed by the smallest amount, in an entry or in a balance.
    """
    exported = teller("export", "--format", name)
    assert (exported.status, exported.err) == (0, "")
    assert tool(name, exported.out) is None
    for amount in ("400.01", "9007199254740991", "9007199.254740990", "-149.95"):
        assert amount in exported.out, exported.out

    changed = exported.out.replace("400.01", "400.02")
    assert changed.count("400.02") == 2
    assert ADA in (tool(name, changed) or "")
    assert ADA in (tool(name, exported.out.replace("-149.95", "-149.96")) or "")
    assert tool(name, exported.out.replace("9007199.254740990", "9007199.254740991")) is not None


@pytest.mark.parametrize("name", ["hledger", "beancount"])
def test_every_kind_of_entry_is_balanced(
    teller: Callable[..., Result],
    store: Store,
    tool: Callable[[str, str], str | None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """
    Captures, releases, refunds and exchanges, too.
    """
    play(store, monkeypatch)
    exported = teller("export", "--format", name)

    kinds = re.findall(r'^\d{4}-\d\d-\d\d \* "?(\w+)', exported.out, re.MULTILINE)
    assert {"credit", "debit", "hold", "capture", "release"} <= set(kinds)
    assert tool(name, exported.out) is None


@pytest.mark.parametrize("name", ["hledger", "beancount"])
def test_a_period_begins_with_what_was_carried_forward(
    teller: Callable[..., Result], books: Store, tool: Callable[[str, str], str | None], name: str
) -> None:
    """
    The periods before and after a time have all entries together, and each is balanced.
    """
    [(middle,)] = books.owner.execute(
        "SELECT created_at FROM entries WHERE resource_id = 'wallet:ada' AND version = 3"
    ).fetchall()
    first = teller("export", "--format", name, "--until", middle.isoformat())
    second = teller("export", "--format", name, "--since", middle.isoformat())
    ada = teller("export", "--format", name, "--resource", "wallet:ada", "--resource", "bank")
    nothing = teller("export", "--format", name, "--until", "2000-01-01")

    entries = re.compile(r"entry: \"?([^\"\n, ]+)")
    everything = set(entries.findall(teller("export", "--format", name).out))
    parts = [set(entries.findall(one.out)) for one in (first, second)]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert "carried forward" not in first.out
    assert "carried forward" in second.out
    assert {one.partition("/")[0] for one in entries.findall(ada.out)} == {"wallet:ada", "bank"}
    for exported in (first, second, ada, nothing):
        assert (exported.status, tool(name, exported.out)) == (0, None)


def test_a_spreadsheet_gets_decimals_and_balances(teller: Callable[..., Result], books: Store) -> None:
    """
    Each resource ends with its balance. The client of an entry is the one whose account it is.
    """
    rows = list(csv.DictReader(teller("export", "--format", "csv").out.splitlines()))
    ada = [row for row in rows if row["resource"] == "wallet:ada"]

    assert [(row["record"], row["kind"], row["amount"], row["available"], row["unit"]) for row in ada] == [
        ("entry", "credit", "250.00", "250.00", "EUR"),
        ("entry", "debit", "400.01", "-150.01", "EUR"),
        ("entry", "debit", "0.01", "-150.02", "EUR"),
        ("entry", "credit", "0.07", "-149.95", "EUR"),
        ("balance", "", "", "-149.95", "EUR"),
    ]
    assert [(row["client"], row["account"]) for row in ada[1:3]] == [("shop", "u_1"), ("other", "u-5F1")]
    balances = {row["resource"]: row["available"] for row in rows if row["record"] == "balance"}
    stored: dict[str, int] = dict(books.owner.execute("SELECT id, available FROM resources").fetchall())
    assert balances.keys() == stored.keys()
    assert balances["-_~@"] == "9007199.254740990"
    assert (balances["Bank"], balances["bank"]) == ("0", str(stored["bank"]))


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--format", "xml"), 2, "csv"),
        ((), 2, "--format"),
        (("--format", "csv", "--resource", "no such/one"), 2, "an id has"),
        (("--format", "csv", "--since", "yesterday"), 2, "2026-11-01T12:00:00Z"),
        (("--format", "csv", "--since", "2026-11-01T12:00:00"), 2, "2026-11-01T12:00:00Z"),
        (("--format", "csv", "--since", "2026-11-02", "--until", "2026-11-01"), 2, "before --until"),
        (("--format", "csv", "--resource", "x", "--resource", "y"), 1, "there is no resource x, y"),
    ],
)
def test_bad_input_is_one_line(
    teller: Callable[..., Result], store: Store, arguments: tuple[str, ...], status: int, text: str
) -> None:
    """
    Nothing is printed on standard output before it is checked.
    """
    refused = teller("export", *arguments)

    assert (refused.status, refused.out, refused.err.count("\n")) == (status, "", 1)
    assert text in refused.err
