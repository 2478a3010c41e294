"""The file descriptors of a courier. Each connection is one."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

import structlog

from processor.gateways.names import names
from workers.courier import webhook_client

if TYPE_CHECKING:
    from processor.settings import Settings

#: Those that are no connections of gateways and webhooks: of PostgreSQL, Redis, mails, name servers, logs, libraries.
OTHER_FILES: Final = 200
#: Idle connections stay open for a moment while others are in use.
IDLE_FACTOR: Final = 2

log = structlog.get_logger(__name__)


def allow_connections(settings: Settings) -> None:
    """
    Raise the limit of file descriptors as far as needed and allowed.

    Most systems begin with 1,024, and a call without a descriptor would count as one without a connection.
    """
    calls = sum(settings.calls_at_once(name) for name in names(settings))
    needed = IDLE_FACTOR * (webhook_client.CONNECTIONS_MAX + calls) + OTHER_FILES
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= needed:
        return
    allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < needed:
        log.warning("few_files_allowed", needed=needed, allowed=allowed)
