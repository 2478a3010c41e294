"""
Large bodies are parsed a few at a time, and clients take turns.

Parsing holds the interpreter. Without turns, large bodies that come together would delay every other request.
"""

from __future__ import annotations

from typing import Final

from api.web import problems
from api.web.turns import Turns
from processor.errors import TellerError

#: The size from which a body is large. A smaller one costs about as much as the rest of its request.
LARGE_BYTES: Final = 8 * 1024
#: The large bodies that one process works on at once. More would not end sooner, since they share one interpreter.
AT_ONCE: Final = 1
#: The large bodies that wait in one process, and those of one client among them.
WAITING_MAX: Final = 512
WAITING_OF_ONE_CLIENT_MAX: Final = 128


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


def turns() -> Turns:
    """Return the turns of one process."""
    return Turns(
        AT_ONCE,
        AT_ONCE,
        waiting_max=WAITING_MAX,
        waiting_of_one_client_max=WAITING_OF_ONE_CLIENT_MAX,
        refusal=TooManyLargeBodies,
    )
