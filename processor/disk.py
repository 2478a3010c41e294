"""
The disk of embedded servers.
"""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

#: The free space from which a disk counts as nearly full, in bytes and as a share of the disk.
FREE_BYTES: Final = 1 << 30
FREE_SHARE: Final = 0.05


class Disk(NamedTuple):
    """The bytes of a disk, and those that are free."""

    total: int
    free: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether the servers may soon be unable to write."""
        return self.free < FREE_BYTES or self.free < self.total * FREE_SHARE


def read(path: Path) -> Disk | None:
    """Return the disk of a directory, or None if there is no such directory."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return Disk(usage.total, usage.free)
