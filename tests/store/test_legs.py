"""
Legs are stored with their request, and hold its place in the inbox of each partition.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege, IntegrityError, UniqueViolation

from processor.domain.partitioning import partition_of
from processor.intake import commands
from processor.reading import requests
from tests.servers import PARTITIONS
from tests.store.store import accepted_id

if TYPE_CHECKING:
    import uuid

    from tests.store.store import Store

#: Resources of different partitions, and one that shares the partition of the first.
FIRST: Final = "points"
HOME: Final = partition_of(FIRST, PARTITIONS)
OTHER: Final = next(
    name for name in map("stock:{}".format, range(99)) if partition_of(name, PARTITIONS) != HOME
)
NEAR: Final = next(
    name for name in map("near:{}".format, range(99)) if partition_of(name, PARTITIONS) == HOME
)


def inbox_of(store: Store, request: uuid.UUID) -> list[tuple[Any, ...]]:
    return store.owner.execute(
        "SELECT seq, partition, verb, leg FROM inbox WHERE request_id = %s ORDER BY verb, leg", (request,)
    ).fetchall()


def test_a_request_with_legs_has_one_place_in_the_inbox_of_each_partition(store: Store) -> None:
    """
    All rows of a request have one seq, so all partitions have requests in one order. A partition has one row.
    """
    [request] = store.accept(store.exchanges("ada", (FIRST, -100), (OTHER, 1), (NEAR, 2)))
    assert store.owner.execute(
        "SELECT leg, resource_id, partition, take, give FROM legs WHERE request_id = %s ORDER BY leg",
        (request,),
    ).fetchall() == [
        (0, FIRST, HOME, 100, None),
        (1, OTHER, partition_of(OTHER, PARTITIONS), None, 1),
        (2, NEAR, HOME, None, 2),
    ]
    [(seq, *home), (other_seq, *other)] = inbox_of(store, request)
    assert (home, other) == ([HOME, "decide", 0], [partition_of(OTHER, PARTITIONS), "decide", 1])
    assert seq == other_seq


def test_commands_on_a_request_with_legs_have_their_places_too(store: Store) -> None:
    """
    A command that may move a leg has a row in each partition, with its payload. A cancel moves nothing.
    """
    [request] = store.accept(store.exchanges("ada", (FIRST, -100), (OTHER, 1)))
    with store.owner.transaction():
        commands.record_command(store.owner, request, "replay", "olga")
        commands.record_command(store.owner, request, "cancel", "olga")
    rows = [(verb, leg) for _, _, verb, leg in inbox_of(store, request)]
    assert rows == [("cancel", 0), ("decide", 0), ("decide", 1), ("replay", 0), ("replay", 1)]
    assert store.owner.execute(
        "SELECT count(DISTINCT seq), count(DISTINCT payload) FROM inbox WHERE verb = 'replay'"
    ).fetchone() == (1, 1)


def test_the_document_of_a_request_shows_its_legs(store: Store) -> None:
    """
    `legs` stand in place of `resource` and `amount`, in the order sent, in the first answer and later.
    """
    [receipt] = store.intake.accept([store.exchanges("ada", (FIRST, -100), (OTHER, 1))])
    record, _ = requests.read_request(store.owner, accepted_id(receipt), "shop")
    assert receipt.record().document() == record.document()
    document = record.document()
    assert document["legs"] == [{"resource": FIRST, "take": 100}, {"resource": OTHER, "give": 1}]
    assert "resource" not in document
    assert "amount" not in document


@pytest.mark.parametrize(
    "legs",
    [
        [{"resource": FIRST, "take": 1}],
        [{"resource": FIRST, "take": 1}, {"resource": FIRST, "give": 1}],
        [{"resource": FIRST, "take": 1}, {"resource": OTHER, "take": 1, "give": 1}],
        [{"resource": FIRST, "take": 1}, {"resource": OTHER}],
        [{"resource": FIRST, "take": 1}, {"resource": OTHER, "take": 0}],
        [{"resource": FIRST, "take": 1}, {"resource": OTHER, "give": 2**53}],
        [{"resource": FIRST, "take": 1}, {"resource": "two words", "give": 1}],
        [{"resource": OTHER, "take": 1}, {"resource": FIRST, "give": 1}],
        [{"resource": FIRST, "take": 1}, *({"resource": f"r:{n}", "give": 1} for n in range(10))],
        None,
    ],
)
def test_postgresql_refuses_legs_of_another_form(store: Store, legs: list[dict[str, Any]] | None) -> None:
    """
    2 to 10 legs, each of its own resource and in one direction; the first is the resource of the request.
    """
    details = None if legs is None else json.dumps({"legs": legs})
    with pytest.raises((CheckViolation, UniqueViolation)):
        store.owner.execute(
            "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
            "                      resource_id, account, details)"
            " VALUES (gen_random_uuid(), 'shop', gen_random_uuid(), 'k', sha256('x'), 'exchange', %s, %s, 'ada', %s)",
            (HOME, FIRST, details),
        )


def test_no_role_writes_legs_or_the_number_of_a_row(store: Store) -> None:
    """
    Legs never change. The rows of later legs are written by PostgreSQL alone.
    """
    store.accept(store.exchanges("ada", (FIRST, -100), (OTHER, 1)))
    for statement in ("UPDATE legs SET take = 1 WHERE leg = 0", "DELETE FROM legs"):
        with pytest.raises(IntegrityError):
            store.owner.execute(statement.encode())
    store.owner.execute("SET ROLE teller_api")
    for statement in (
        "INSERT INTO legs VALUES (gen_random_uuid(), 0, 'points', 1, 1, NULL)",
        "INSERT INTO inbox (partition, request_id, verb, leg) VALUES (1, gen_random_uuid(), 'decide', 1)",
        "CREATE TRIGGER mine AFTER INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION place_legs()",
    ):
        with pytest.raises(InsufficientPrivilege):
            store.owner.execute(statement.encode())
    store.owner.execute("RESET ROLE")
