"""
docs/configuration.md: every setting with its default and range, as the code has them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from processor.errors import SettingsError
from processor.settings import WORKERS_DEFAULT_MAX, Settings
from teller.commands.meanings import SETTINGS

CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


class Row(NamedTuple):
    """One line of a table in docs/configuration.md."""

    variable: str
    meaning: str
    unit: str
    default: str
    range: str


def configuration_rows() -> list[Row]:
    """Return the rows of all tables whose first column is a variable."""
    rows = []
    for line in CONFIGURATION.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(Row._fields):
            rows.append(Row(cells[0].strip("`"), *cells[1:]))
    return rows


ROWS = configuration_rows()


class Recording(dict[str, str]):
    """An environment that remembers which variables were read."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value, as a dictionary does."""
        self.read.add(key)
        return super().get(key, default)


@pytest.fixture
def _ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("_ordinary_user")
def test_every_setting_is_documented_and_nothing_else() -> None:
    """
    The tables name exactly the variables that the settings read, each once.
    """
    environment = Recording({"HOME": "/home/ada"})
    Settings.from_environment(environment)

    assert sorted(row.variable for row in ROWS) == sorted(environment.read)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable)
def test_a_documented_default_is_that_of_the_code(row: Row) -> None:
    """
    A default in backticks is the value that an unset variable has.
    """
    settings = Settings.from_environment({"HOME": "/home/ada", "TELLER_HOME": "/home/ada/teller"})
    field = row.variable.removeprefix("TELLER_").lower()
    match row.variable:
        case "HOME" | "XDG_DATA_HOME" | "TELLER_HOME" | "PORT" | "TELLER_LOG_LEVEL":
            return  # tests of their own
        case "TELLER_WORKERS":
            assert row.default == f"the number of cores, at most {WORKERS_DEFAULT_MAX}"
            assert settings.workers == min(os.cpu_count() or 1, WORKERS_DEFAULT_MAX)
        case "TELLER_LAB":
            outside = {"DATABASE_URL": "postgresql://db/teller", "TELLER_SECRET": "0123456789abcdef"}
            assert row.default == "`1` without `DATABASE_URL`, else `0`"
            assert (settings.lab, Settings.from_environment({"HOME": "/", **outside}).lab) == (True, False)
        case "TELLER_GATEWAYS":
            assert row.default == "`" + ",".join(f"{k}={v}" for k, v in settings.gateways.items()) + "`"
        case "TELLER_GATEWAY_CALLS":
            assert row.default == f"`{settings.calls_at_once('bank')}`"
        case "TELLER_SECRET" | "TELLER_GATEWAY_SECRET":
            assert row.default == "generated if PostgreSQL is embedded"
            assert getattr(settings, field) == ""
        case _ if row.variable.endswith("_DATABASE_URL"):
            assert row.default == "as `DATABASE_URL`"
            assert getattr(settings, field) == settings.database_url
        case _ if row.default == "unset":
            assert not getattr(settings, field)
        case _:
            value = getattr(settings, field)
            shown = value if isinstance(value, str) else f"{value:.15g}"
            assert row.default == f"`{shown}`"


def test_the_port_and_the_level_of_the_log_have_the_documented_defaults() -> None:
    """
    PORT counts while TELLER_PORT is unset. A terminal has only warnings, and everything else all lines.
    """
    rows = {row.variable: row.default for row in ROWS}
    ports = [{}, {"PORT": "5000"}, {"PORT": "5000", "TELLER_PORT": "1"}]

    assert [Settings.from_environment({"HOME": "/"} | one).port for one in ports] == [8000, 5000, 1]
    assert (rows["PORT"], rows["TELLER_LOG_LEVEL"]) == ("unset", "`warning` at a terminal, else `info`")
    assert Settings.from_environment({"HOME": "/"}).log_level == ""


def test_the_command_settings_has_the_defaults_and_meanings_of_the_page() -> None:
    """
    `teller settings` prints the variables of the page in its order, each with the first sentence of its meaning.
    """
    documented = [(row.variable, row.default.replace("`", "")) for row in ROWS]

    assert [(one.name, one.default) for one in SETTINGS] == documented
    for one, row in zip(SETTINGS, ROWS, strict=True):
        assert row.meaning.replace("`", "").startswith(one.meaning)
        assert one.meaning.endswith(".")


@pytest.mark.usefixtures("_ordinary_user")
def test_the_documented_home_is_that_of_the_code() -> None:
    """
    The data directory: TELLER_HOME, else XDG_DATA_HOME, else HOME.
    """
    defaults = {row.variable: row.default for row in ROWS}
    linux, _, macos = defaults["XDG_DATA_HOME"].partition(", on macOS ")
    own = Path(Settings.from_environment({"HOME": "/home/ada"}).home)

    assert str(own).replace("/home/ada", "~").removesuffix("/teller") in (linux.strip("`"), macos.strip("`"))
    assert Settings.from_environment({"XDG_DATA_HOME": "/data"}).home == Path("/data/teller")


def edges(row: Row) -> tuple[list[str], list[str]]:
    """Return the outermost values that the documented range allows, and the nearest that it does not."""
    if found := re.fullmatch(r"(\d+) to (\d+)", row.range):
        least, most = int(found[1]), int(found[2])
        return [str(least), str(most)], [str(least - 1), str(most + 1)]
    if found := re.fullmatch(r"above 0, at most (\d+)", row.range):
        return ["0.001", found[1]], ["0", f"{found[1]}.001"]
    if row.range == "`0` or `1`":
        return ["0", "1"], ["2", "yes"]
    schemes = re.findall(r"`(\w+://)`", row.range)
    return [f"{scheme}host/name" for scheme in schemes], ["ftp://host/name"] if schemes else []


@pytest.mark.parametrize("row", [row for row in ROWS if edges(row)[0]], ids=lambda row: row.variable)
def test_a_documented_range_is_that_of_the_code(row: Row) -> None:
    """
    The outermost values of the range are accepted, the next ones are refused.
    """
    inside, outside = edges(row)
    others = {
        "HOME": "/home/ada",
        "DATABASE_URL": "postgresql://db/teller",
        "TELLER_SECRET": "0123456789abcdef",
        "TELLER_MAIL_FROM": "teller@example.com",
    }

    for value in inside:
        Settings.from_environment(others | {row.variable: value})
    for value in outside:
        with pytest.raises(SettingsError, match=row.variable):
            Settings.from_environment(others | {row.variable: value})
