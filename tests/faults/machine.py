"""
Faults that need root and Linux: a full disk, and a second host whose network is cut.

Everything is done in namespaces of our own (mounts) or undone at the end (the link between the hosts); where that is
not allowed, somebody is told why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from tests.faults.run import SOON_SECONDS, TAKEOVER_SECONDS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.run import Run

#: unshare(2), mount(2) and umount2(2).
CLONE_NEWNS: Final = 0x00020000
MS_REC_PRIVATE: Final = 0x4000 | 0x40000
MNT_DETACH: Final = 2
#: What fits onto the disk of PostgreSQL, and of Valkey (which shortens its file from 64 MiB on), in bytes: all of a
#: long run, and not much more.
POSTGRES_BYTES: Final = 2 * 1024**3
VALKEY_BYTES: Final = 512 * 1024**2
#: The two ends of the link between the hosts, and where PostgreSQL and Redis are reached over it.
HERE, THERE = "10.213.77.1", "10.213.77.2"
POSTGRES_PORT, REDIS_PORT = 5432, 6379
BALLAST: Final = "ballast"


class NotHere(Exception):
    """The machine does not allow it; says why."""


@contextlib.contextmanager
def small_disks(home: Path) -> Iterator[None]:
    """
    While it lasts, the data of PostgreSQL and Valkey in this home are on small disks of their own, which nobody else
    sees. Raises NotHere.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NotHere("a small disk can only be made by root, on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        raise NotHere(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    for name, size in (("postgres", POSTGRES_BYTES), ("valkey", VALKEY_BYTES)):
        (home / name).mkdir()
        where = os.fsencode(home / name)
        if libc.mount(b"tmpfs", where, b"tmpfs", 0, f"size={size},mode=0700".encode()):
            raise NotHere(f"nothing can be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        for name in ("postgres", "valkey"):
            libc.umount2(os.fsencode(home / name), MNT_DETACH)


def fill_postgres_disk(run: Run, chance: random.Random) -> str:
    """PostgreSQL can write nothing more; whoever asks is told so, and afterwards all goes on."""
    with _full(run.system.home / "postgres"):
        run.system.pause(seconds := chance.uniform(1, 5))
    since = time.monotonic()
    again = run.must_decide(since, TAKEOVER_SECONDS, "again")
    return f"disk of PostgreSQL full for {seconds:.0f} s; {again}"


def fill_valkey_disk(run: Run, chance: random.Random) -> str:
    """Valkey can write nothing more, and refuses to be written to; the sweep decides."""
    with _full(run.system.home / "valkey"):
        run.system.pause(chance.uniform(1, 4))
        without = run.must_decide(None, SOON_SECONDS, "meanwhile")
    return f"disk of Valkey full; {without}; {run.must_decide(None, SOON_SECONDS, 'afterwards')}"


@contextlib.contextmanager
def _full(disk: Path) -> Iterator[None]:
    ballast = disk / BALLAST
    with ballast.open("wb") as file:
        while free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)
            except OSError:
                break
    try:
        yield
    finally:
        ballast.unlink()


class SecondHost:
    """Another host: a network namespace, and one cable. `open` raises NotHere; `close` takes it away."""

    def __init__(self) -> None:
        self.name = f"teller-{os.getpid()}"
        self._cable = f"tel{os.getpid() % 10**9}"

    @property
    def prefix(self) -> list[str]:
        """What runs a program there."""
        return [_ip(), "netns", "exec", self.name]

    def open(self) -> None:
        """Put it beside this one."""
        if sys.platform != "linux" or os.geteuid() != 0:
            raise NotHere("a second host can only be made by root, on Linux")
        far = f"{self._cable}b"
        for words in (
            f"netns add {self.name}",
            f"link add {self._cable} type veth peer name {far} netns {self.name}",
            f"address add {HERE}/30 dev {self._cable}",
            f"link set {self._cable} up",
            f"-n {self.name} address add {THERE}/30 dev {far}",
            f"-n {self.name} link set {far} up",
            f"-n {self.name} link set lo up",
        ):
            done = subprocess.run([_ip(), *words.split()], check=False, capture_output=True, text=True)
            if done.returncode:
                self.close()
                raise NotHere(f"no second host: ip {words}: {done.stderr.strip()}")

    def pull_cable(self) -> None:
        """Nothing passes, and nobody is told."""
        subprocess.run([_ip(), "link", "set", self._cable, "down"], check=True)

    def plug_cable(self) -> None:
        """As before."""
        subprocess.run([_ip(), "link", "set", self._cable, "up"], check=True)

    def close(self) -> None:
        """Cable and host are gone."""
        for words in (["link", "delete", self._cable], ["netns", "delete", self.name]):
            subprocess.run([_ip(), *words], check=False, capture_output=True)


def cut_cable(run: Run, chance: random.Random) -> str:
    """A worker on a second host takes its share; then its cable is pulled, and later plugged in again."""
    system, host = run.system, SecondHost()
    host.open()
    try:
        listening = system.second_host(HERE, POSTGRES_PORT, REDIS_PORT)
        with listening as environment:
            far = system.add_part("worker", environment, prefix=host.prefix)
            system.until(lambda: _owned_by(run, far.pid) > 0)
            owned = _owned_by(run, far.pid)
            host.pull_cable()
            since = time.monotonic()
            decided = run.must_decide(since, TAKEOVER_SECONDS, "by the other host")
            system.pause(max(0.0, since + chance.uniform(4, 8) - time.monotonic()))
            host.plug_cable()
            seconds = time.monotonic() - since
            after = run.must_decide(time.monotonic(), TAKEOVER_SECONDS, "afterwards")
            far.end()
        system.parts.remove(far)
    finally:
        host.close()
    return f"a host with {owned} partitions cut off for {seconds:.0f} s; {decided}; {after}"


def _owned_by(run: Run, pid: int) -> int:
    rows = run.system.query(
        "SELECT count(*) FROM ownership o JOIN workers w ON w.id = o.worker_id WHERE w.pid = %s", pid
    )
    return rows[0][0] if rows else 0


def _ip() -> str:
    found = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise NotHere("no second host: there is no `ip` (iproute2)")
    return found


def may_have_second_host() -> None:
    """Raises NotHere when it may not."""
    host = SecondHost()
    host.open()
    host.close()


#: What can be done where small disks could be made; and where a second host can be.
ON_SMALL_DISKS: Final = (fill_postgres_disk, fill_valkey_disk)
WITH_SECOND_HOST: Final = (cut_cable,)
