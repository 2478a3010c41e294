"""
E-mails through a real Postfix on this host, with STARTTLS and a certificate that it signed itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.proxies import listens, program
from tests.servers import temporary_home
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.flow.courier.till import Till

CERTIFICATES = Path(__file__).parent / "tls"
MAIN = (
    "compatibility_level = 3.6",
    "queue_directory = {folder}/queue",
    "data_directory = {folder}/data",
    "mail_owner = postfix",
    "myhostname = relay.example",
    "mydestination =",
    "mynetworks =",
    "local_transport = error:none",
    "relay_domains = example.com",
    "relay_transport = discard:",
    "relay_recipient_maps = inline:{{ada@example.com=ok}}",
    "smtpd_relay_restrictions = {relay}_unauth_destination",
    "smtpd_recipient_restrictions = reject_unlisted_recipient",
    "smtpd_tls_security_level = may",
    "smtpd_tls_chain_files = {folder}/key.pem, {folder}/cert.pem",
    "maillog_file = {folder}/log",
    "maillog_file_prefixes = {folder}",
    "smtputf8_enable = no",
)
MASTER = (
    "127.0.0.1:{port} inet n - n - - smtpd",
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "error unix - - n - - error",
    "discard unix - - n - - discard",
    "anvil unix - - n - 1 anvil",
    "postlog unix-dgram n - n - 1 postlogd",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "proxymap unix - - n - - proxymap",
    "proxywrite unix - - n - 1 proxymap",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "flush unix n - n 1000? 0 flush",
)


@pytest.fixture(params=["reject", "defer"])
def relay(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a Postfix that relays mails to ada@example.com, and to no other address or domain."""
    postfix, openssl = program("postfix"), program("openssl")
    if os.geteuid() != 0:
        pytest.skip("Postfix needs root")
    with temporary_home() as folder:
        port = free_port()
        for name in ("queue", "data", "conf"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=relay.example",
             "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / "conf" / "main.cf").write_text(
            "\n".join(MAIN).format(folder=folder, relay=request.param) + "\n"
        )
        (folder / "conf" / "master.cf").write_text("\n".join(MASTER).format(port=port) + "\n")

        def control(word: str) -> None:
            done = subprocess.run(
                [postfix, "-c", str(folder / "conf"), word], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr

        control("start")
        try:
            eventually(lambda: listens(port))
            yield f"smtp://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(AssertionError):
                control("stop")
            eventually(lambda: not listens(port))


def test_postfix_takes_mails_and_says_why_not(till: Till, relay: str) -> None:
    """
    A mail to its domain is delivered, over TLS. An unknown recipient is final (550 5.1.1). A refusal to relay
    concerns this installation (554 5.7.1, or 454 4.7.1 by default), so its mail is tried again.
    """
    for name, address in (
        ("ada", "ada@example.com"),
        ("grace", "grace@example.com"),
        ("alan", "alan@other.example"),
    ):
        till.email(name, address)
        till.redeem(account=name)
    till.start(smtp_url=relay, mail_from="Till <till@shop.example>")
    eventually(lambda: till.deliveries() == {"delivered": 1, "failed": 1, "pending": 1})

    said: dict[str, str | None] = dict(
        till.store.owner.execute("SELECT email, last_error FROM deliveries").fetchall()
    )
    assert said["ada@example.com"] is None
    grace, alan = str(said["grace@example.com"]), str(said["alan@other.example"])
    assert "5.1.1" in grace
    assert "54 5.7.1" in alan or "454 4.7.1" in alan
    assert "Relay access denied" in alan
