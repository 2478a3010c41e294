"""
Mails, notices and codes: the clients take turns, and each mailbox has a limit.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Final

import pytest

from processor.clients import accounts
from processor.clients.keys import Caller
from processor.outbox import address_notices, code_messages, deliveries, tries
from processor.outbox.tries import BEFORE_FIRST
from processor.storage import connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings
    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

#: The rows that wait for the client `flood`.
WAITING: Final = 600
LEASE_SECONDS: Final = 60.0
#: A limit of mails for each mailbox and hour.
PER_HOUR: Final = 7

_MAILS: Final = """
INSERT INTO deliveries (request_id, version, type, email, client_id, due_at)
SELECT (SELECT id FROM requests ORDER BY id LIMIT 1), 2, 'request.completed', %(email)s, %(client)s,
       now() - n * interval '1 ms'
  FROM generate_series(1, %(count)s) AS n
"""
_CODES: Final = """
INSERT INTO codes (id, client_id, destination, request_id, has_turn, due_at)
SELECT gen_random_uuid(), %(client)s, %(email)s || CASE WHEN %(different)s THEN n::text ELSE '' END,
       gen_random_uuid(), false, now()
  FROM generate_series(1, %(count)s) AS n
"""


@pytest.fixture
def courier(store: Store, database: Database) -> Iterator[Connection]:
    """
    A courier's connection to a database that has one decided request.
    """
    store.open("coupon", "coupon", available=100)
    store.accept(store.redeems("coupon", "ada"))
    store.drain("coupon")
    store.owner.execute("DELETE FROM deliveries")
    with connections.connect(database.courier_url, application_name="test courier") as connection:
        yield connection


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """
    Settings with a cooldown that does not end during a test.
    """
    return dataclasses.replace(settings, code_cooldown_seconds=3_600.0)


# ---------------------------------------------------------------- mails about requests


def mails(store: Store, client: str, email: str, count: int = 1) -> None:
    """Let mails of a client wait."""
    store.owner.execute(_MAILS, {"client": client, "email": email, "count": count})


def claim_mails(courier: Connection, client: str) -> list[str]:
    """Claim mails of a client. Returns their addresses."""
    claimed = deliveries.claim_mails(courier, client, 10, LEASE_SECONDS, PER_HOUR)
    deliveries.record(courier, [tries.sent(one) for one in claimed])
    return [one.email for one in claimed]


def test_the_first_look_has_each_client_that_has_mails(store: Store, courier: Connection) -> None:
    """
    A client with one mail is seen at once, whatever waits for another. So is each of its mailboxes.
    """
    mails(store, "flood", "ada@example.com", WAITING)
    mails(store, "flood", "eve@example.com")
    mails(store, "late", "bob@example.com")

    assert deliveries.due_mails(courier, BEFORE_FIRST) == [("flood", 0), ("late", 0)]
    assert claim_mails(courier, "late") == ["bob@example.com"]
    mails(store, "flood", "grace@example.com")
    assert {"ada@example.com"} <= set(claim_mails(courier, "flood"))


def test_a_mailbox_has_a_limit_in_an_hour_and_delays_no_other(store: Store, courier: Connection) -> None:
    """
    Beyond the limit mails wait for the next hour, with a reason. The other mailboxes of the client get theirs.
    """
    mails(store, "flood", "Ada@Example.com", WAITING)
    mails(store, "flood", "bob@example.com")
    mails(store, "late", "ada@example.com")
    claimed: list[str] = []

    for _ in range(WAITING // deliveries.MAILS_PER_LOOK + 2):
        claimed += claim_mails(courier, "flood")

    assert sorted(claimed) == ["Ada@Example.com"] * PER_HOUR + ["bob@example.com"]
    assert claim_mails(courier, "late") == ["ada@example.com"]
    [(client, seconds)] = deliveries.due_mails(courier, BEFORE_FIRST)
    assert (client, 0 < seconds <= 3_600) == ("flood", True)
    assert (
        store.one("SELECT count(*) FROM deliveries WHERE last_error LIKE '%%too many mails%%'")
        == WAITING - PER_HOUR
    )


def test_a_new_hour_counts_anew_and_a_mail_fails_after_a_day(store: Store, courier: Connection) -> None:
    """
    Mails that waited are sent in the next hour, within its limit. A retry does not count.
    """
    mails(store, "flood", "ada@example.com", 3 * PER_HOUR)
    assert len(claim_mails(courier, "flood")) == PER_HOUR
    store.owner.execute("UPDATE mail_counts SET hour = hour - interval '3 hours'")
    store.owner.execute("UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL")

    assert len(claim_mails(courier, "flood")) == PER_HOUR

    store.owner.execute(
        "UPDATE deliveries SET due_at = now(), created_at = now() - interval '25 hours', tries = least(tries, 1)"
        " WHERE due_at IS NOT NULL"
    )
    store.owner.execute(
        "UPDATE deliveries SET tries = 1 WHERE id = (SELECT min(id) FROM deliveries WHERE due_at IS NOT NULL)"
    )
    assert len(claim_mails(courier, "flood")) == 1
    assert store.one("SELECT count(*) FROM deliveries WHERE status = 'failed'") == PER_HOUR - 1
    assert deliveries.due_mails(courier, BEFORE_FIRST) == []


def test_a_mail_of_the_release_before_is_found(store: Store, courier: Connection) -> None:
    """
    A worker that does not write the client runs on during and after the migration.
    """
    store.owner.execute(
        "INSERT INTO deliveries (request_id, version, type, email)"
        " SELECT id, 2, 'request.completed', 'ada@example.com' FROM requests ORDER BY id LIMIT 1"
    )

    [(client, seconds)] = deliveries.due_mails(courier, BEFORE_FIRST)

    assert seconds == 0
    assert claim_mails(courier, client) == ["ada@example.com"]


def test_all_clients_together_have_a_limit_for_a_mailbox(store: Store, courier: Connection) -> None:
    """
    Clients that have used it up leave each other client its share, and do not limit other mailboxes.
    """
    total = deliveries.MAILBOX_LIMITS_OF_ALL * PER_HOUR
    crowd = [f"crowd {number}" for number in range(deliveries.MAILBOX_LIMITS_OF_ALL)]
    for client in (*crowd, "late"):
        mails(store, client, "ada@example.com", 2 * PER_HOUR)
    mails(store, "late", "bob@example.com", 2)

    claimed = [email for client in crowd for _ in range(2) for email in claim_mails(courier, client)]
    assert claimed == ["ada@example.com"] * total
    late = [email for _ in range(3) for email in claim_mails(courier, "late")]

    assert sorted(late) == ["ada@example.com", "bob@example.com", "bob@example.com"]
    assert store.one("SELECT sum(mails) FROM mail_counts WHERE mailbox = 'ada@example.com'") == total + 1
    store.owner.execute("UPDATE mail_counts SET hour = hour - interval '1 hour'")
    store.owner.execute("UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL AND tries = 0")
    assert claim_mails(courier, "late") == ["ada@example.com"] * PER_HOUR


# ---------------------------------------------------------------- changes of an address


def change(store: Store, *addresses: str | None, account: str = "ada", client: str = "shop") -> None:
    """Set the address of an account, as the API does it."""
    by = Caller(uuid.UUID(int=1), client, client, "client")
    with connections.connect(store.database.api_url, application_name="test api") as connection:
        for address in addresses:
            accounts.set_email(connection, account, address, by)


def noticed(store: Store) -> list[str]:
    """Return the addresses that get a notice."""
    return [
        email for (email,) in store.owner.execute("SELECT email FROM address_changes ORDER BY changed_at")
    ]


def age(store: Store, seconds: float) -> None:
    """Let time pass for the accounts."""
    store.owner.execute(
        "UPDATE accounts SET email_since = email_since - make_interval(secs => %(seconds)s),"
        " quick_since = quick_since - make_interval(secs => %(seconds)s)",
        {"seconds": seconds},
    )


def test_changes_back_and_forth_mail_few_strangers_and_always_the_owner(store: Store) -> None:
    """
    The address that stood gets its notice, also after many quick changes. Few of the others get one.
    """
    change(store, "ada@example.com")
    age(store, accounts.STOOD_SECONDS)

    change(store, *(f"stranger{number}@example.com" for number in range(100)))
    assert noticed(store) == [
        "ada@example.com",
        "stranger0@example.com",
        "stranger1@example.com",
        "stranger2@example.com",
    ]

    change(store, "ada@example.com")
    age(store, accounts.STOOD_SECONDS)
    change(store, "eve@example.com")
    assert noticed(store)[4:] == ["ada@example.com"]
    age(store, 3_600)
    change(store, "ada@example.com", "bob@example.com")
    assert noticed(store)[5:] == ["eve@example.com", "ada@example.com"]


def test_setting_the_same_address_again_hides_no_change(store: Store) -> None:
    """
    It does not count as a change, so the address still stood when another one follows.
    """
    change(store, "ada@example.com", "Ada@example.com", "ada@example.com")
    age(store, accounts.STOOD_SECONDS)
    change(store, "ada@example.com", *(f"stranger{number}@example.com" for number in range(9)))

    assert noticed(store)[0] == "ada@example.com"
    assert len(noticed(store)) == 1 + accounts.QUICK_NOTICES_PER_HOUR


def test_notices_go_first_to_the_addresses_that_stood_longest(store: Store, courier: Connection) -> None:
    """
    A client that changes many accounts has a limit for each hour. The owner of an old address does not wait for it.
    """
    change(store, "ada@example.com")
    age(store, 86_400.0)
    store.owner.execute(
        "INSERT INTO address_changes (client_id, account, email, stood_since)"
        " SELECT 'shop', 'x' || n, 'stranger' || n || '@example.com', now()"
        "   FROM generate_series(1, %s) AS n",
        (2 * address_notices.NOTICES_PER_HOUR,),
    )
    change(store, "eve@example.com")
    change(store, "bob@example.com", None, client="late")
    sent: list[str] = []

    while claimed := address_notices.claim(courier, "shop", 10, LEASE_SECONDS):
        sent += [one.email for one in claimed]
        address_notices.record(courier, [tries.sent(one) for one in claimed])

    assert "ada@example.com" in sent[:10]
    assert len(sent) == address_notices.NOTICES_PER_HOUR
    waiting = dict(address_notices.due(courier, BEFORE_FIRST))
    assert (waiting["late"], 0 < waiting["shop"] <= 3_600) == (0, True)


def test_one_mailbox_gets_few_notices_in_an_hour(store: Store, courier: Connection) -> None:
    """
    The others wait, and those to other mailboxes are sent.
    """
    store.owner.execute(
        "INSERT INTO address_changes (client_id, account, email) SELECT 'shop', 'x' || n, 'ada@example.com'"
        "  FROM generate_series(1, 50) AS n"
    )
    store.owner.execute(
        "INSERT INTO address_changes (client_id, account, email, stood_since)"
        " VALUES ('shop', 'y', 'bob@example.com', now())"
    )

    sent = [one.email for _ in range(9) for one in address_notices.claim(courier, "shop", 10, LEASE_SECONDS)]

    assert sorted(sent) == ["ada@example.com"] * address_notices.NOTICES_PER_MAILBOX + ["bob@example.com"]


def test_one_mailbox_gets_few_notices_of_all_clients_together(store: Store, courier: Connection) -> None:
    """
    Clients cannot add up their limits against one mailbox. Each client still has one notice in the hour.
    """
    clients = [f"client{number}" for number in range(6)]
    store.owner.execute(
        "INSERT INTO address_changes (client_id, account, email)"
        " SELECT client, 'x' || n, 'ada@example.com' FROM unnest(%s::text[]) AS client, generate_series(1, 20) AS n",
        (clients,),
    )

    sent = [len(address_notices.claim(courier, client, 20, LEASE_SECONDS)) for client in clients]
    again = [len(address_notices.claim(courier, client, 20, LEASE_SECONDS)) for client in clients]

    most = address_notices.NOTICES_PER_MAILBOX
    assert sent == [most] * 3 + [address_notices.NOTICES_OF_SHARE] * 3
    assert again == [0] * 6
    waiting = dict(address_notices.due(courier, BEFORE_FIRST))
    assert all(0 < waiting[client] <= 3_600 for client in clients)


# ---------------------------------------------------------------- codes


def codes(store: Store, client: str, email: str, count: int = 1, *, different: bool = False) -> None:
    """Let codes of requests wait for their destination."""
    store.owner.execute(_CODES, {"client": client, "email": email, "count": count, "different": different})


def send_codes(courier: Connection, settings: Settings, client: str) -> list[str]:
    """Claim codes of a client, and record them as sent. Returns their destinations."""
    claimed = code_messages.claim(courier, settings, client, 10, LEASE_SECONDS)
    code_messages.record(courier, settings, [tries.sent(one) for one in claimed])
    return [one.destination for one in claimed]


def test_codes_to_one_mailbox_delay_no_other(store: Store, courier: Connection, patient: Settings) -> None:
    """
    Each destination gets one code in the first look: that of the same client, and that of another.
    """
    codes(store, "flood", "ada@example.com", WAITING)
    codes(store, "flood", "bob@example.com")
    codes(store, "late", "eve@example.com")
    assert code_messages.waiting_clients(courier, BEFORE_FIRST) == ["flood", "late"]

    turns = {
        one.client: one
        for one in code_messages.take_turns(courier, patient, {"flood": BEFORE_FIRST, "late": BEFORE_FIRST})
    }

    assert (turns["flood"].granted, turns["flood"].destinations, turns["late"].granted) == (2, 2, 1)
    assert sorted(send_codes(courier, patient, "flood")) == ["ada@example.com", "bob@example.com"]
    assert send_codes(courier, patient, "late") == ["eve@example.com"]
    [again] = code_messages.take_turns(courier, patient, {"flood": BEFORE_FIRST})
    assert again.granted == 0
    assert again.seconds is not None
    assert 3_500 < again.seconds <= 3_600


def test_the_clients_that_wait_for_one_mailbox_take_turns(
    store: Store, courier: Connection, settings: Settings
) -> None:
    """
    A client whose code came late gets the turn of a mailbox although many of another wait for it.
    """
    quick = dataclasses.replace(settings, code_cooldown_seconds=0.001)
    codes(store, "flood", "ada@example.com", WAITING)
    codes(store, "late", "ada@example.com")
    afters = {"flood": BEFORE_FIRST, "late": BEFORE_FIRST}
    looks = 0

    while not send_codes(courier, quick, "late"):
        code_messages.take_turns(courier, quick, afters)
        looks += 1
        assert looks < 60  # chance decides: one in two, so 60 in a row mean that there are no turns


def test_a_look_goes_on_behind_the_last_destination(
    store: Store, courier: Connection, patient: Settings
) -> None:
    """
    However many destinations a client has, a look costs the same, and each gets its turn.
    """
    codes(store, "flood", "user-", 100, different=True)
    after, granted, looks = BEFORE_FIRST, 0, 0

    while looks < 4:
        [turns] = code_messages.take_turns(courier, patient, {"flood": after})
        after, looks, granted = turns.last, looks + 1, granted + turns.granted
        assert turns.destinations <= code_messages.DESTINATIONS_PER_LOOK

    assert granted == 100
    assert code_messages.take_turns(courier, patient, {"flood": after}) == []
