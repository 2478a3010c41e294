"""
Faults that need root and Linux: a full disk, and a second host whose network is cut.

Mounts are in a separate namespace, and the link between the hosts is removed at the end. If the machine does
not allow it, a message has the reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tests.faults.run import SOON_SECONDS, TAKEOVER_SECONDS
from tests.waiting import Deadline

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.run import Run

#: Constants of unshare(2), mount(2) and umount2(2).
CLONE_NEWNS: Final = 0x00020000
MS_REC_PRIVATE: Final = 0x4000 | 0x40000
MNT_DETACH: Final = 2
#: Sizes of the disks of PostgreSQL and Valkey, in bytes: enough for a long run, and little more. Valkey
#: shortens its file from 64 MiB on.
POSTGRES_BYTES: Final = 2 * 1024**3
VALKEY_BYTES: Final = 512 * 1024**2
#: The two ends of the link between the hosts, and the ports of PostgreSQL and Redis on it.
HERE, THERE = "10.213.77.1", "10.213.77.2"
POSTGRES_PORT, REDIS_PORT = 5432, 6379
BALLAST: Final = "ballast"


class NotHere(Exception):
    """The machine does not allow a fault. The message has the reason."""


@contextlib.contextmanager
def small_disks(home: Path) -> Iterator[None]:
    """
    Put the data of PostgreSQL and Valkey in this home on small disks while the block runs.

    Only this process and its children see them. Raises NotHere.
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
    """Let PostgreSQL write nothing more. Clients get an answer, and afterwards everything continues."""
    with _full(run.system.home / "postgres"):
        run.system.pause(seconds := chance.uniform(1, 5))
    again = run.must_decide(Deadline(TAKEOVER_SECONDS), "again")
    return f"disk of PostgreSQL full for {seconds:.0f} s; {again}"


def fill_valkey_disk(run: Run, chance: random.Random) -> str:
    """Let Valkey write nothing more, so that it refuses commands. The sweep finds the work."""
    with _full(run.system.home / "valkey"):
        run.system.pause(chance.uniform(1, 4))
        without = run.must_decide(SOON_SECONDS, "meanwhile")
    return f"disk of Valkey full; {without}; {run.must_decide(SOON_SECONDS, 'afterwards')}"


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
    """Another host, as a network namespace with one cable. `open` raises NotHere, and `close` removes it."""

    def __init__(self) -> None:
        self.name = f"teller-{os.getpid()}"
        self._cable = f"tel{os.getpid() % 10**9}"

    @property
    def prefix(self) -> list[str]:
        """The command that runs a program there."""
        return [_ip(), "netns", "exec", self.name]

    def open(self) -> None:
        """Create the host beside this one."""
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
        """Cut the link without notice to either side."""
        subprocess.run([_ip(), "link", "set", self._cable, "down"], check=True)

    def plug_cable(self) -> None:
        """Restore the link."""
        subprocess.run([_ip(), "link", "set", self._cable, "up"], check=True)

    def close(self) -> None:
        """Remove the cable and the host."""
        for words in (["link", "delete", self._cable], ["netns", "delete", self.name]):
            subprocess.run([_ip(), *words], check=False, capture_output=True)


def cut_cable(run: Run, chance: random.Random) -> str:
    """Run a worker on a second host until it has its share, then cut its link, and later restore it."""
    system, host = run.system, SecondHost()
    host.open()
    try:
        listening = system.second_host(HERE, POSTGRES_PORT, REDIS_PORT)
        with listening as environment:
            far = system.add("worker", environment, host.prefix)
            system.until(lambda: _owned_by(run, far.pid) > 0)
            owned = _owned_by(run, far.pid)
            host.pull_cable()
            takeover = Deadline(TAKEOVER_SECONDS)
            decided = run.must_decide(takeover, "by the other host")
            system.pause(max(0.0, chance.uniform(4, 8) - takeover.passed))
            host.plug_cable()
            seconds = takeover.passed
            after = run.must_decide(Deadline(TAKEOVER_SECONDS), "afterwards")
            system.end(far)
        system.processes.remove(far)
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
    """Check that a second host can be created. Raises NotHere."""
    host = SecondHost()
    host.open()
    host.close()


#: Faults that need small disks, and faults that need a second host.
ON_SMALL_DISKS: Final = (fill_postgres_disk, fill_valkey_disk)
WITH_SECOND_HOST: Final = (cut_cable,)
