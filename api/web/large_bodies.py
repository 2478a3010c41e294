"""
Large bodies are parsed a few at a time, and clients take turns.

Parsing holds the interpreter, and a parser of C does not share it. Without turns, large bodies that come together
would delay every other request. Without rests between them, those that come one after the other would do so.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from api.web import problems
from api.web.turns import Turns
from processor.errors import TellerError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The size from which a body is large. A smaller one costs about as much as the rest of its request.
LARGE_BYTES: Final = 8 * 1024
#: The large bodies that one process works on at once. More would not end sooner, since they share one interpreter.
AT_ONCE: Final = 1
#: The large bodies that wait in one process, and those of one client among them.
WAITING_MAX: Final = 512
WAITING_OF_ONE_CLIENT_MAX: Final = 128
#: The rest after each large body while other clients are active, in multiples of the time that it took, and the
#: longest rest in seconds.
REST_PER_WORK: Final = 2.0
REST_SECONDS_MAX: Final = 0.5


class TooManyLargeBodies(TellerError):
    """Other large bodies are being worked on, and the turn of this one did not come in time."""

    code = "too_many_large_bodies"


problems.declare(
    TooManyLargeBodies.code,
    status=503,
    title="Too many large bodies at once",
    explanation="Large bodies are parsed a few at a time, and clients take turns. Too many were waiting, or the "
    "turn of this one did not come in time. Nothing was stored.",
    remedy="Try again after Retry-After seconds, with fewer large bodies at once or with smaller batches.",
)


class LargeBodies:
    """The turns of one process, with a rest between two of them."""

    def __init__(self) -> None:
        self._turns = Turns(
            AT_ONCE,
            AT_ONCE,
            waiting_max=WAITING_MAX,
            waiting_of_one_client_max=WAITING_OF_ONE_CLIENT_MAX,
            refusal=TooManyLargeBodies,
        )
        #: Written and read by the holder of the turn.
        self._rest_until = 0.0

    @contextmanager
    def take(self, client: str, *, is_shared: bool) -> Iterator[None]:
        """
        Wait for a turn of this client, and hold it. Raises TooManyLargeBodies.

        If other clients are active (`is_shared`), they have the interpreter between two turns.
        """
        with self._turns.take(client):
            rest = self._rest_until - time.monotonic()
            if is_shared and rest > 0:
                time.sleep(rest)
            began = time.thread_time()
            try:
                yield
            finally:
                rest = REST_PER_WORK * (time.thread_time() - began)
                self._rest_until = time.monotonic() + min(rest, REST_SECONDS_MAX)

    def waiting(self) -> int:
        """Return the number of turns that are waited for."""
        return self._turns.waiting()
