"""
The root of all commands: their exit status, and one line for each error.

A command's module is imported when the command is called, so `teller keys list` loads no web server.
"""

from __future__ import annotations

import importlib
import json
import keyword
import os
import sys
from typing import Any, Final

import click
import psycopg

from processor.errors import DatabaseUnavailable, TellerError
from processor.storage import connections
from processor.visible import visible

#: Exit statuses, as docs/operating.md lists them; 0 is ok.
FAILED: Final = 1
WRONG_USAGE: Final = 2
WAITED_TOO_LONG: Final = 3

#: Every command, by the module of this package that has it under the same name.
COMMANDS: Final = {
    "up": "up.up",
    "migrate": "commands.processes",
    "api": "commands.processes",
    "worker": "commands.processes",
    "courier": "commands.processes",
    "keys": "commands.keys",
    "requests": "commands.requests",
    "failed": "commands.failed",
    "resources": "commands.resources",
    "webhooks": "commands.webhooks",
    "audit": "commands.audit",
    "partitions": "commands.partitions",
    "check": "commands.check",
    "verify": "commands.verify",
    "export": "commands.export",
    "archive": "commands.archive",
    "import": "commands.imports",
    "race": "commands.race",
    "settings": "commands.settings",
    "openapi": "commands.processes",
}


class WaitedTooLong(TellerError):
    """A wait was longer than its timeout; the exit status is 3."""

    code = "waited_too_long"


class _Commands(click.Group):
    """A group that imports the module of the command that is called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        attribute = f"{name}_" if keyword.iskeyword(name) else name
        command: click.Command = getattr(importlib.import_module(f"teller.{COMMANDS[name]}"), attribute)
        return command


@click.group("teller", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="teller", message="teller %(version)s")
def teller() -> None:
    """
    Decide simultaneous requests for the same limited thing one after the other: nothing lost, doubled or overtaken.

    Begin with `teller up`, which starts everything and prints the file of the first two keys. The other commands
    use that system, or the one of DATABASE_URL. Each takes --json for programs.

    Exit status: 0 ok, 1 failed, 2 wrong usage, 3 waited too long.
    """


def main() -> None:
    """Run the command of `sys.argv`, and exit with its status."""
    try:
        status = teller.main(prog_name="teller", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter must not fail over the rest when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except KeyboardInterrupt:
        _complain("interrupted", "interrupted")
        sys.exit(FAILED)
    except Exception as fault:  # noqa: BLE001 - re-raised unless a person caused it
        sys.exit(_explain(fault))
    sys.exit(status if isinstance(status, int) else 0)


def _explain(fault: Exception) -> int:
    """Print one line for an error that a person can cause. Returns the exit status. Raises all other errors again."""
    if isinstance(fault, click.exceptions.NoArgsIsHelpError):
        click.echo(fault.format_message(), err=True)
        return WRONG_USAGE
    if isinstance(fault, click.UsageError):
        hint = f" (see {fault.ctx.command_path} --help)" if fault.ctx else ""
        _complain(
            "usage", " ".join(fault.format_message().split()) + hint
        )  # choices come on lines of their own
        return WRONG_USAGE
    if isinstance(fault, click.Abort):
        _complain("interrupted", "interrupted")
    elif isinstance(fault, TellerError):
        _complain(
            fault.code, f"{_database()}: {fault}" if isinstance(fault, DatabaseUnavailable) else str(fault)
        )
        if isinstance(fault, WaitedTooLong) or isinstance(fault.__cause__, psycopg.errors.QueryCanceled):
            return WAITED_TOO_LONG
    elif isinstance(fault, psycopg.Error):
        _complain("database_error", f"{_database()}: {connections.first_line(fault)}")
    elif isinstance(fault, OSError) and fault.strerror:
        named = f": {fault.filename}" if fault.filename else ""
        _complain("system_error", f"{fault.strerror}{named}")
    else:
        raise fault
    return FAILED


def _database() -> str:
    """Name the server that cannot be reached: the setting, or the embedded one."""
    return "DATABASE_URL" if os.environ.get("DATABASE_URL") else "PostgreSQL"


def _complain(code: str, line: str) -> None:
    """Print one line on standard error, as JSON with --json."""
    document: dict[str, Any] = {"error": {"code": code, "detail": line}}
    text = json.dumps(document) if "--json" in sys.argv else f"teller: {visible(line)}"
    click.echo(text, err=True)
