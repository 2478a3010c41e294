"""
The names of one installation in Redis: keys, queues and channels.

All of them carry the installation's id, so installations that share a Redis never receive each other's notifications.
The id is a hash tag, so a cluster keeps all keys in one slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from processor.domain.partitioning import queue_name

if TYPE_CHECKING:
    from uuid import UUID

#: The channels. `wake`: names of queues that have a new message, and that partitions became free. `decided`: ids of
#: decided requests. `couriers`: messages without content, because the rows to send are in PostgreSQL. `probe`:
#: messages of a check, which no process receives.
Topic = Literal["wake", "decided", "couriers", "probe"]


class Names:
    """The names of the installation with this id."""

    def __init__(self, installation_id: UUID) -> None:
        #: The beginning of all names. Dramatiq calls it a namespace.
        self.prefix = f"teller:{{{installation_id}}}"

    def channel(self, topic: Topic) -> str:
        """Return the name of a channel."""
        return f"{self.prefix}:{topic}"

    def marker(self, partition: int) -> str:
        """Return the key that exists while the partition is notified and not acknowledged."""
        return f"{self.prefix}:rung:{partition}"

    def probe_keys(self) -> list[str]:
        """Return the keys of a check of Redis: marker, list and messages."""
        return [f"{self.prefix}:probe{kind}" for kind in ("", ":queue", ":queue.msgs")]

    def waiting(self, partition: int) -> str:
        """Return the key of the list of message ids of a partition, as Dramatiq names it."""
        return f"{self.prefix}:{queue_name(partition)}"

    def messages(self, partition: int) -> str:
        """Return the key of the messages of a partition by their ids, as Dramatiq names it."""
        return f"{self.waiting(partition)}.msgs"
