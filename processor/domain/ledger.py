"""
The ledger: the only code that changes a resource's quantities, one immutable entry at a time.

Pure. The sum of a resource's entries is its state at every version. Each entry carries a digest chained over the one
before, so a change of one entry breaks every digest after it.
"""

import functools
import hashlib
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from processor.domain.model import MAX_QUANTITY, Entry, EntryKind, Resource

#: The change of (available, held) by each kind of entry, in multiples of its amount.
MOVES: Final[dict[str, tuple[int, int]]] = {
    "hold": (-1, +1),
    "capture": (0, -1),
    "release": (+1, -1),
    "debit": (-1, 0),
    "credit": (+1, 0),
}

#: The change of the account's usage by each kind of entry, in multiples of its amount.
USES: Final[dict[str, int]] = {"hold": +1, "capture": 0, "release": -1, "debit": +1, "credit": -1}

#: The leg of the entry that releases the rest of a hold of which a part was captured.
REST_LEG: Final = -1


def has_room(resource: Resource, quantity: int) -> bool:
    """
    Return whether a credit of this quantity fits, and still fits after every hold was released.

    All credits are checked so. The sum of `available` and `held` therefore never exceeds MAX_QUANTITY, and each
    release fits.
    """
    return resource.available + resource.held + quantity <= MAX_QUANTITY


def can_hold(resource: Resource, quantity: int) -> bool:
    """Return whether a hold of this quantity fits. With an overdraft, `held` may exceed everything that was given."""
    return resource.held + quantity <= MAX_QUANTITY


def time_of_next(resource: Resource, now: datetime) -> datetime:
    """Return the time of the next entry: now, or that of the last entry if the clock was set back since."""
    return now if resource.last_entry_at is None else max(now, resource.last_entry_at)


def post(
    resource: Resource, kind: EntryKind, request_id: UUID, account: str | None, amount: int, now: datetime
) -> Entry:
    """
    Change the resource by one entry, and return the entry.

    Raises ValueError, with the resource unchanged, if the amount is below 1, more is taken than there is, or a
    quantity would exceed MAX_QUANTITY.
    """
    available_move, held_move = MOVES[kind]
    version = resource.version + 1
    available = resource.available + available_move * amount
    held = resource.held + held_move * amount
    if amount < 1 or not -resource.overdraft <= available <= MAX_QUANTITY or not 0 <= held <= MAX_QUANTITY:
        raise ValueError(
            f"a {kind} of {amount} would leave {available} available and {held} held of {resource.id}"
        )
    created_at = time_of_next(resource, now)
    digest = digest_of(
        resource.digest, resource.id, version, kind, request_id, account, amount, available, held, created_at
    )

    resource.version, resource.available, resource.held = version, available, held
    resource.last_entry_at, resource.digest = created_at, digest
    return Entry(resource.id, version, kind, request_id, account, amount, available, held, created_at, digest)


def digest_of(
    before: bytes,
    resource_id: str,
    version: int,
    kind: str,
    request_id: UUID,
    account: str | None,
    amount: int,
    available: int,
    held: int,
    created_at: datetime,
) -> bytes:
    """
    Return the SHA-256 over the digest of the entry before and this entry's fields.

    The first entry follows 32 zero bytes. The fields are text, with a separator that none of them can contain.
    """
    fields = (
        f"{resource_id}\n{version}\n{kind}\n{request_id.hex}\n{account or ''}\n{amount}\n{available}\n{held}\n"
        f"{_written(created_at)}"
    )
    return hashlib.sha256(before + fields.encode()).digest()


@functools.lru_cache(maxsize=16)
def _written(moment: datetime) -> str:
    """Return a time in UTC as text. All entries of a batch have the same time, so it is cached."""
    return moment.astimezone(UTC).isoformat()
