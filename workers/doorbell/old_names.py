"""
Removes what earlier releases left in Redis, under names that all installations shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from processor.domain.partitioning import queue_name

if TYPE_CHECKING:
    import redis

#: The workers whose messages are removed. Dramatiq kept the ids of all workers that it had not found dead.
WORKERS_MAX: Final = 1_000
#: The keys that one command removes.
KEYS_AT_ONCE: Final = 1_000


def remove(client: redis.Redis, partitions: int) -> None:
    """
    Remove the old markers, queues and unfinished messages of partitions. Raises RedisError.

    No key is searched for. The list of Dramatiq's workers stays, because other applications may be among them. An
    earlier worker that still runs loses notifications, and its sweep finds their work.
    """
    heartbeats: Any = client.zrange("dramatiq:__heartbeats__", 0, WORKERS_MAX - 1)
    owners = [one.decode(errors="replace") for one in heartbeats]
    for partition in range(partitions):
        queue = queue_name(partition)
        waiting = f"dramatiq:{queue}"
        kinds = ("", ".msgs", ".XQ", ".XQ.msgs")
        keys = [f"teller:rung:{partition}", *(waiting + kind for kind in kinds)]
        keys += (f"dramatiq:__acks__.{owner}.{queue}" for owner in owners)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            client.unlink(*keys[start : start + KEYS_AT_ONCE])
