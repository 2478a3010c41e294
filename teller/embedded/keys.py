"""
keys.env: the secrets that Teller generated, one NAME=VALUE a line, readable by its owner alone.

Written as a whole to a second file, which then replaces it: a crash leaves the old file or the new one.
"""

from __future__ import annotations

import base64
import os
import secrets
from typing import TYPE_CHECKING

from processor.errors import ServerError
from teller.embedded import home as homes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Random bytes in a generated secret.
SECRET_BYTES = 32
#: Wait for another process that writes the file, in seconds.
LOCK_SECONDS = 5.0

#: The secrets that are generated when they are missing.
GENERATED: Mapping[str, Callable[[], str]] = {
    "TELLER_SECRET": lambda: secrets.token_urlsafe(SECRET_BYTES),
    "TELLER_GATEWAY_SECRET": lambda: "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode(),
}


def path(home: Path) -> Path:
    """
    Return the path of the file in this home.
    """
    return home / "keys.env"


def read(home: Path) -> dict[str, str]:
    """
    Read the secrets; none if there is no file yet. Raises ServerError.
    """
    try:
        lines = path(home).read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as fault:
        raise ServerError(f"{path(home)} cannot be read: {fault}") from fault
    kept: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if equals and value:
            kept[name] = value
        elif name and not name.startswith("#"):
            raise ServerError(f"{path(home)}, line {number} is not NAME=VALUE")
    return kept


def keep(home: Path, added: Mapping[str, str]) -> dict[str, str]:
    """
    Add secrets, or replace those of the same name. Returns all secrets of the file. Raises ServerError.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = homes.wait_for_lock(home / "lock.keys", LOCK_SECONDS)
    if lock is None:
        raise ServerError(f"another Teller is writing {path(home)}")
    try:
        kept = {**read(home), **added}
        new = path(home).with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name}={value}\n" for name, value in kept.items())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path(home))
        directory = os.open(home, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.close(lock)
    return kept


def ensure(home: Path) -> dict[str, str]:
    """
    Generate the secrets that are missing. Returns all. Raises ServerError.
    """
    kept = read(home)
    missing = {name: make() for name, make in GENERATED.items() if name not in kept}
    return keep(home, missing) if missing else kept
