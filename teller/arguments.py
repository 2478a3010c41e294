"""
Arguments of several commands, and their checks.
"""

from __future__ import annotations

import re
from typing import Final

import click

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
