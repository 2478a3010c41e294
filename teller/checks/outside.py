"""
Checks of what the courier calls, and of the disk of embedded servers.

A gateway gets a connection and no request, and a mail server gets no mail.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from processor import disk
from processor.settings import BUILTIN
from processor.storage.server_checks import Problem
from workers.courier import mail_faults
from workers.courier.mailer import mailer_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processor.settings import Settings

#: The longest time to connect to a gateway, in seconds.
TIMEOUT_SECONDS: Final = 3.0


def problems(settings: Settings) -> Iterator[Problem]:
    """Look at the gateways, the mail server and the disk, one after the other."""
    for name, url in sorted(settings.gateways.items()):
        if url != BUILTIN:
            yield from _gateway(name, url)
    if settings.smtp_url is not None:
        yield from _mail_server(settings)
    if settings.embeds_postgres:
        yield from _disk(settings.home)


def _gateway(name: str, url: str) -> Iterator[Problem]:
    """Connect, and verify the certificate. An answer would need a request, which could pay."""
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(
                socket.create_connection((host, parts.port or (443 if is_tls else 80)), TIMEOUT_SECONDS)
            )
            if is_tls:
                context = ssl.create_default_context()
                stack.enter_context(context.wrap_socket(connection, server_hostname=host))
    except OSError as fault:
        yield Problem(
            "gateway_unavailable",
            breaks_a_promise=False,
            detail=f"the gateway {name} of TELLER_GATEWAYS cannot be connected to: {_reason(fault)}",
        )


def _mail_server(settings: Settings) -> Iterator[Problem]:
    try:
        with mailer_for(settings).open():
            pass
    except (OSError, smtplib.SMTPException) as fault:
        yield Problem(
            "mail_unavailable",
            breaks_a_promise=False,
            detail=f"no mail can be sent to TELLER_SMTP_URL: {mail_faults.of_session(fault)[1]}",
        )


def _disk(home: Path) -> Iterator[Problem]:
    found = disk.read(home)
    if found is not None and found.is_nearly_full:
        yield Problem(
            "disk_nearly_full",
            breaks_a_promise=False,
            detail=f"the disk of {home} has {found.free / (1 << 30):.1f} GiB left: make room for it",
        )


def _reason(fault: OSError) -> str:
    """Return the reason in one line."""
    if isinstance(fault, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    return " ".join(str(fault.args[-1] if fault.args else fault).split())
