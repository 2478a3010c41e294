"""
The partition of a resource. The function never changes, because stored rows depend on it.
"""

import functools
import hashlib

#: Resources whose partition is cached: few resources get most of the requests.
PARTITIONS_REMEMBERED = 4096


@functools.lru_cache(maxsize=PARTITIONS_REMEMBERED)
def partition_of(resource_id: str, partitions: int) -> int:
    """
    Return the partition of a resource: the first 8 bytes of the SHA-256 of its id, big-endian, modulo `partitions`.

    A test holds fixed examples.
    """
    return int.from_bytes(hashlib.sha256(resource_id.encode()).digest()[:8]) % partitions


def queue_name(partition: int) -> str:
    """Return the Dramatiq queue of a partition, such as `partition-07`."""
    return f"partition-{partition:02d}"
