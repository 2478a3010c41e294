"""
The output of a command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The only line of the output, which is JSON."""
        [line] = self.out.splitlines()
        return json.loads(line)

    @property
    def rows(self) -> list[list[str]]:
        """The output in a pipe, by line and column."""
        return [line.split("\t") for line in self.out.splitlines()]

    def refuses(self, status: int, code: str) -> str:
        """Check that the command failed with this status and one JSON line on standard error. Returns its detail."""
        assert (self.status, self.out) == (status, "")
        [line] = self.err.splitlines()
        error = json.loads(line)["error"]
        assert error["code"] == code
        detail: str = error["detail"]
        return detail
