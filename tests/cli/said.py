"""
The output of a command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its one line of JSON."""
        [line] = self.out.splitlines()
        return json.loads(line)

    @property
    def rows(self) -> list[list[str]]:
        """What it printed into a pipe, by line and column."""
        return [line.split("\t") for line in self.out.splitlines()]

    def refuses(self, status: int, code: str) -> str:
        """It failed with this status, said nothing on standard output, and this one JSON line: its detail."""
        assert (self.status, self.out) == (status, "")
        [line] = self.err.splitlines()
        error = json.loads(line)["error"]
        assert error["code"] == code
        detail: str = error["detail"]
        return detail
