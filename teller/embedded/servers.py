"""
The servers of a home, for a command: those that run already, or our own for as long as the command takes.

One Teller at a time has a home: it holds `lock` and has started the servers. Others use them, each holding `users`
shared; a short command that started servers waits a moment for its users before it stops them.
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

#: How long to wait for servers that another command is starting or stopping, in seconds.
OTHERS_SECONDS = 30.0
#: How long a command that started the servers waits for others that use them, in seconds.
USERS_SECONDS = 5.0
#: Between two looks at what another command does, in seconds.
PAUSE_SECONDS = 0.05

#: What the lock file says when its holder is `teller up`, and otherwise.
_UP, _COMMAND = "up", "command"


@dataclass(frozen=True)
class Servers:
    """
    Where the servers are, and the secrets: `settings` is complete. `started` are those that we must watch over.
    """

    settings: Settings
    started: tuple[Postgres | Valkey, ...] = ()


@contextlib.contextmanager
def serve(settings: Settings, *, needs_valkey: bool = True, is_up: bool = False) -> Iterator[Servers]:
    """
    The servers that `settings` leave to us: those that run already on this home, else our own, stopped at the end.

    `is_up` says that this is `teller up`, which is the only one on its home. Raises ServerError with one line.
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
                    held.callback(os.close, users)  # nobody begins to use what we are stopping


def find_running(settings: Settings, *, needs_valkey: bool = True) -> Servers | None:
    """
    The servers that another process runs on this home, when they answer; else None.
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
    Against another `teller up` at once; a shorter command is waited for.
    """
    with contextlib.suppress(OSError):
        if (home / "lock").read_text().strip() == _UP:
            raise ServerError(f"another Teller already runs on {home}")
