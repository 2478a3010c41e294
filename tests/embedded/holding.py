"""
A process that holds the embedded servers, which `holder.py` runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    import subprocess


@dataclass
class Holder:
    """A Teller that runs, and its report on its servers."""

    process: subprocess.Popen[str]
    where: dict[str, Any]

    @property
    def error(self) -> str:
        """The line of its error, if it did not start."""
        return str(self.where.get("error", ""))

    def kill(self) -> None:
        """
        Kill it with -9, so that it stops nothing itself.
        """
        self.process.kill()
        self.process.wait(TIMEOUT_SECONDS)

    def stop(self) -> None:
        """
        End it as a command that is done.
        """
        stream_of(self.process.stdin).close()
        assert self.process.wait(TIMEOUT_SECONDS) == 0


def stream_of(stream: IO[str] | None) -> IO[str]:
    """
    Return a stream that was asked for.
    """
    assert stream is not None
    return stream
