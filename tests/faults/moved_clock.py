"""
Runs `teller api`, `worker` or `courier` with a clock that is wrong by CLOCK_SHIFT_SECONDS, ahead or behind.

Python's time of day is wrong for all code. PostgreSQL's clock decides everything that matters.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from datetime import datetime, timedelta, tzinfo

SHIFT_SECONDS = int(os.environ.get("CLOCK_SHIFT_SECONDS", "0"))


def move(seconds: int) -> None:
    """Shift the clocks of this process by `seconds`."""
    right_time, right_time_ns, right_now = time.time, time.time_ns, datetime.now

    def now(_: type[datetime], tz: tzinfo | None = None) -> datetime:
        return right_now(tz) + timedelta(seconds=seconds)

    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + seconds * 10**9
    # A class from C accepts no attributes, and psycopg would not use another class in its place.
    [attributes] = gc.get_referents(datetime.__dict__)
    attributes["now"] = classmethod(now)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))


if __name__ == "__main__":
    move(SHIFT_SECONDS)
    from teller.root import main  # imported after the change, so that it imports the shifted functions

    main()
