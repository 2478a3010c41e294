"""
A `teller api`, `worker` or `courier` whose clock goes wrong: by CLOCK_SHIFT_SECONDS, ahead or behind.

Whatever asks Python for the time of day gets the wrong one. What counts is decided by the clock of PostgreSQL.
"""

from __future__ import annotations

import os
import time

SHIFT_SECONDS = int(os.environ.get("CLOCK_SHIFT_SECONDS", "0"))

if __name__ == "__main__":
    right_time, right_time_ns = time.time, time.time_ns
    time.time = lambda: right_time() + SHIFT_SECONDS
    time.time_ns = lambda: right_time_ns() + SHIFT_SECONDS * 10**9

    from processor.cli import main  # after the change: whoever imports the functions by name gets ours

    main()
