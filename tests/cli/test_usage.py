"""
How every command ends: its exit status, and one line for whatever went wrong, for people or as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from processor.storage.migrations import SCHEMA_VERSION, files
from teller.root import COMMANDS
from tests.servers import temporary_home

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.said import Said

MISUSES = (
    ("nonsense",),
    ("up", "--port", "0"),
    ("up", "--port", "65536"),
    ("up", "--workers", "none"),
    ("keys", "create", "shop"),
    ("keys", "create", "shop", "--role", "king"),
    ("keys", "create", "shop", "--role", "client", "--client", "a b"),
    ("keys", "revoke", "17"),
    ("requests", "list", "--status", "lost"),
    ("requests", "list", "--kind", "theft"),
    ("requests", "list", "--limit", "0"),
    ("requests", "list", "--account", "über"),
    ("requests", "show"),
    ("requests", "cancel", "x"),
    ("partitions", "pause", "-1"),
    ("partitions", "resume", "seven"),
    ("failed", "replay", "--reason", "r"),
    ("failed", "replay", "--all"),
    ("failed", "replay", "--all", "--reason", " "),
    ("failed", "replay", "00000000-0000-0000-0000-000000000000", "--all", "--reason", "r"),
    ("failed", "replay", "00000000-0000-0000-0000-000000000000", "--code", "x", "--reason", "r"),
    ("failed", "refund", "00000000-0000-0000-0000-000000000000"),
    ("verify", "everything"),
)


@pytest.mark.parametrize("words", MISUSES, ids=" ".join)
def test_wrong_usage_is_one_line_and_status_2(speak: Callable[..., Said], words: tuple[str, ...]) -> None:
    """
    Nothing is looked at before the words make sense; the line says what is wrong and where help is.
    """
    said = speak(*words)

    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("teller: ")
    assert "--help" in said.err
    assert speak(*words, "--json").refuses(2, "usage") in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_json(speak: Callable[..., Said], command: str) -> None:
    """
    --help says what it does; each command, or each of a group's, has --json.
    """
    said = speak(command, "--help")
    assert (said.status, said.err) == (0, "")

    listed = said.out.partition("Commands:\n")[2]
    inner = [line.split()[0] for line in listed.splitlines()]
    texts = [speak(command, word, "--help").out for word in inner] or [said.out]
    assert all("--json" in text for text in texts)


def test_without_a_command_it_shows_them_all(speak: Callable[..., Said]) -> None:
    """
    `teller` alone is wrong usage, and helps: on standard error, for it is no answer.
    """
    said = speak()

    assert (said.status, said.out) == (2, "")
    assert all(f"  {command}" in said.err for command in COMMANDS)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TELLER_PORT", "http"),
        ("TELLER_PARTITIONS", "0"),
        ("DATABASE_URL", "mysql://root:hidden@localhost/teller"),
        ("REDIS_URL", "localhost:6379"),
        ("TELLER_GATEWAYS", "bank"),
    ],
)
@pytest.mark.parametrize(
    "command", [("up",), ("api",), ("worker",), ("courier",), ("migrate",), ("keys", "list")]
)
def test_a_setting_that_makes_no_sense_is_named(
    outside: None,
    speak: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    command: tuple[str, ...],
) -> None:
    """
    Status 1 and one line with the variable, without a password that may stand in it; nothing is made.
    """
    with temporary_home() as home:
        # Where the settings are right after all, there must be no Teller to be found.
        monkeypatch.setenv("TELLER_HOME", str(home / "none"))
        monkeypatch.setenv(variable, value)
        said = speak(*command)

        assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
        assert variable in said.err
        assert "hidden" not in said.err
        assert not (home / "none").exists()


def test_a_home_without_a_teller_is_told_and_left_alone(
    outside: None, speak: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A command that only looks makes no database: it says what to do.
    """
    with temporary_home() as home:
        monkeypatch.setenv("TELLER_HOME", str(home))

        detail = speak("requests", "list", "--json").refuses(1, "schema_mismatch")

        assert str(home) in detail
        assert "teller up" in detail
        assert list(home.iterdir()) == []


def test_a_database_that_is_away_is_told_without_its_password(
    teller: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One line that names DATABASE_URL.
    """
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:secret@127.0.0.1:1/teller")

    detail = teller("keys", "list", "--json").refuses(1, "database_unavailable")

    assert detail.startswith("DATABASE_URL: ")
    assert "secret" not in detail


def test_an_older_database_is_refused_until_it_is_migrated(
    teller: Callable[..., Said], version_2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `teller migrate` prints one line for each migration; before it, every command says to run it.
    """
    monkeypatch.setenv("DATABASE_URL", version_2)
    refusal = teller("verify", "--json").refuses(1, "schema_mismatch")
    assert refusal == (
        f"the database has schema version 2, and this Teller needs {SCHEMA_VERSION}: run `teller migrate`"
    )

    migrated = teller("migrate")

    *applied, done = migrated.out.splitlines()
    assert applied == [f"applied {migration.name}" for migration in files.read()]
    assert done == f"migrated the schema from version 2 to {SCHEMA_VERSION}"
    assert (migrated.status, migrated.err) == (0, "")
    assert teller("verify").status == 0


def test_migrations_are_listed_in_json(
    teller: Callable[..., Said], version_2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With `--json` there is one document, with the names of the migrations.
    """
    monkeypatch.setenv("DATABASE_URL", version_2)

    assert teller("migrate", "--json").document == {
        "migrated": f"migrated the schema from version 2 to {SCHEMA_VERSION}",
        "applied": [migration.name for migration in files.read()],
    }


def test_a_database_without_the_schema_is_told_what_to_do(
    teller: Callable[..., Said], empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And after `teller migrate` it works; migrating again changes nothing; with other partitions it is refused.
    """
    monkeypatch.setenv("DATABASE_URL", empty_database)
    assert "teller migrate" in teller("keys", "list", "--json").refuses(1, "schema_mismatch")

    first = teller("migrate")
    again = teller("migrate", "--json")

    assert (first.status, first.out) == (
        0,
        f"made the schema, version {SCHEMA_VERSION}, with 64 partitions\n",
    )
    assert again.document == {
        "migrated": f"the schema is at version {SCHEMA_VERSION} already; 64 partitions",
        "applied": [],
    }
    assert teller("keys", "list", "--json").document == {"data": []}
    monkeypatch.setenv("TELLER_PARTITIONS", "8")
    assert "made with 64" in teller("migrate", "--json").refuses(1, "schema_mismatch")


def test_the_openapi_document_needs_nothing_else(outside: None, speak: Callable[..., Said]) -> None:
    """
    It is printed without a database, as JSON, whether or not it is asked for as JSON.
    """
    said = speak("openapi")

    assert json.loads(said.out)["openapi"].startswith("3.1")
    assert speak("openapi", "--json").document == json.loads(said.out)


def test_a_reader_that_has_seen_enough_is_no_accident() -> None:
    """
    `teller openapi | head -c 1` ends quietly.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "teller", "openapi"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
