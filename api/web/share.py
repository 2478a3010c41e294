"""
The share of a client beside others grows while the process has time to spare.

A fixed share wastes the process when the others ask for little. But a larger one lets more threads compete for the
interpreter and the cores, and every request waits for both. That wait is measured where a place is handed over: it
is the time from the release of a waiting thread until it runs. While it is short, the share grows by one place. When
it is long, the share shrinks at once, as the window of TCP does (RFC 5681, 3.1).
"""

from __future__ import annotations

from typing import Final

#: The mean wait up to which the share grows. A read waits about four times. With it, a read beside a flood of POSTs
#: took at most twice its time.
WAIT_SECONDS: Final = 0.0004
#: The waits of which the mean is taken before each change.
WAITS: Final = 32
#: The part of the share that is left after a long wait.
SHRINKING: Final = 0.75


class Share:
    """The places of each client: at least `least`, at most `most`. The lock of the places guards it."""

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self.places = least
        self._waits = 0
        self._sum = 0.0

    def note(self, seconds: float) -> None:
        """Note the wait of a thread that has been given a place."""
        self._waits += 1
        self._sum += seconds
        if self._waits == WAITS:
            is_short = self._sum <= WAIT_SECONDS * WAITS
            grown = self.places + 1 if is_short else int(self.places * SHRINKING)
            self.places = max(self.least, min(grown, self.most))
            self._waits, self._sum = 0, 0.0
