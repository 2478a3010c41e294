"""
The servers of a home, for one command: those that run already, or new ones until the command ends.

One Teller at a time owns a home: it holds `lock` and has started the servers. Other commands use them, each with a
shared lock of `users`. A short command that started servers waits for their users before it stops them.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from processor.errors import ServerError
from teller.embedded import home as homes
from teller.embedded import keys, postgres, valkey
from teller.embedded.postgres import Postgres
from teller.embedded.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings

#: Wait for servers that another command starts or stops, in seconds.
OTHERS_SECONDS = 30.0
#: Wait of a command for the other users of the servers that it started, in seconds.
USERS_SECONDS = 5.0
#: Pause between two checks of another command, in seconds.
PAUSE_SECONDS = 0.05

#: Content of the lock file when its holder is `teller up`, and otherwise.
_UP, _COMMAND = "up", "command"


@dataclass(frozen=True)
class Servers:
    """
    The servers of a home. `settings` has their URLs and the secrets; `started` has those that this process started.
    """

    settings: Settings
    started: tuple[Postgres | Valkey, ...] = ()


@contextlib.contextmanager
def serve(settings: Settings, *, needs_valkey: bool = True, is_up: bool = False) -> Iterator[Servers]:
    """
    Provide the servers that `settings` has no URL for: those that run on this home, else new ones until the end.

    `is_up` means `teller up`, which is the only one on its home. Raises ServerError with one line.
    """
    if not settings.embeds_postgres and not (settings.embeds_valkey and needs_valkey):
        yield Servers(settings)
        return
    homes.prepare(settings.home)
    end = time.monotonic() + OTHERS_SECONDS
    while True:
        if (lock := homes.try_lock(settings.home / "lock")) is not None:
            break
        if is_up:
            _refuse_second_up(settings.home)
        elif (users := homes.try_lock(settings.home / "users", shared=True)) is not None:
            try:
                if found := find_running(settings, needs_valkey=needs_valkey):
                    yield found
                    return
            finally:
                os.close(users)
        if time.monotonic() > end:
            raise ServerError(f"another Teller has {settings.home}, but its servers do not answer")
        time.sleep(PAUSE_SECONDS)
    with contextlib.ExitStack() as held:
        held.callback(os.close, lock)
        os.pwrite(lock, f"{_UP if is_up else _COMMAND}\n".ljust(16).encode(), 0)
        with _own(settings, needs_valkey=needs_valkey) as servers:
            try:
                yield servers
            finally:
                if not is_up and (users := homes.wait_for_lock(settings.home / "users", USERS_SECONDS)):
                    held.callback(os.close, users)  # no command begins to use servers that are stopping


def find_running(settings: Settings, *, needs_valkey: bool = True) -> Servers | None:
    """
    Find the servers that another process runs on this home. Returns None if they do not answer.
    """
    if settings.embeds_postgres and not postgres.is_ready(settings.home):
        return None
    if settings.embeds_valkey and needs_valkey and not valkey.is_ready(settings.home):
        return None
    return Servers(_complete(settings, keys.read(settings.home)))


@contextlib.contextmanager
def _own(settings: Settings, *, needs_valkey: bool) -> Iterator[Servers]:
    kept = keys.ensure(settings.home) if settings.embeds_postgres else {}
    with contextlib.ExitStack() as running:
        started: list[Postgres | Valkey] = []
        if settings.embeds_postgres:
            started.append(Postgres(settings.home))
        if settings.embeds_valkey and needs_valkey:
            started.append(Valkey(settings.home))
        for server in started:
            running.callback(server.stop)
            server.start()
        yield Servers(_complete(settings, kept), tuple(started))


def _complete(settings: Settings, kept: dict[str, str]) -> Settings:
    found = dict(kept)
    if settings.embeds_postgres:
        found |= postgres.environment(settings.home)
    if settings.embeds_valkey:
        found |= valkey.environment(settings.home)
    return settings.completed(found)


def _refuse_second_up(home: Path) -> None:
    """
    Refuse to start beside another `teller up`. A shorter command is waited for.
    """
    with contextlib.suppress(OSError):
        if (home / "lock").read_text().strip() == _UP:
            raise ServerError(f"another Teller already runs on {home}")
