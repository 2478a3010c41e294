"""
Environment variables, read one at a time and checked. Errors never repeat a value, because it may be secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from processor.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The longest pause, timeout or lifetime that may be set: a day.
SECONDS_MAX: Final = 86_400.0


class Variables:
    """The variables of an environment. An empty one counts as unset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str:
        """Return the text of a variable, without spaces around it; empty if it is unset. Raises SettingsError."""
        value = self._environ.get(name, "").strip()
        if not value.isprintable():
            raise SettingsError(f"{name} holds characters that cannot be printed")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Return a whole number within these limits. Raises SettingsError."""
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,18}", value) or not least <= int(value) <= most:
            raise SettingsError(f"{name} must be a whole number from {least} to {most}")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """Return a duration in seconds, above 0 and at most SECONDS_MAX. Raises SettingsError."""
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not 0 < float(value) <= SECONDS_MAX:
            raise SettingsError(f"{name} must be a number of seconds above 0, at most {SECONDS_MAX:.0f}")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return whether a variable is 1. Raises SettingsError."""
        value = self.text(name)
        if value not in ("", "0", "1"):
            raise SettingsError(f"{name} must be 1 or 0")
        return value == "1" if value else default

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of these words; empty if it is unset. Raises SettingsError."""
        value = self.text(name)
        if value and value not in choices:
            raise SettingsError(f"{name} must be {' or '.join(choices)}")
        return value

    def url(self, name: str, schemes: tuple[str, ...]) -> str:
        """Return a URL with one of these schemes; empty if it is unset. Raises SettingsError."""
        value = self.text(name)
        if value and not is_url(value, schemes):
            raise SettingsError(
                f"{name} must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}"
            )
        return value

    def database_url(self, name: str) -> str:
        """Read the address of a database: a URL with one host or several, or `host=… dbname=…`."""
        value = self.text(name)
        if "://" in value and not value.startswith(("postgresql://", "postgres://")):
            raise SettingsError(f"{name} must be a URL that begins with postgresql:// or postgres://")
        if value and not _is_conninfo(value):
            raise SettingsError(
                f"{name} is no URL that PostgreSQL reads: in a password, % is written %25, @ %40 and / %2F"
            )
        return value


def _is_conninfo(value: str) -> bool:
    """
    Return whether libpq can read the address, with valid ports, and reads no part of the password as a host.

    The messages of libpq are not shown, because they repeat the unreadable part, which is usually in the password.
    """
    try:
        found = {name: str(part) for name, part in conninfo_to_dict(value).items()}
    except ProgrammingError:
        return False
    hosts, ports = (found.get(part, "").split(",") for part in ("host", "port"))
    return (
        not any("@" in found.get(part, "") for part in ("host", "port", "dbname"))
        and len(ports) in (1, len(hosts))
        and all(re.fullmatch(r"[0-9]{1,5}|", port) and int(port or 1) in range(1, 65_536) for port in ports)
    )


def is_url(value: str, schemes: tuple[str, ...]) -> bool:
    """Return whether this is a URL with one of these schemes, and with a valid port if it has one."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        return False
    return parts.scheme in schemes and "://" in value and " " not in value
