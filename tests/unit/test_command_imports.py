"""
The command line starts without the HTTP side: only `teller api` and `teller openapi` import it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

import pytest

from teller import root

#: Runs each command of its first argument, and prints which modules of the second are loaded afterwards.
PROBE: Final = """
import contextlib, io, json, sys
from teller import root
commands, modules = map(json.loads, sys.argv[1:])
found = {"import": [name for name in modules if name in sys.modules]}
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()):
        root.teller.main(command.split(), prog_name="teller", standalone_mode=False)
    found[command] = [name for name in modules if name in sys.modules]
print(json.dumps(found))
"""

HTTP_MODULES: Final = ("flask", "pydantic", "api")
#: Every command with its help, which loads its module.
HELP: Final = tuple(f"{name} --help" for name in root.COMMANDS)


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Run all commands in one process, and `openapi` last."""
    commands = json.dumps([*HELP, "openapi"])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, commands, json.dumps(HTTP_MODULES)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_the_commands_are_all_here() -> None:
    """
    The commands that a person runs often are among those that are tried.
    """
    assert {f"{name} --help" for name in ("keys", "requests", "failed", "partitions", "verify", "race")} <= {
        *HELP
    }


@pytest.mark.parametrize("command", ["import", *HELP])
def test_a_command_loads_no_flask(loaded: dict[str, list[str]], command: str) -> None:
    """
    Neither the import of the command line nor a command's module loads Flask, pydantic or the API.
    """
    assert loaded[command] == []


def test_the_openapi_document_needs_them(loaded: dict[str, list[str]]) -> None:
    """
    `teller openapi` loads all three, so the probe sees them.
    """
    assert loaded["openapi"] == list(HTTP_MODULES)
