"""
Arguments that several commands take, and what may stand in them.
"""

from __future__ import annotations

import re
from typing import Final

import click

#: A reason has at most so many characters.
REASON_CHARACTERS_MAX: Final = 1_024

_IDENTIFIER = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)


def identifier(value: str) -> str:
    """The id of a resource, an account or a client."""
    if not _IDENTIFIER.fullmatch(value):
        raise click.BadParameter("an id has 1 to 128 of A-Za-z0-9._:~@-")
    return value


def reason(value: str) -> str:
    """Why somebody did something; kept in the audit."""
    text = value.strip()
    if not 1 <= len(text) <= REASON_CHARACTERS_MAX or not text.isprintable():
        raise click.BadParameter(f"a reason has 1 to {REASON_CHARACTERS_MAX} printable characters")
    return text
