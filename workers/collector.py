"""The garbage collector of a worker or courier process."""

import gc
from typing import Final

#: The new objects after which the garbage collector runs: those of some full batches.
GARBAGE_OBJECTS: Final = 100_000


def rest_collector() -> None:
    """
    Exclude the objects that exist now from garbage collection, and collect seldom, not in each batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
