"""
The queues of the courier, with much waiting: each step reads what it takes.

The planner has statistics from before the rows came, from when there were fewer of them, and of now.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from processor.outbox import address_notices, code_messages, deliveries, gateway_calls
from processor.storage import connections
from tests.store.plans import reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

#: The rows that wait in each queue, and how many times as many there are later.
WAITING: Final = 10_000
TIMES_LATER: Final = 2
#: A step reads at most this multiple of the blocks that it read when few rows waited, and this number more. An index
#: may have become deeper by a level.
BLOCKS_RATIO: Final = 1.5
BLOCKS_MORE: Final = 50
#: The tables that have few rows here, so that a scan of the whole table is a good plan.
SMALL: Final = ("webhooks", "requests", "decisions")
#: A deleted webhook, which nearly all deliveries are for, and one whose endpoint works.
DEAD, ALIVE = uuid.UUID(int=1), uuid.UUID(int=2)

#: Rows as batches and couriers leave them, with statistics from before they came. Nearly all are of one endpoint or
#: client, and some are of others.
CROWD: Final = """
ANALYZE deliveries, fanouts, effects, requests, decisions, webhooks, codes, address_changes,
        mail_counts;
INSERT INTO webhooks (id, client_id, url, secret)
SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'shop', 'https://x/', sha256('x')
  FROM generate_series(2, 400) AS n;
INSERT INTO deliveries (request_id, version, type, webhook_id)
SELECT r.id, 2, 'request.completed', w.id
  FROM webhooks w
 CROSS JOIN (SELECT id FROM requests ORDER BY id LIMIT 5) AS r;
INSERT INTO fanouts (webhook_id, request_ids, versions)
SELECT '00000000-0000-0000-0000-000000000002', array_agg(id), array_agg(2)
  FROM (SELECT id FROM requests ORDER BY id LIMIT 5) AS r;
INSERT INTO effects (request_id, client_id, partition, gateway, created_at, due_at)
SELECT id, 'late', 0, 'bank', now(), now()
  FROM (SELECT id FROM requests ORDER BY id LIMIT 5) AS r;
INSERT INTO deliveries (request_id, version, type, email, client_id)
SELECT id, 2, 'request.completed', 'bob@example.com', 'late'
  FROM (SELECT id FROM requests ORDER BY id LIMIT 5) AS r;
INSERT INTO codes (id, client_id, destination, request_id, has_turn, due_at)
SELECT gen_random_uuid(), 'late', 'bob@example.com', gen_random_uuid(), true, now();
INSERT INTO address_changes (client_id, account, email) VALUES ('late', 'bob', 'bob@example.com')
"""
FLOOD: Final = """
INSERT INTO deliveries (request_id, version, type, webhook_id)
SELECT md5('d' || n)::uuid, 2, 'request.completed', '00000000-0000-0000-0000-000000000001'
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n;
INSERT INTO fanouts (webhook_id, request_ids, versions)
SELECT '00000000-0000-0000-0000-000000000001', array_agg(md5('f' || n)::uuid), array_agg(2)
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
 GROUP BY n / 10;
INSERT INTO effects (request_id, client_id, partition, gateway, created_at, due_at)
SELECT md5('e' || n)::uuid, 'flood', 0, 'bank', now(), now()
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n;
INSERT INTO deliveries (request_id, version, type, email, client_id)
SELECT md5('m' || n)::uuid, 2, 'request.completed', 'ada@example.com', 'flood'
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n;
INSERT INTO codes (id, client_id, destination, request_id, has_turn, due_at)
SELECT gen_random_uuid(), 'flood', 'ada@example.com', gen_random_uuid(), n %% 2 = 0, now()
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n;
INSERT INTO address_changes (client_id, account, email, stood_since)
SELECT 'flood', 'u' || n, 'u' || n || '@example.com', now()
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n;
INSERT INTO mail_counts (client_id, kind, mailbox, hour, mails)
SELECT 'client ' || n %% 10, 'request', 'u' || n || '@example.com', date_trunc('hour', now()), 1
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
"""
#: 10,000 endpoints with a delivery each.
ENDPOINTS: Final = """
INSERT INTO webhooks (id, client_id, url, secret)
SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'shop', 'https://x/', sha256('x')
  FROM generate_series(401, 10000) AS n;
INSERT INTO deliveries (request_id, version, type, webhook_id)
SELECT r.id, 2, 'request.completed', w.id
  FROM webhooks w
 CROSS JOIN (SELECT id FROM requests ORDER BY id LIMIT 1) AS r
 WHERE w.id > '00000000-0000-0000-0000-000000000400'
"""


@pytest.fixture
def courier(store: Store, database: Database) -> Iterator[Connection]:
    """
    A courier's connection to a database in which much is waiting.
    """
    store.open("coupon", "coupon", available=100)
    store.accept(*(store.redeems("coupon", f"u{number}") for number in range(5)))
    store.drain("coupon")
    fill(store.owner, CROWD)
    fill(store.owner, FLOOD, first=1, last=WAITING)
    with connections.connect(database.courier_url, application_name="test courier") as connection:
        gateway_calls.introduce(connection, "bank")
        yield connection


def fill(owner: Connection, statements: str, **parameters: int) -> None:
    """
    Insert rows.
    """
    for statement in statements.split(";"):
        owner.execute(statement, parameters)


def test_each_step_reads_what_it_takes(store: Store, courier: Connection) -> None:
    """
    Looks, claims, expanding and ending cost the same, however much waits, and whatever the planner expects.
    """
    steps = {**_steps_of_webhooks(), **_steps_of_gateway_calls(), **_steps_of_messages()}
    blocks: dict[str, int] = {}

    for statistics in ("none", "new", "old", "of many"):
        for name, (statement, parameters, most) in steps.items():
            read = reads(courier, statement, parameters, SMALL)
            assert read.rows <= most, (name, statistics)
            before = blocks.setdefault(name, read.blocks)
            assert read.blocks <= BLOCKS_RATIO * before + BLOCKS_MORE, (name, statistics, before)
        if statistics == "new":
            fill(store.owner, FLOOD, first=WAITING + 1, last=TIMES_LATER * WAITING)
            fill(store.owner, ENDPOINTS)
        else:
            store.owner.execute("ANALYZE")


def _steps_of_webhooks() -> dict[str, tuple[str, dict[str, Any], int]]:
    """
    Return the statements with their parameters, and the most rows that each may read.
    """
    many = [uuid.UUID(f"{number:032}") for number in range(1, 257)]
    endpoints = {"after": deliveries.BEFORE_FIRST, "limit": deliveries.ENDPOINTS_PER_LOOK}
    fanouts = {"after": deliveries.BEFORE_FIRST, "fanouts": 64, "deliveries": 1_000}
    statements = {
        "look": ("due_endpoints", endpoints, 300),
        "claim": (
            "claim_webhooks",
            {"webhook_ids": [DEAD, ALIVE], "room": [1, 4], "lease_seconds": 20.0},
            20,
        ),
        "claim of many": (
            "claim_webhooks",
            {"webhook_ids": many, "room": [4] * 256, "lease_seconds": 20.0},
            1_100,
        ),
        "expand": ("expand", fanouts, 1_100),
        "end": ("end_deliveries", {"webhook_ids": [DEAD, ALIVE], "limit": 100}, 300),
    }
    return {
        name: (deliveries.SQL[statement], parameters, most)
        for name, (statement, parameters, most) in statements.items()
    }


def _steps_of_gateway_calls() -> dict[str, tuple[str, dict[str, Any], int]]:
    claim = {
        "gateway": "bank",
        "clients": ["flood", "late"],
        "room": 64,
        "calls_at_once": 64,
        "reserve": gateway_calls.RESERVE,
        "tries": 6,
        "lease_seconds": 15.0,
        "cut_off": "",
        "may_probe": True,
    }
    return {
        "look at gateways": (
            gateway_calls.SQL["due_clients"],
            {"gateway": "", "client": "", "limit": 256},
            10,
        ),
        "claim of effects": (gateway_calls.SQL["claim_effects"], claim, 200),
    }


def _steps_of_messages() -> dict[str, tuple[str, dict[str, Any], int]]:
    look = {"after": "", "limit": 256}
    claim = {"client": "late", "limit": 10, "lease_seconds": 60.0, "window": 200}
    mails = {
        **claim,
        "mails_per_hour": 100,
        "mails_of_all": 300,
        "mails_of_share": 10,
        "wait_seconds": 86_400.0,
    }
    turns = {
        "clients": ["flood", "late"],
        "afters": ["", ""],
        "destinations": 32,
        "cooldown_seconds": 60.0,
    }
    return {
        "look at mails": (deliveries.SQL["due_mails"], look, 10),
        "claim of mails": (deliveries.SQL["claim_mails"], mails, 20),
        "claim of many mails": (deliveries.SQL["claim_mails"], {**mails, "client": "flood"}, 500),
        "look at waiting codes": (code_messages.SQL["waiting_clients"], look, 10),
        "turns of codes": (code_messages.SQL["take_turns"], turns, 10),
        "look at codes": (code_messages.SQL["due"], look, 10),
        "claim of codes": (code_messages.SQL["claim"], {**claim, "ttl_seconds": 600.0}, 20),
        "claim of many codes": (
            code_messages.SQL["claim"],
            {**claim, "ttl_seconds": 600.0, "client": "flood"},
            20,
        ),
        "look at notices": (address_notices.SQL["due"], look, 10),
        "claim of notices": (address_notices.SQL["claim"], claim, 20),
        "claim of many notices": (address_notices.SQL["claim"], {**claim, "client": "flood"}, 500),
    }


def test_fanouts_of_one_webhook_do_not_delay_those_of_another(courier: Connection) -> None:
    """
    A webhook with one fanout row has its deliveries after the first look.
    """
    before = due(courier, ALIVE)

    deliveries.expand(courier)

    assert due(courier, ALIVE) == before + 5


def test_the_deliveries_of_a_deleted_webhook_end_as_sets(courier: Connection) -> None:
    """
    Each statement ends a limited number, and those of other webhooks stay.
    """
    before = due(courier, ALIVE)

    assert deliveries.end(courier, [DEAD, ALIVE]) == deliveries.ENDED_AT_ONCE
    assert deliveries.end(courier, [ALIVE]) == 0

    assert due(courier, ALIVE) == before
    assert due(courier, DEAD) == WAITING - deliveries.ENDED_AT_ONCE
    assert courier.execute(
        "SELECT DISTINCT status, last_error FROM deliveries WHERE due_at IS NULL"
    ).fetchall() == [("failed", "the webhook was deleted")]


def due(courier: Connection, webhook: uuid.UUID) -> int:
    """
    Return how many deliveries wait for a webhook.
    """
    query = "SELECT count(*) FROM deliveries WHERE webhook_id = %s AND due_at IS NOT NULL"
    [(count,)] = courier.execute(query, (webhook,)).fetchall()
    return int(count)
