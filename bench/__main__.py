"""
All benchmarks, one after the other, each with its table; the tables are kept in bench/results.

    python -m bench
"""

from __future__ import annotations

import subprocess
import sys

#: In this order; each runs in a process of its own.
PARTS = ("drain", "accept", "latency", "courier")


def main() -> int:
    """Run them all; stops at the first that fails."""
    for number, part in enumerate(PARTS, start=1):
        print(f"benchmark {number} of {len(PARTS)}: {part}", flush=True)
        if status := subprocess.run([sys.executable, "-m", f"bench.{part}"], check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
