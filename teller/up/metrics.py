"""
The directory in which the processes of `teller up` keep their metrics.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teller.embedded.home import try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "teller-metrics-"
#: The file in the directory that a running `teller up` has locked.
_LOCK: Final = "lock"


@contextlib.contextmanager
def metrics_directory() -> Iterator[Path]:
    """
    Make a directory, and remove it at the end, together with those that a killed `teller up` left. Raises OSError.
    """
    _remove_left()
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = try_lock(made / _LOCK)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left() -> None:
    """Remove the directories of this account that no process has locked."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            # A directory without a lock is one that another process has just made.
            is_own = left.lstat().st_uid == os.geteuid() and not left.is_symlink()
            if is_own and (left / _LOCK).exists() and (lock := try_lock(left / _LOCK)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
