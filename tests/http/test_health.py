"""
`/readyz` names each thing that does not work, and nothing else.

The rows of the database are made older, which stands for the time that passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from api import services
from api.ops import metrics as api_metrics
from processor.cluster import ownership
from processor.domain.partitioning import partition_of
from processor.storage import connections
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from tests.http.teller import Client, Teller

#: A worker that has all partitions. Without it, each test would find them unowned.
OWNED = """
    INSERT INTO workers (id, host, pid, alive_until) VALUES (gen_random_uuid(), 'h', 1, now() + interval '1 hour');
    UPDATE ownership SET worker_id = (SELECT id FROM workers), since = now() - interval '1 hour'
"""
#: A request waits for its batch.
WAITING = "UPDATE inbox SET created_at = now() - interval '{} s'"
PAUSED = "INSERT INTO pauses (partition, actor) SELECT DISTINCT partition, 'olga' FROM inbox"
#: Notifications: as they are sent, and as a batch writes them.
WEBHOOK = """
    INSERT INTO webhooks (id, client_id, url, secret)
    VALUES ('00000000-0000-7000-8000-000000000001', 'c', 'https://a.example/', decode(repeat('00', 24), 'hex'))
"""
DELIVERY = """
    INSERT INTO deliveries (request_id, version, type, webhook_id, email, due_at)
    SELECT id, 2, 'request.completed', {}, {}, now() - interval '{} s' FROM requests
"""
FANOUT = """
    INSERT INTO decisions (request_id, version, status, sequence, decided_at, at, actor)
    SELECT '00000000-0000-7000-8000-0000000000{0}', 2, 'completed', 1, at, at, 'test'
      FROM (SELECT now() - interval '{0} s' AS at) AS past;
    INSERT INTO fanouts (webhook_id, request_ids, versions)
    VALUES ({1}, ARRAY['00000000-0000-7000-8000-0000000000{0}'::uuid], ARRAY[2])
"""
EFFECT = """
    INSERT INTO effects (request_id, partition, gateway, created_at, due_at, client_id)
    SELECT id, partition, '{}', created_at, now() - interval '{} s', '{}' FROM requests
"""
CODE = """
    INSERT INTO codes (id, client_id, destination, expires_at, has_turn, due_at)
    VALUES (gen_random_uuid(), 'c', 'a@b.example', now() + interval '1 h', {}, now() - interval '{} s')
"""
EARLIER_WEBHOOK = "'00000000-0000-7000-8000-000000000000'"
BY_WEBHOOK = ("'00000000-0000-7000-8000-000000000001'", "NULL")
BY_MAIL = ("NULL", "'a@b.example'")


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer comes from a reading of its own."""
    monkeypatch.setattr(services, "HEALTH_FRESH_SECONDS", 0.0)


def change(teller: Teller, *statements: str) -> None:
    """Change the database as its owner."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        for statement in statements:
            for part in statement.split(";"):
                connection.execute(part)


def degraded(client: Client) -> list[str]:
    """Return what /readyz names."""
    answer = client.get("/readyz")
    assert answer.status_code == 200, answer.json
    found: list[str] = answer.json["degraded"]
    return found


PAUSE_OF = "INSERT INTO pauses (partition, actor) VALUES ({}, 'olga')"
FORGET = "DELETE FROM inbox WHERE partition = {}"

CASES: list[tuple[str, list[str], list[Any]]] = [
    ("work of 9 s", [WAITING.format(9)], []),
    ("work of 11 s", [WAITING.format(11)], ["undecided"]),
    ("work of 11 s in a paused partition", [WAITING.format(11), PAUSED], []),
    ("no worker for 9 s", ["UPDATE ownership SET worker_id = NULL, since = now() - interval '9 s'"], []),
    (
        "one partition without a worker for 11 s",
        ["UPDATE ownership SET worker_id = NULL, since = now() - interval '11 s' WHERE partition = 3"],
        ["unowned"],
    ),
    ("a lease that expired 9 s ago", ["UPDATE workers SET alive_until = now() - interval '9 s'"], []),
    (
        "a lease that expired 11 s ago",
        ["UPDATE workers SET alive_until = now() - interval '11 s'"],
        ["unowned"],
    ),
    ("a worker that was removed", ["DELETE FROM workers"], ["unowned"]),
    ("an effect that is due for 50 s", [EFFECT.format("g", 50, "c")], []),
    (
        "an effect that is due for 61 s, behind those of another client",
        [EFFECT.format("g", 0, "a"), "UPDATE effects SET leg = 1", EFFECT.format("g", 61, "c")],
        ["couriers"],
    ),
    ("an effect that is due for 61 s", [EFFECT.format("g", 61, "c")], ["couriers"]),
    (
        "a delivery of 61 s behind those of another webhook",
        [DELIVERY.format(EARLIER_WEBHOOK, "NULL", 0), DELIVERY.format(*BY_WEBHOOK, 61)],
        ["couriers"],
    ),
    ("a delivery of 50 s", [DELIVERY.format(*BY_WEBHOOK, 50)], []),
    ("a mail of 50 s", [DELIVERY.format(*BY_MAIL, 50)], []),
    ("a mail of 61 s", [DELIVERY.format(*BY_MAIL, 61)], ["couriers"]),
    ("a code of 61 s", [CODE.format("true", 61)], ["couriers"]),
    ("a code that waits for its cooldown", [CODE.format("false", 61)], []),
    ("a fanout of 50 s", [FANOUT.format(50, BY_WEBHOOK[0])], []),
    ("a fanout of 61 s", [FANOUT.format(61, BY_WEBHOOK[0])], ["couriers"]),
    ("an alarm of a worker", ["INSERT INTO alarms (code, detail) VALUES ('misplaced', 'x')"], ["misplaced"]),
    (
        "all at once",
        [WAITING.format(11), EFFECT.format("g", 61, "c"), "DELETE FROM workers"],
        ["unowned", "undecided", "couriers"],
    ),
]


def test_readyz_names_each_thing_that_does_not_work(teller: Teller) -> None:
    """
    Each row of the table makes the database so, and /readyz names it. Before and after, nothing is named.
    """
    change(teller, OWNED)
    teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    assert degraded(teller.client) == []
    for case, statements, expected in CASES:
        change(teller, *statements)
        assert degraded(teller.client) == expected, case
        change(
            teller,
            "UPDATE inbox SET created_at = now()",
            "DELETE FROM pauses",
            "DELETE FROM workers",
            "SET session_replication_role = replica",  # effects stay as long as their request
            "DELETE FROM effects",
            "DELETE FROM deliveries",
            "DELETE FROM fanouts",
            "DELETE FROM codes",
            "DELETE FROM alarms",
            "RESET session_replication_role",
            OWNED,
        )
        assert degraded(teller.client) == [], case


def test_partitions_of_a_worker_that_was_removed_count_from_then_on(teller: Teller) -> None:
    """
    `teller up` removes a worker that died. Its partitions, which it had for an hour, are unowned after 10 s.
    """
    change(teller, OWNED)
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        ownership.forget(connection, "h", [1])
    assert degraded(teller.client) == []

    change(teller, "UPDATE ownership SET since = since - interval '10 s'")
    assert degraded(teller.client) == ["unowned"]


def test_a_reading_is_shared_for_a_second(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    /readyz needs no key, so its calls do not each read all partitions.
    """
    change(teller, OWNED)
    monkeypatch.setattr(services, "HEALTH_FRESH_SECONDS", 600.0)

    assert degraded(teller.client) == []
    change(teller, "DELETE FROM workers")
    assert degraded(teller.client) == []


def test_a_reading_that_is_not_answered_names_all_that_may_be_wrong(teller: Teller) -> None:
    """
    The API accepts requests while a lock blocks the reading.
    """
    change(teller, OWNED)
    assert degraded(teller.client) == []
    with (
        connections.connect(teller.settings.database_url, application_name="test") as blocker,
        blocker.transaction(),
    ):
        blocker.execute("LOCK codes")
        assert degraded(teller.client) == ["unowned", "undecided", "couriers"]
    assert degraded(teller.client) == []


def metrics(client: Client) -> dict[str, float]:
    """Return the metrics without labels."""
    lines = client.get("/metrics").data.decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.split(" ") for line in lines if "{" not in line and line[0] != "#")
    }


def test_metrics_show_what_waits_and_what_is_late(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The numbers behind /readyz are metrics, with zero for what is well. No metric has a time of its creation.
    """
    monkeypatch.setattr(api_metrics, "GAUGES_FRESH_SECONDS", 0.0)
    change(teller, OWNED)
    teller.open("a")
    before = metrics(teller.client)
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "a", "account": "u"})
    change(
        teller,
        WAITING.format(11),
        PAUSED,
        "UPDATE ownership SET worker_id = NULL, since = now() - interval '11 s' WHERE partition = 3",
        EFFECT.format("g", 61, "c"),
        WEBHOOK,
        DELIVERY.format(*BY_WEBHOOK, 0),
        "UPDATE deliveries SET status = 'failed', due_at = NULL",
    )
    after = metrics(teller.client)

    names = (
        *("teller_backlog", "teller_partitions_paused", "teller_partitions_unowned", "teller_decided_total"),
        *("teller_deliveries_failed", "teller_effects_overdue", "teller_partitions_undecided"),
    )
    assert [before[name] for name in names] == [0, 0, 0, 1, 0, 0, 0]
    assert [after[name] for name in names] == [3, 1, 1, 1, 4, 4, 0]
    assert before["teller_oldest_seconds"] == 0
    assert 11 <= after["teller_oldest_seconds"] < 11 + TIMEOUT_SECONDS
    assert [name for name in after if name.endswith("_created")] == []


def test_an_exchange_that_waits_for_a_paused_partition_is_not_undecided(teller: Teller) -> None:
    """
    Nor is one that waits behind it in another partition. Without the pause, and for other work, it is.
    """
    change(teller, OWNED)
    paused, between, last, beside = "points", "sneaker", "seat", "mug"
    homes = [partition_of(name, teller.settings.partitions) for name in (paused, between, last, beside)]
    assert len(set(homes)) == len(homes)
    for one, other in ((between, paused), (last, between)):
        legs = [{"resource": one, "take": 1}, {"resource": other, "give": 1}]
        assert teller.client.post("/v1/exchanges", {"account": "u", "legs": legs}).status_code == 202
    old = "UPDATE inbox SET created_at = now() - interval '11 s'"
    change(teller, PAUSE_OF.format(homes[0]), old)
    assert degraded(teller.client) == []

    teller.client.post("/v1/redemptions", {"resource": beside, "account": "u"})
    change(teller, old)
    assert degraded(teller.client) == ["undecided"]
    change(teller, FORGET.format(homes[3]))
    assert degraded(teller.client) == []
    change(teller, "DELETE FROM pauses")
    assert degraded(teller.client) == ["undecided"]
