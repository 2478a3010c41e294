"""
`teller settings`: print every setting with its value, default and meaning.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from processor.settings import Settings
from processor.visible import visible
from teller.commands.meanings import SETTINGS
from teller.printing import Command, show

if TYPE_CHECKING:
    from processor.records.documents import Document

#: The text in place of a secret.
HIDDEN: Final = "set, hidden"
#: The variables that are secrets as a whole. An address has at most a password.
SECRETS: Final = ("TELLER_SECRET", "TELLER_GATEWAY_SECRET")


@click.command(cls=Command)
def settings() -> None:
    """
    Print every setting with its value, its default and its meaning. Secrets and passwords are hidden.

    The settings are variables of the environment. Each is checked as at a start.
    """
    Settings.from_environment(os.environ)
    found = [
        {
            "name": one.name,
            "value": shown(one.name, os.environ.get(one.name, "").strip()),
            "default": one.default,
            "meaning": one.meaning,
        }
        for one in SETTINGS
    ]
    show({"data": found}, lambda: "\n".join(_describe(one) for one in found))


def shown(name: str, value: str) -> str | None:
    """
    Return the value of a variable without its secret. Returns None for one that is unset.
    """
    if not value:
        return None
    return HIDDEN if name in SECRETS or _has_password(value) else value


def _has_password(value: str) -> bool:
    """
    Return whether a value may contain a password: that of a URL, an option, or a keyword of an address.
    """
    if "password" in value.lower():
        return True
    try:
        return "://" in value and "@" in urlsplit(value).netloc
    except ValueError:
        return True


def _describe(one: Document) -> str:
    value = visible(one["value"]) if one["value"] is not None else None
    if not sys.stdout.isatty():
        return "\t".join((one["name"], value or "", one["default"], one["meaning"]))
    state = value if value is not None else f"{one['default']} (default)"
    if value is not None and one["default"] not in ("unset", value):
        state += f" (default: {one['default']})"
    lines = textwrap.wrap(one["meaning"], shutil.get_terminal_size().columns - 4)
    return "\n".join([f"{click.style(one['name'], bold=True)}  {state}", *(f"    {line}" for line in lines)])
