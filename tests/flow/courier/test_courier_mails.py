"""
E-mails by a real SMTP server, and into the outbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiosmtpd.smtp import AuthResult

from processor.errors import SettingsError
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
    till.start(smtp_url=f"{mail_server.url}?from=till@shop.example")
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


def test_nobody_there_is_tried_again_by_the_schedule(till: Till) -> None:
    """
    Five seconds later.
    """
    with serving() as gone:
        port = gone.port
    till.email("ada", "ada@example.com")
    till.redeem(2)
    began = till.store.one("SELECT clock_timestamp()")
    till.start(smtp_url=f"smtp://127.0.0.1:{port}")
    eventually(lambda: till.store.one("SELECT count(*) FROM deliveries WHERE last_error IS NOT NULL") == 2)

    assert till.deliveries() == {"pending": 2}
    due = "SELECT bool_and(due_at BETWEEN %s + interval '3 s' AND clock_timestamp() + interval '5 s') FROM deliveries"
    assert till.store.one(due, began)


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


def test_a_sender_that_is_no_address_stops_the_start() -> None:
    """
    One line that names the variable.
    """
    with pytest.raises(SettingsError, match="TELLER_SMTP_URL"):
        SmtpMailer("smtp://127.0.0.1?from=nobody")
