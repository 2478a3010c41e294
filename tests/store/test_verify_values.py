"""
Verification, value by value: every changed or lost value is found, or listed with the reason why it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from processor.verify.checks import verify
from tests.store.history import play
from tests.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Clones
    from tests.store.store import Store

#: The most rows of a table that each corruption is tried on, as different as possible.
ROWS_MAX = 8


@dataclass(frozen=True)
class Vouched:
    """
    A column whose change is found, in rows that satisfy `where`.

    `to` has SQL expressions of the changed value. None stands for another value of the type and, where
    allowed, NULL. An expression that evaluates to NULL, without being written so, does not apply to that row.
    """

    where: str = "true"
    to: tuple[str, ...] | None = None


# Conditions on rows, in SQL.
TAKEN = """EXISTS (SELECT FROM entries e JOIN resources r ON r.id = e.resource_id AND r.per_account_limit IS NOT NULL
                  JOIN decisions d ON d.request_id = e.request_id AND d.current AND d.refunded = 0
                   AND d.status NOT IN ('cancelled', 'refunded')
                 WHERE e.request_id = requests.id AND e.kind IN ('debit', 'hold'))"""
MOVED = "EXISTS (SELECT FROM entries e WHERE e.request_id = requests.id)"
COMPLETED = """EXISTS (SELECT FROM decisions d
                       WHERE d.request_id = requests.id AND d.current AND d.status = 'completed')"""
LIMITED = (
    "used > 0 AND EXISTS (SELECT FROM resources WHERE id = resource_id AND per_account_limit IS NOT NULL)"
)
WAITING = "EXISTS (SELECT FROM inbox WHERE inbox.partition = partitions.id)"
PAID = """EXISTS (SELECT FROM decisions d
                  WHERE d.request_id = effects.request_id AND d.current AND d.status = 'completed')"""

VOUCHED: dict[str, dict[str, Vouched]] = {
    "installation": {"partitions": Vouched()},
    "partitions": {
        "id": Vouched(),
        "sequence": Vouched(),
        "low_water": Vouched(
            WAITING, ("(SELECT min(seq) FROM inbox WHERE inbox.partition = partitions.id)",)
        ),
    },
    "requests": {
        "id": Vouched(),
        # For rejected, cancelled or refunded requests, or without a limit, no other row has the account.
        "client_id": Vouched(TAKEN),
        # A redemption and a withdrawal take alike.
        "kind": Vouched(
            f"{MOVED} OR {COMPLETED}",
            ("CASE kind WHEN 'deposit' THEN 'redemption' ELSE 'deposit' END", "'closing'"),
        ),
        "partition": Vouched(),
        "resource_id": Vouched(),
        "account": Vouched(f"account IS NOT NULL AND {MOVED}"),
        # A refund without an amount refunds the rest.
        "amount": Vouched(MOVED, ("coalesce(amount, 0) + 1", "CASE kind WHEN 'refund' THEN 999 END")),
        "apply_before": Vouched(
            "apply_before IS NOT NULL",
            ("CASE WHEN apply_before < created_at THEN '2990-01-01'::timestamptz ELSE '2001-01-01' END",),
        ),
        "refund_of": Vouched(),
        # An amendment that a later request amended again leaves no trace.
        "details": Vouched(
            f"kind IN ('opening', 'amendment') AND {COMPLETED}",
            ("""details || '{"gateway": "another"}'""",),
        ),
    },
    "legs": {name: Vouched() for name in ("request_id", "leg", "resource_id", "partition", "take", "give")},
    "inbox": {
        "partition": Vouched(),
        "request_id": Vouched(),
        # A cancel command may be present or absent.
        "verb": Vouched("verb <> 'cancel'", ("'cancel'", "'expire'")),
        "leg": Vouched(),
    },
    "decisions": {
        "request_id": Vouched(),
        "version": Vouched(),
        "current": Vouched(),
        # Earlier states must only allow the ones that follow.
        "status": Vouched(
            "current",
            (
                "CASE status WHEN 'completed' THEN 'rejected' ELSE 'completed' END",
                "'failed'",
                "'refunded'",
                "'cancelled'",
            ),
        ),
        "stage": Vouched("current AND stage IS NOT NULL", ("'awaiting_approval'", "NULL")),
        # The code must belong to its status. Only the batch had the reason for one of several.
        "code": Vouched(
            "true",
            ("CASE status WHEN 'cancelled' THEN 'out_of_stock' ELSE coalesce(code, '') || 'x' END", "NULL"),
        ),
        "refunded": Vouched("current"),
        "sequence": Vouched(),
        "decided_at": Vouched(),
        # Later versions' times occur nowhere else, except for opened and closed resources.
        "at": Vouched("version = 2"),
        "reference": Vouched(
            "current AND reference IS NOT NULL AND detail IS DISTINCT FROM 'paid_after_refund'"
        ),
        "reason": Vouched("current AND code = 'gateway_declined'"),
        "captured": Vouched("current AND captured IS NOT NULL"),
    },
    "reservations": {
        "request_id": Vouched(),
        "partition": Vouched(),
        "held": Vouched(),
        "partitions": Vouched(),
        # A command may be accepted at any time before the expiry, and it is in the inbox until it is decided.
        "command": Vouched(
            "EXISTS (SELECT FROM inbox WHERE inbox.request_id = reservations.request_id AND verb = command)",
            ("CASE command WHEN 'capture' THEN 'release' ELSE 'capture' END",),
        ),
    },
    "resources": {
        name: Vouched()
        for name in (
            "id",
            "kind",
            "unit",
            "client_id",
            "partition",
            "available",
            "held",
            "version",
            "overdraft",
            "per_account_limit",
            "starts_at",
            "ends_at",
            "gateway",
            "confirm_above",
            "approve_above",
            "metadata",
            "created_at",
            "closed_at",
            "digest",
            "last_entry_at",
            "per_account_daily_limit",
            "decimals",
        )
    },
    "usages": {
        # Usages of a resource without a limit are not kept. They are counted again when it gets one.
        "resource_id": Vouched(LIMITED),
        "client_id": Vouched(LIMITED),
        "account": Vouched(LIMITED),
        "used": Vouched(LIMITED),
        "limit": Vouched("true", ('"limit" + 1000', "-1", "NULL")),
    },
    "daily_usages": {
        "resource_id": Vouched("used > 0"),
        "client_id": Vouched("used > 0"),
        "account": Vouched("used > 0"),
        "day": Vouched("used > 0"),
        "used": Vouched(),
        "limit": Vouched("true", ('"limit" + 1000', "-1", "NULL")),
    },
    "entries": {
        name: Vouched()
        for name in (
            "resource_id",
            "version",
            "kind",
            "request_id",
            "leg",
            "account",
            "amount",
            "available",
            "held",
            "created_at",
            "digest",
        )
    },
    "effects": {
        "request_id": Vouched(),
        "leg": Vouched(),
        "partition": Vouched(),
        "gateway": Vouched(),
        # Before an operator acts on it, it is news and not a fact to compare with.
        "outcome": Vouched(PAID, ("'declined'", "'unknown'", "NULL")),
        "reference": Vouched(PAID),
        "reason": Vouched("outcome = 'declined'"),
        "due_at": Vouched(
            "outcome IS NULL OR outcome IN ('done', 'declined')",
            ("CASE WHEN due_at IS NULL THEN now() END", "NULL"),
        ),
        "voided_at": Vouched("true", ("CASE WHEN voided_at IS NULL THEN now() END", "NULL")),
    },
}

WORDS = "given by the caller, and nowhere else in the system"
CLOCK = "the time of its arrival; a clock can be set back, so nothing can contradict it"
OUTSIDE = "an event between the couriers and other systems; no sum depends on it"
PARTIES = "callers and receivers of notifications: kept by people, derived from nothing"
BULK = "the record of acts on many requests; the result of each request is verified there"
LAB = "a row of the race lab; nothing of Teller follows from it"
PROCESSES = "the processes at this moment; the ledger does not depend on them"
NEXT_LOW_WATER = "it becomes the low-water mark; if that is wrong, work lies below it, which is found"
ARCHIVE = "empty here: tests/store/test_archive_values.py changes them"
HISTORY = "a description for people; the described change is verified, its wording is not"

#: Columns and whole tables that can be changed without `teller verify` finding it, each with the reason.
NOT_VOUCHED = {
    "installation.only_row": "there is one row, which its CHECK ensures",
    "installation.schema_version": "every process compares it with its own when it starts",
    "installation.created_at": CLOCK,
    "installation.id": "a name in Redis; another one costs doorbells, which the sweep makes up for",
    "installation.made_in": "`teller migrate` compares it with the database that it is in",
    "partitions.drained_at": PROCESSES,
    "partitions.next_low_water": NEXT_LOW_WATER,
    "partitions.next_xid": NEXT_LOW_WATER,
    "request_kinds": "only schema.sql and migrations write it; a test compares it with the code",
    "requests.created_by": PARTIES,
    "requests.idempotency_key": WORDS,
    "requests.fingerprint": "the digest of a body that is not kept",
    "requests.metadata": WORDS,
    "requests.x_request_id": WORDS,
    "requests.traceparent": WORDS,
    "requests.created_at": CLOCK,
    "inbox.seq": "the order of arrival is nowhere else, and is gone once it is decided",
    "inbox.payload": WORDS,
    "inbox.created_at": CLOCK,
    "decisions.actor": HISTORY,
    "decisions.detail": HISTORY,
    "decisions.trace": HISTORY,
    "decisions.leg": "the leg that a rule refused; only the batch had the reason",
    "archives": ARCHIVE,
    "checkpoints": ARCHIVE,
    "archived_usages": ARCHIVE,
    "archived_decisions": ARCHIVE,
    "reservations.expires_at": "the end that its client asked for, counted from a time that is nowhere else",
    "reservations.accepted_at": CLOCK,
    "reservations.amount": WORDS,
    "effects.created_at": CLOCK,
    "effects.client_id": OUTSIDE,
    "effects.tries": OUTSIDE,
    "effects.token": OUTSIDE,
    "effects.leased_until": OUTSIDE,
    "effects.answered_at": OUTSIDE,
    "attempts": OUTSIDE,
    "gateways": OUTSIDE,
    "gateway_breakers": OUTSIDE,
    "alarms": PROCESSES,
    "sandbox_calls": OUTSIDE,
    "sandbox_payouts": OUTSIDE,
    "deliveries": OUTSIDE,
    "address_changes": OUTSIDE,
    "mail_counts": OUTSIDE,
    "fanouts": OUTSIDE,
    "codes": "removed when no request waits for them; that each waiting request has one is verified",
    "code_turns": OUTSIDE,
    "code_guesses": OUTSIDE,
    "accounts": PARTIES,
    "api_keys": PARTIES,
    "clients": PARTIES,
    "console_sessions": PARTIES,
    "webhooks": PARTIES,
    "audit": PARTIES,
    "bulk_actions": BULK,
    "bulk_items": BULK,
    "lab_things": LAB,
    "lab_approvals": LAB,
    "lab_results": LAB,
    "pauses": PROCESSES,
    "workers": PROCESSES,
    "ownership": PROCESSES,
}

#: Expressions that make rows of a table different. Elsewhere each row is.
SHAPES = {
    "requests": "kind || (SELECT concat(d.status, d.code) FROM decisions d WHERE d.request_id = id AND d.current)",
    "decisions": "concat(status, stage, code, version, current)",
    "entries": "kind || (version = 1)",
    "partitions": "sequence",
}

ANOTHER = {
    "text": ("{0} || 'x'", "CASE WHEN {0} IS NULL THEN 'other' END"),
    "bigint": ("coalesce({0}, 0) + 1", "coalesce({0}, 0) - 1"),
    "integer": ("coalesce({0}, 0) + 1",),
    "smallint": ("coalesce({0}, 0) + 1",),
    "smallint[]": ("coalesce({0}, '{{}}') || 63::smallint",),
    "boolean": ("NOT {0}",),
    "uuid": ("gen_random_uuid()",),
    "bytea": ("sha256({0})",),
    "jsonb": ("""coalesce({0}, '{{}}') || '{{"x": 1}}'""",),
    "date": ("{0} + 1", "{0} - 1"),
    "timestamp with time zone": ("coalesce({0}, now()) + interval '1 microsecond'",),
}


@dataclass
class Victim:
    """A system with every kind of event and without any constraint."""

    store: Store
    #: The type of each column and whether it allowed NULL, by table and column.
    columns: dict[tuple[str, str], tuple[str, bool]]


@pytest.fixture(scope="module")
def victim(postgres: Clones) -> Iterator[Victim]:
    """
    One system for all corruptions, each of which is undone. Building it takes longer than verifying it.
    """
    with (
        postgres.clone() as database,
        open_store(database) as store,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        play(store, monkeypatch)
        columns = {
            (table, column): (type_name, nullable)
            for table, column, type_name, nullable in store.owner.execute(
                "SELECT c.relname, a.attname, format_type(a.atttypid, NULL), NOT a.attnotnull"
                "  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
                " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
            )
        }
        _allow_everything(store.owner, columns)
        yield Victim(store, columns)


def _allow_everything(owner: Connection, columns: dict[tuple[str, str], tuple[str, bool]]) -> None:
    """Drop all triggers, constraints and unique indexes that could refuse a corruption."""
    constraints = owner.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p', 'f') ORDER BY contype = 'p'"
    ).fetchall()
    for table, name in constraints:
        owner.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {} CASCADE").format(
                sql.Identifier(table), sql.Identifier(name)
            )
        )
    for (table, column), (_, nullable) in columns.items():
        if not nullable and column in VOUCHED.get(table, {}):
            owner.execute(
                sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(
                    sql.Identifier(table), sql.Identifier(column)
                )
            )
    for (index,) in owner.execute(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indrelid"
        " WHERE indisunique AND c.relnamespace = 'public'::regnamespace"
    ).fetchall():
        owner.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(index)))
    owner.execute("SET session_replication_role = replica")


def execute(owner: Connection, statement: str, *parameters: str | None) -> list[tuple[str | None, ...]]:
    """Run a statement composed of the names and expressions above."""
    return owner.execute(statement.encode(), parameters).fetchall()


def places(victim: Victim, table: str, where: str) -> list[str | None]:
    """Return the rows that a corruption is tried on, as different as possible."""
    shape = SHAPES.get(table, "ctid")
    found = execute(
        victim.store.owner,
        f"SELECT min(ctid)::text FROM {table} WHERE {where} GROUP BY {shape} ORDER BY {shape}",  # noqa: S608  # above
    )
    assert found, f"no {table} where {where}"
    return [row[0] for row in found[:: -(-len(found) // ROWS_MAX)]]


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in VOUCHED.items() for column in columns]
)
def test_any_changed_value_is_found(victim: Victim, table: str, column: str) -> None:
    """
    One value is changed without triggers and constraints, and `teller verify` finds it.
    """
    owner, vouched = victim.store.owner, VOUCHED[table][column]
    type_name, nullable = victim.columns[table, column]
    name = f'"{column}"'
    changes = vouched.to
    if changes is None:
        changes = tuple(change.format(name) for change in ANOTHER[type_name]) + (
            ("NULL",) if nullable else ()
        )
    write = f"UPDATE {table} SET {name} = %s::text::{type_name} WHERE ctid = %s::tid RETURNING ctid::text"  # noqa: S608  # above
    tried, unseen = 0, []
    for first_place in places(victim, table, vouched.where):
        place = first_place
        for change in changes:
            read = f"SELECT {name}::text, ({change})::text FROM {table} WHERE ctid = %s::tid"  # noqa: S608  # above
            [(before, after)] = execute(owner, read, place)
            if before == after or (after is None and change != "NULL"):
                continue  # this change is for other rows
            [(place,)] = execute(owner, write, after, place)
            if not list(verify(owner)):
                unseen.append((before, after))
            [(place,)] = execute(owner, write, before, place)
            tried += 1
    assert tried
    assert unseen == []
    assert list(verify(owner)) == []


@pytest.mark.parametrize("table", VOUCHED)
def test_any_lost_row_is_found(victim: Victim, table: str) -> None:
    """
    A deleted row is found, except a cancel command and a usage of a resource without a limit.
    """
    owner = victim.store.owner
    where = {"inbox": "verb <> 'cancel'", "usages": LIMITED}.get(table, "true")
    unseen = []
    for place in places(victim, table, where):
        delete = f"DELETE FROM {table} AS lost WHERE ctid = %s::tid RETURNING lost::text"  # noqa: S608  # as above
        [(lost,)] = execute(owner, delete, place)
        if not list(verify(owner)):
            unseen.append(lost)
        restore = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT (%s::text::{table}).* RETURNING 1"
        execute(owner, restore, lost)
    assert unseen == []
    assert list(verify(owner)) == []


def test_every_column_is_verified_or_has_a_reason(victim: Victim) -> None:
    """
    A new column or table fails this test until it is in one of the two lists.
    """
    vouched = {(table, column) for table, columns in VOUCHED.items() for column in columns}
    excused = {
        (table, column)
        for table, column in victim.columns
        if {table, f"{table}.{column}"} & NOT_VOUCHED.keys()
    }
    existing = {table for table, _ in victim.columns} | {
        f"{table}.{column}" for table, column in victim.columns
    }

    assert vouched | excused == victim.columns.keys()
    assert vouched & excused == set()
    assert NOT_VOUCHED.keys() - existing == set()
