"""
Arguments of several commands, and their checks.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

#: Length of a reason.
REASON_CHARACTERS_MAX: Final = 1_024

_IDENTIFIER = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)


def identifier(value: str) -> str:
    """Check the id of a resource, an account or a client."""
    if not _IDENTIFIER.fullmatch(value):
        raise click.BadParameter("an id has 1 to 128 of A-Za-z0-9._:~@-")
    return value


def reason(value: str) -> str:
    """Check the reason for an operation, which is kept in the audit."""
    text = value.strip()
    if not 1 <= len(text) <= REASON_CHARACTERS_MAX or not text.isprintable():
        raise click.BadParameter(f"a reason has 1 to {REASON_CHARACTERS_MAX} printable characters")
    return text


def reason_option() -> Callable[[Any], Any]:
    """
    Return the option --reason, as the parameter `why`. Without it a person at a terminal is asked. A script is not.
    """
    return click.option(
        "--reason",
        "why",
        type=reason,
        metavar="TEXT",
        callback=lambda _context, _option, value: _ask_reason() if value is None else value,
        help="The reason, which the audit keeps. Without it you are asked for one at a terminal.",
    )


def _ask_reason() -> str | None:
    if not sys.stdin.isatty() or "--json" in sys.argv:
        return None
    text: str = click.prompt("Reason (the audit keeps it)", value_proc=reason, err=True)
    return text


def moment(value: str) -> datetime:
    """Read a time of RFC 3339, or the beginning of a day in UTC."""
    try:
        read = datetime.fromisoformat(value)
        if read.tzinfo is None and len(value) > len("2026-11-01"):
            raise ValueError("no offset")
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("a time is like 2026-11-01 or 2026-11-01T12:00:00Z") from None
