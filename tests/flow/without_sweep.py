"""
The command line, in a process whose sweep finds nothing neglected: `python -m tests.flow.without_sweep worker`.
"""

from teller.root import main
from workers.worker import sweep

#: Longer than any test, in seconds.
NEVER = 86_400.0

if __name__ == "__main__":
    sweep.NEGLECTED_AFTER_SECONDS = NEVER  # type: ignore[misc] # a constant of the product, changed for this process
    main()
