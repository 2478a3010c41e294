"""
E-mails by a real SMTP server, and into the outbox.
"""

from __future__ import annotations

import smtplib
import ssl
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from aiosmtpd.smtp import AuthResult

from tests.flow.courier.mail_server import parse, receiving
from tests.flow.courier.outside import says, serving
from tests.waiting import Deadline, eventually
from workers.courier.mailer import SmtpMailer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flow.courier.mail_server import MailServer
    from tests.flow.courier.till import Till

#: The account at the mail server.
USER, PASSWORD = "teller", "correct horse"


def test_an_account_gets_a_mail_about_its_request(till: Till, mail_server: MailServer) -> None:
    """
    Short plain text, to the address of that account alone.
    """
    till.email("ada", "ada@example.com")
    [asked] = till.redeem()
    till.redeem(account="grace")
    till.start(smtp_url=mail_server.url, mail_from="Till <till@shop.example>")
    eventually(lambda: till.deliveries() == {"delivered": 1})

    [envelope] = mail_server.envelopes
    mail = parse(envelope.content)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("till@shop.example", ["ada@example.com"])
    assert mail["Subject"] == "Your redemption is completed"
    assert mail["Message-ID"] == f"<msg_{asked.hex}_2@shop.example>"
    assert mail.get_content_type() == "text/plain"
    assert str(asked) in mail.get_content()
    assert "1 from coupon is completed" in mail.get_content()


def test_the_mail_about_a_declined_withdrawal_has_the_gateways_reason(
    till: Till, mail_server: MailServer
) -> None:
    """
    Scenario 12: it is refunded, the balance is as before, and the account is notified.
    """
    till.email("ada", "ada@example.com")
    till.outside.behave = lambda _call, _handler: says(422, reason="account closed")
    asked = till.withdraw()
    till.start(smtp_url=mail_server.url)

    assert till.until(asked) == ["gateway_declined"]
    eventually(lambda: till.deliveries() == {"delivered": 1})
    mail = parse(mail_server.envelopes[0].content)
    assert mail["Subject"] == "Your withdrawal was given back"
    assert "gateway_declined (account closed)" in mail.get_content()
    assert "Your withdrawal of 0.05 EUR from till-bank was given back." in mail.get_content()
    assert till.balance() == (100_000, 0)


def test_without_a_mail_server_mails_are_files_in_the_outbox(till: Till) -> None:
    """
    One whole file each, that only its owner can read; the log says that, not what.
    """
    till.email("ada", "ada@example.com")
    asked = till.redeem(3)
    with structlog.testing.capture_logs() as lines:
        till.start()
        eventually(lambda: till.deliveries() == {"delivered": 3})

    outbox: Path = till.settings.home / "outbox"
    assert sorted(path.name for path in outbox.iterdir()) == sorted(f"msg_{one.hex}_2.eml" for one in asked)
    for path in outbox.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert parse(path.read_bytes())["To"] == "ada@example.com"
    assert outbox.stat().st_mode & 0o077 == 0
    assert len([line for line in lines if line["event"] == "mail_sent"]) == 3
    assert "ada@example.com" not in repr(lines)


@pytest.mark.parametrize(("answer", "status"), [("550 no such user", "failed"), ("451 try later", "pending")])
def test_a_refused_address_fails_and_a_busy_server_is_tried_again(
    till: Till, mail_server: MailServer, answer: str, status: str
) -> None:
    """
    A final refusal is not tried again. The other mails are sent.
    """
    till.email("ada", "ada@example.com")
    till.email("grace", "grace@example.com")
    till.redeem()
    mail_server.reply = answer
    till.start(smtp_url=mail_server.url)
    eventually(lambda: till.store.one("SELECT count(*) FROM deliveries WHERE last_error IS NOT NULL"))

    assert till.deliveries() == {status: 1}
    mail_server.reply = None
    till.redeem(account="grace")
    eventually(lambda: till.deliveries() == {status: 1, "delivered": 1})


def test_an_address_that_no_mail_can_have_stops_nobody(till: Till, mail_server: MailServer) -> None:
    """
    A line break in it must not become a header.
    """
    till.email("ada", "ada@example.com\nBcc: all@example.com")
    till.email("grace", "grace@example.com")
    till.redeem()
    till.redeem(account="grace")
    till.start(smtp_url=mail_server.url)

    eventually(lambda: till.deliveries() == {"failed": 1, "delivered": 1})
    assert [envelope.rcpt_tos for envelope in mail_server.envelopes] == [["grace@example.com"]]


def test_a_mail_server_that_hangs_delays_mails_alone(till: Till, mail_server: MailServer) -> None:
    """
    Webhooks are sent meanwhile, and a stop takes no longer.
    """
    mail_server.hangs = True
    till.email("ada", "ada@example.com")
    till.webhook(f"{till.outside.url}/hook")
    till.redeem(5)
    courier = till.start(smtp_url=mail_server.url)

    Deadline(3.0).until(lambda: till.deliveries()["delivered"] == 5)
    assert len(till.outside.calls) == 5
    limit = Deadline(5.0)
    courier.stop()
    limit.check()


def test_an_outage_costs_no_tries(till: Till) -> None:
    """
    While no server listens, mails stay pending and keep their place and their tries. Then all are sent.
    """
    with serving() as gone:
        port = gone.port
    till.email("ada", "ada@example.com")
    till.redeem(2)
    courier = till.start(smtp_url=f"smtp://127.0.0.1:{port}")
    with structlog.testing.capture_logs() as lines:
        eventually(lambda: [line["event"] for line in lines].count("mail_server_fault") >= 3)

    courier.stop()
    assert till.deliveries() == {"pending": 2}
    rows = till.store.owner.execute(
        "SELECT tries, due_at = created_at, last_error FROM deliveries"
    ).fetchall()
    assert [row[:2] for row in rows] == [(1, True)] * 2
    assert ["ConnectionRefusedError" in row[2] for row in rows] == [True, True]
    assert {line["concern"] for line in lines if line["event"] == "mail_server_fault"} == {"server"}
    with receiving() as server:
        till.start(smtp_url=server.url)
        eventually(lambda: till.deliveries() == {"delivered": 2})


def test_a_password_is_never_sent_in_the_clear(till: Till) -> None:
    """
    To a server without TLS nothing is sent at all.
    """
    asked: list[str] = []

    def authenticate(
        _server: object, _session: object, _envelope: object, mechanism: str, data: Any
    ) -> AuthResult:
        asked.append(mechanism)
        return AuthResult(success=True)

    with receiving(authenticator=authenticate, auth_require_tls=False) as server:
        till.email("ada", "ada@example.com")
        till.redeem()
        with structlog.testing.capture_logs() as lines:
            till.start(
                smtp_url=server.url.replace("smtp://", f"smtp://{USER}:{PASSWORD.replace(' ', '%20')}@")
            )
            eventually(lambda: till.store.one("SELECT last_error FROM deliveries"))

        assert (asked, server.envelopes) == ([], [])
        assert PASSWORD not in repr(lines)
        assert "no TLS" in repr(lines)


@pytest.mark.parametrize(
    ("script", "status", "tries", "words"),
    [
        ({"RCPT": "550 5.1.1 no such user"}, "failed", 1, "550 5.1.1 no such user"),
        ({"RCPT": "553 bad name"}, "failed", 1, "553 bad name"),
        ({"RCPT": "554 5.7.1 <ada@example.com>: Relay access denied"}, "pending", 1, "Relay access denied"),
        ({"RCPT": "550 5.7.26 unauthenticated sender"}, "pending", 1, "unauthenticated"),
        ({"RCPT": "450 4.7.1 greylisted"}, "pending", 1, "greylisted"),
        ({"DATA": "554 5.6.0 no such content"}, "failed", 1, "554 5.6.0"),
        ({"DATA": "550 5.7.1 not signed"}, "pending", 1, "not signed"),
        ({"MAIL": "554 you may not send"}, "pending", 1, "554 you may not send"),
        ({"MAIL": "530 5.7.0 authentication required"}, "pending", 1, "authentication required"),
    ],
    ids=str,
)
def test_only_what_concerns_the_recipient_is_final(
    till: Till, mail_server: MailServer, script: dict[str, str], status: str, tries: int, words: str
) -> None:
    """
    A refusal of the recipient or of the mail is not repeated. One of this installation is, and its mail is sent as
    soon as the server allows it. The words of the server are shown with the mail, and its own logs have codes alone.
    """
    till.email("ada", "ada@example.com")
    till.redeem()
    mail_server.script = script
    with structlog.testing.capture_logs() as lines:
        till.start(smtp_url=mail_server.url)
        eventually(lambda: till.store.one("SELECT last_error FROM deliveries"))

    found = till.store.owner.execute("SELECT status, tries, last_error FROM deliveries").fetchall()
    assert found[0][:2] == (status, tries)
    assert words in found[0][2]
    assert "ada@example.com" not in repr(lines)
    mail_server.script = {}
    if status == "pending":
        till.lapse()
        eventually(lambda: till.deliveries() == {"delivered": 1})


def test_a_server_that_refuses_this_installation_costs_no_tries(till: Till, mail_server: MailServer) -> None:
    """
    However often it refuses the sender, each mail keeps its tries.
    """
    till.email("ada", "ada@example.com")
    till.redeem(20)
    mail_server.script = {"MAIL": "554 5.7.1 not you"}
    with structlog.testing.capture_logs() as lines:
        till.start(smtp_url=mail_server.url)
        eventually(lambda: [line["event"] for line in lines].count("mail_server_fault") >= 3)
        mail_server.script = {}
        eventually(lambda: till.deliveries() == {"delivered": 20})

    assert {line["concern"] for line in lines if line["event"] == "mail_server_fault"} == {"sender"}
    assert till.store.one("SELECT max(tries) FROM deliveries") <= 2


def test_a_mail_that_breaks_the_connection_stops_no_other(till: Till, mail_server: MailServer) -> None:
    """
    It uses up its own tries. The others are sent meanwhile.
    """
    till.email("ada", "ada@example.com")
    till.email("grace", "grace@example.com")
    till.redeem()
    till.redeem(3, account="grace")
    mail_server.breaks_at = "ada@example.com"
    till.start(smtp_url=mail_server.url)

    eventually(lambda: till.deliveries() == {"pending": 1, "delivered": 3})
    assert till.store.one("SELECT last_error FROM deliveries WHERE status = 'pending'")


@pytest.mark.parametrize(
    ("host", "password", "verifies", "is_verified"),
    [
        ("127.0.0.1", "", True, False),
        ("localhost", "", True, False),
        ("[::1]", "", True, False),
        ("127.0.0.1", "secret", True, True),
        ("127.0.0.1", "secret", False, False),
        ("mail.example.com", "", True, True),
        ("mail.example.com", "", False, False),
        ("localhost.example.com", "", True, True),
    ],
)
def test_only_a_relay_on_this_host_is_not_verified(
    host: str, password: str, *, verifies: bool, is_verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And only without a password, unless TELLER_MAIL_VERIFY=0 says otherwise.
    """
    seen = []

    def connect(*_: object, context: ssl.SSLContext, **__: object) -> NoReturn:
        seen.append(context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname)
        raise ConnectionRefusedError

    monkeypatch.setattr(smtplib, "SMTP_SSL", connect)
    user = f"ada:{password}@" if password else ""
    with pytest.raises(ConnectionRefusedError):
        SmtpMailer(f"smtps://{user}{host}", "a@example.com", verifies=verifies).open().__enter__()

    assert seen == [is_verified]
