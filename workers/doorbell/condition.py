"""
The condition of Redis: what keeps it from carrying notifications, and the remedy.
"""

from __future__ import annotations

import ssl
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, get_args

from redis import exceptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Condition = Literal[
    "unavailable", "out_of_memory", "replica", "rights", "loading", "cluster", "certificate", "disk", "slow"
]
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)

#: An explanation of each condition, with the remedy.
REMEDIES: Final[Mapping[Condition, str]] = MappingProxyType(
    {
        "unavailable": "Redis does not answer: start it, or check the address",
        "out_of_memory": "Redis is out of memory: raise maxmemory, or give Teller a Redis of its own",
        "replica": "Redis is a read-only replica, or has too few replicas: set REDIS_URL to the primary",
        "rights": "Redis refuses the user, the password or a command: docs/configuration.md has the rights",
        "loading": "Redis loads its data: wait",
        "cluster": "the Redis cluster does not serve the keys of Teller: check `CLUSTER INFO`",
        "certificate": "the certificate of Redis cannot be verified: check ssl_ca_certs and the name",
        "disk": "Redis cannot write to its disk, and refuses changes: make room for it",
        "slow": "each command to Redis takes long: move Redis closer, or find what blocks it",
    }
)

_BY_CLASS: Final[tuple[tuple[type[Exception], Condition], ...]] = (
    (exceptions.OutOfMemoryError, "out_of_memory"),
    (exceptions.ReadOnlyError, "replica"),
    (exceptions.NoPermissionError, "rights"),
    (exceptions.AuthenticationError, "rights"),
    (exceptions.AuthorizationError, "rights"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.MasterDownError, "replica"),  # before its base, ClusterError
    (exceptions.ClusterError, "cluster"),
    (exceptions.AskError, "cluster"),
    (exceptions.ClusterCrossSlotError, "cluster"),
    (ssl.SSLCertVerificationError, "certificate"),
)
#: Beginnings of answers for which redis-py has no class.
_BY_TEXT: Final[tuple[tuple[str, Condition], ...]] = (
    ("NOAUTH", "rights"),
    ("ACL failure", "rights"),
    ("The user executing the script", "rights"),
    ("MISCONF", "disk"),
    ("NOREPLICAS", "replica"),
    ("MASTERDOWN", "replica"),
    ("LOADING", "loading"),
    ("MOVED", "cluster"),
    ("CLUSTERDOWN", "cluster"),
)


def condition_of(fault: BaseException) -> Condition:
    """Return the condition that a fault of a command shows."""
    for cause in _causes(fault):
        for kind, condition in _BY_CLASS:
            if isinstance(cause, kind):
                return condition
    text = str(fault)
    for beginning, condition in _BY_TEXT:
        if text.startswith(beginning):
            return condition
    return "certificate" if "CERTIFICATE_VERIFY_FAILED" in text else "unavailable"


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """Yield the fault, and the faults that led to it."""
    cause: BaseException | None = fault
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
