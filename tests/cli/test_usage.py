"""
The end of every command: its exit status, and one line for each error, as text or as JSON.
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

    from tests.cli.result import Result

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
def test_wrong_usage_is_one_line_and_status_2(
    run_teller: Callable[..., Result], words: tuple[str, ...]
) -> None:
    """
    Wrong arguments are refused before any other work. The line names the error and mentions --help.
    """
    printed = run_teller(*words)

    assert (printed.status, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith("teller: ")
    assert "--help" in printed.err
    assert run_teller(*words, "--json").refuses(2, "usage") in printed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_json(
    run_teller: Callable[..., Result], command: str
) -> None:
    """
    --help describes each command. Each command, and each command of a group, has --json.
    """
    printed = run_teller(command, "--help")
    assert (printed.status, printed.err) == (0, "")

    listed = printed.out.partition("Commands:\n")[2]
    inner = [line.split()[0] for line in listed.splitlines()]
    texts = [run_teller(command, word, "--help").out for word in inner] or [printed.out]
    assert all("--json" in text for text in texts)


def test_teller_without_a_command_lists_all_commands(run_teller: Callable[..., Result]) -> None:
    """
    `teller` alone is wrong usage, so the list of commands goes to standard error.
    """
    printed = run_teller()

    assert (printed.status, printed.out) == (2, "")
    assert all(f"  {command}" in printed.err for command in COMMANDS)


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
def test_an_invalid_setting_is_named(
    clean_environment: None,
    run_teller: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    command: tuple[str, ...],
) -> None:
    """
    An invalid setting ends with status 1 and one line with the variable, but no password. No home is created.
    """
    with temporary_home() as home:
        # Commands that do not read the setting must find no running Teller.
        monkeypatch.setenv("TELLER_HOME", str(home / "none"))
        monkeypatch.setenv(variable, value)
        printed = run_teller(*command)

        assert (printed.status, printed.out, printed.err.count("\n")) == (1, "", 1)
        assert variable in printed.err
        assert "hidden" not in printed.err
        assert not (home / "none").exists()


def test_a_home_without_a_teller_is_reported_and_not_changed(
    clean_environment: None, run_teller: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A command that only reads creates no database. The error suggests `teller up`.
    """
    with temporary_home() as home:
        monkeypatch.setenv("TELLER_HOME", str(home))

        detail = run_teller("requests", "list", "--json").refuses(1, "schema_mismatch")

        assert str(home) in detail
        assert "teller up" in detail
        assert list(home.iterdir()) == []


def test_an_unavailable_database_is_reported_without_its_password(
    teller: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The error is one line that names DATABASE_URL and hides the password.
    """
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:secret@127.0.0.1:1/teller")

    detail = teller("keys", "list", "--json").refuses(1, "database_unavailable")

    assert detail.startswith("DATABASE_URL: ")
    assert "secret" not in detail


def test_an_older_database_is_refused_until_it_is_migrated(
    teller: Callable[..., Result], version_2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `teller migrate` prints one line for each migration. Until then, every command reports that it must be run.
    """
    monkeypatch.setenv("DATABASE_URL", version_2)
    refusal = teller("verify", "--json").refuses(1, "schema_mismatch")
    assert refusal == (
        f"the database has schema version 2, and this Teller needs {SCHEMA_VERSION}: run `teller migrate`"
    )

    migrated = teller("migrate")

    *lines, done = migrated.out.splitlines()
    applied = [
        line for line in lines if line.startswith("applied ")
    ]  # the others are repairs of a restored dump
    assert applied == [f"applied {migration.name}" for migration in files.read()]
    assert done == f"migrated the schema from version 2 to {SCHEMA_VERSION}"
    assert (migrated.status, migrated.err) == (0, "")
    assert teller("verify").status == 0


def test_migrations_are_listed_in_json(
    teller: Callable[..., Result], version_2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With `--json` there is one document with the names of the migrations.
    """
    monkeypatch.setenv("DATABASE_URL", version_2)

    document = teller("migrate", "--json").document

    # Its marks are repaired, too, if this server has begun fewer transactions than the one that it is from.
    assert [line.split(":")[0] for line in document.pop("repaired")][:4] == [
        f"set the settings of the role teller_{role}" for role in ("api", "archive", "courier", "worker")
    ]
    assert document == {
        "migrated": f"migrated the schema from version 2 to {SCHEMA_VERSION}",
        "applied": [migration.name for migration in files.read()],
    }


def test_a_database_without_the_schema_is_refused_until_it_is_migrated(
    teller: Callable[..., Result], empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `teller migrate` makes the schema, and a second run changes nothing. Another number of partitions is refused.
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
        "repaired": [],
    }
    assert teller("keys", "list", "--json").document == {"data": []}
    monkeypatch.setenv("TELLER_PARTITIONS", "8")
    assert "made with 64" in teller("migrate", "--json").refuses(1, "schema_mismatch")


def test_the_openapi_document_needs_no_setting(
    clean_environment: None, run_teller: Callable[..., Result]
) -> None:
    """
    `teller openapi` prints JSON without a database, with or without --json.
    """
    printed = run_teller("openapi")

    assert json.loads(printed.out)["openapi"].startswith("3.1")
    assert run_teller("openapi", "--json").document == json.loads(printed.out)


def test_a_closed_pipe_is_not_an_error() -> None:
    """
    `teller openapi | head -c 1` ends without a message.
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
