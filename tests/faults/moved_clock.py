"""
A `teller api`, `worker` or `courier` whose clock goes wrong: by CLOCK_SHIFT_SECONDS, ahead or behind.

Whatever asks Python for the time of day gets the wrong one. What counts is decided by the clock of PostgreSQL.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from datetime import datetime, timedelta, tzinfo

SHIFT_SECONDS = int(os.environ.get("CLOCK_SHIFT_SECONDS", "0"))


def move(seconds: int) -> None:
    """The clocks of this process go wrong by so much."""
    right_time, right_time_ns, right_now = time.time, time.time_ns, datetime.now

    def now(_: type[datetime], tz: tzinfo | None = None) -> datetime:
        return right_now(tz) + timedelta(seconds=seconds)

    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + seconds * 10**9
    # A class of C's own takes no attributes, and another class in its place would not be the one that psycopg makes.
    [attributes] = gc.get_referents(datetime.__dict__)
    attributes["now"] = classmethod(now)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))


if __name__ == "__main__":
    move(SHIFT_SECONDS)
    from teller.root import main  # after the change: whoever imports the functions by name gets ours

    main()
