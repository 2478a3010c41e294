"""
Which partition a resource belongs to. Must stay the same for ever; pure.
"""

import functools
import hashlib

#: Resources whose partition is not computed again: those that many want are few.
PARTITIONS_REMEMBERED = 4096


@functools.lru_cache(maxsize=PARTITIONS_REMEMBERED)
def partition_of(resource_id: str, partitions: int) -> int:
    """
    The partition of a resource: the first 8 bytes of the SHA-256 of its id, big-endian, modulo
    the number of partitions. Never changes: a test holds vectors.
    """
    return int.from_bytes(hashlib.sha256(resource_id.encode()).digest()[:8]) % partitions


def queue_name(partition: int) -> str:
    """The Dramatiq queue of a partition: `partition-07`."""
    return f"partition-{partition:02d}"
