"""
The mail to an address that an account no longer has: once, whatever dies meanwhile, and not a word too much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import structlog

from processor.clients import accounts
from processor.clients.keys import Caller
from processor.outbox import address_notices, deliveries, tries
from processor.storage import connections
from tests.flow.courier.mail_server import parse
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.flow.courier.mail_server import MailServer
    from tests.flow.courier.till import Till


SHOP = Caller(UUID(int=1), "shop", "shop", "client")


def change(till: Till, *addresses: str | None, account: str = "ada") -> None:
    """As the API does it, with its rights."""
    with connections.connect(till.settings.api_database_url, application_name="test api") as connection:
        for address in addresses:
            accounts.set_email(connection, account, address, SHOP)


def left(till: Till) -> int:
    """Mails still to be sent."""
    count: int = till.store.one("SELECT count(*) FROM address_changes")
    return count


def test_the_old_address_gets_a_mail(till: Till, mail_server: MailServer) -> None:
    """
    The mail goes to it alone. It names the account and the masked new address, or the removal.
    """
    change(till, "ada@example.com", "eve@evil.example", None)
    till.start(smtp_url=mail_server.url, mail_from="till@shop.example")
    eventually(lambda: left(till) == 0)

    first, second = sorted(mail_server.envelopes, key=lambda envelope: envelope.rcpt_tos)
    assert (first.mail_from, first.rcpt_tos, second.rcpt_tos) == (
        "till@shop.example",
        ["ada@example.com"],
        ["eve@evil.example"],
    )
    changed, removed = parse(first.content), parse(second.content)
    assert changed["Subject"] == "Your e-mail address was changed"
    assert removed["Subject"] == "Your e-mail address was removed"
    lines = changed.get_content().splitlines()
    assert "codes that confirm them go to the address that the account had before" in lines[2]
    assert lines[4:6] == ["Account:   ada", "Now:       e***@e***.example"]
    assert b"eve@" not in first.content
    assert b"evil" not in first.content
    assert "Now:" not in removed.get_content()
    assert changed["Message-ID"].startswith("<address_")
    assert changed["Message-ID"] != removed["Message-ID"]


def test_a_courier_killed_while_it_sends_loses_nothing(till: Till, mail_server: MailServer) -> None:
    """
    Killed with -9 before the mail server has taken the mail: another sends it when the lease has run out, once.
    """
    mail_server.hangs = True
    change(till, "ada@example.com", None)
    courier = till.start_process(smtp_url=mail_server.url)
    eventually(lambda: till.store.one("SELECT count(*) FROM address_changes WHERE token IS NOT NULL") == 1)
    courier.kill()
    mail_server.hangs = False
    assert (left(till), mail_server.envelopes) == (1, [])

    till.store.owner.execute("UPDATE address_changes SET due_at = now()")
    till.start(smtp_url=mail_server.url)
    eventually(lambda: left(till) == 0)
    assert [envelope.rcpt_tos for envelope in mail_server.envelopes] == [["ada@example.com"]]


def test_a_try_that_is_no_longer_ours_says_nothing(till: Till) -> None:
    """
    A courier that was suspended continues when another one has the mail. Its result does not count.
    """
    change(till, "ada@example.com", None)
    with connections.connect(till.settings.courier_database_url, application_name="test") as connection:
        [late] = address_notices.claim(connection, "shop", 10, 60.0)
        assert address_notices.claim(connection, "shop", 10, 60.0) == []
        till.store.owner.execute("UPDATE address_changes SET due_at = now()")
        [ours] = address_notices.claim(connection, "shop", 10, 60.0)
        address_notices.record(connection, [tries.sent(late)])
        assert left(till) == 1
        address_notices.record(connection, [tries.sent(ours)])

    assert (late.message_id, late.tries, ours.tries) == (ours.message_id, 1, 2)
    assert left(till) == 0


@pytest.mark.parametrize(("answer", "is_left"), [("550 no such user", 0), ("451 try later", 1)])
def test_a_refused_address_is_given_up_and_a_busy_server_is_tried_again(
    till: Till, mail_server: MailServer, answer: str, is_left: int
) -> None:
    """
    The others get theirs. The log has the outcome, and no address.
    """
    change(till, "ada@example.com", None)
    mail_server.reply = answer
    with structlog.testing.capture_logs() as lines:
        till.start(smtp_url=mail_server.url)
        eventually(lambda: any(line["event"] == "address_notice_not_sent" for line in lines))
        eventually(
            lambda: till.store.one("SELECT count(*) FROM address_changes WHERE token IS NOT NULL") == 0
        )
        assert left(till) == is_left
        mail_server.reply = None
        change(till, "grace@example.com", None, account="grace")
        eventually(lambda: left(till) == is_left)
    assert [envelope.rcpt_tos for envelope in mail_server.envelopes] == [["grace@example.com"]]
    assert "@example.com" not in repr(lines)


def test_after_the_last_try_it_is_given_up(till: Till) -> None:
    """
    By the schedule of all notifications.
    """
    change(till, "ada@example.com", None)
    pauses = []
    with connections.connect(till.settings.courier_database_url, application_name="test") as connection:
        while left(till):
            till.store.owner.execute("UPDATE address_changes SET due_at = now()")
            [claimed] = address_notices.claim(connection, "shop", 10, 60.0)
            result = tries.failed(claimed, "no such mailbox", deliveries.PAUSES_SECONDS)
            pauses.append(result.pause_seconds)
            address_notices.record(connection, [result])
    assert tuple(pauses) == (*deliveries.PAUSES_SECONDS, None)
