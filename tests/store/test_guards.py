"""
A role of the database that was taken over does not pay: each attack is refused by one guard, and by nothing else.

Each test tries the attack as its role. Then the owner removes the guard, and the same attack succeeds.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, IntegrityConstraintViolation

from processor.batch import run as batch
from processor.storage import migrations
from tests.servers import PARTITIONS
from tests.store.attacks import ATTACKS, PLAIN_COMMAND, Attack, Guard
from tests.store.history import record_answer, refund_of
from tests.store.rights import ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

#: Functions with the rights of their owner: they write rows that no role may write.
OF_THE_OWNER: Final = {"place_legs", "queue_legs"}
VERBS: Final = (
    *("decide", "cancel", "settle", "replay", "expire", "confirm", "approve", "deny", "capture", "release"),
)


@pytest.fixture
def scene(store: Store, database: Database) -> dict[str, Any]:
    """
    A withdrawal in each state that an attack is about, a revoked key, and the rights of `teller migrate`.
    """
    migrations.migrate(database.url, PARTITIONS)  # a copy of a database lacks the rights of the database
    store.owner.execute(
        "INSERT INTO accounts (client_id, name, email) VALUES ('shop', 'ada', 'ada@example.com')"
    )
    store.open("safe", "balance", 100_000, confirm_above=10)
    store.open("vault", "balance", 100_000, approve_above=10)
    store.open("paid", "balance", 100_000, gateway="sandbox")
    unconfirmed, used = store.accept(*(store.asks("withdrawal", "safe", "ada", 5_000) for _ in range(2)))
    unapproved, approved = store.accept(*(store.asks("withdrawal", "vault", "ada", 5_000) for _ in range(2)))
    declined, voided = store.accept(*(store.asks("withdrawal", "paid", "ada", 5_000) for _ in range(2)))
    for resource in ("safe", "vault", "paid"):
        store.drain(resource)
    store.owner.execute("UPDATE codes SET used_at = now() WHERE request_id = %s", (used,))
    store.owner.execute(
        "INSERT INTO audit (at, actor, action, request_id) VALUES (now() - interval '1 hour', 'olga', 'approve', %s)",
        (approved,),
    )
    store.open("seats", "stock", 100)
    kept = {"ttl_seconds": 600}
    held = [store.asks("reservation", "seats", "ada", 5, details=kept) for _ in range(4)]
    reserved, releasing, capturing, lapsed = store.accept(*held)
    store.drain("seats")
    for request, command in ((releasing, "release"), (capturing, "capture")):
        store.owner.execute(
            "UPDATE reservations SET command = %s, accepted_at = now() WHERE request_id = %s",
            (command, request),
        )
    store.owner.execute("UPDATE reservations SET expires_at = now() WHERE request_id = %s", (lapsed,))
    store.open("gate", "stock", 100)
    [legs_releasing] = store.accept(store.reserves("ada", ("seats", 1), ("gate", 1)))
    batch.drain_once(store.worker, range(PARTITIONS))
    store.owner.execute(
        "UPDATE reservations SET command = 'release', accepted_at = now() WHERE request_id = %s",
        (legs_releasing,),
    )
    [legs_queued] = store.accept(store.reserves("ada", ("seats", 1), ("gate", 1)))
    record_answer(store, declined, "declined")
    record_answer(store, voided, "unknown")
    store.drain("paid")
    store.accept(refund_of(store, voided))
    store.drain("paid")
    store.owner.execute("INSERT INTO clients (id) VALUES ('shop')")
    [(revoked,)] = store.owner.execute(
        "INSERT INTO api_keys (id, client_id, name, role, digest, revoked_at)"
        " VALUES (gen_random_uuid(), 'shop', 'stolen', 'client', sha256('a key'), now()) RETURNING id"
    ).fetchall()
    return {
        "unconfirmed": unconfirmed,
        "used": used,
        "unapproved": unapproved,
        "approved_before": approved,
        "declined": declined,
        "voided": voided,
        "reserved": reserved,
        "releasing": releasing,
        "capturing": capturing,
        "lapsed": lapsed,
        "legs_releasing": legs_releasing,
        "legs_queued": legs_queued,
        "revoked": revoked,
    }


@contextlib.contextmanager
def connected(database: Database) -> Iterator[dict[str, Connection]]:
    """Connect as each role."""
    with contextlib.ExitStack() as opened:
        yield {
            role: opened.enter_context(psycopg.connect(url, autocommit=True))
            for role, url in zip(ROLES, database.role_urls, strict=True)
        }


def is_refused(connection: Connection, attack: Attack, scene: dict[str, Any]) -> bool:
    """Run the attack and roll it back. Returns whether a guard refused it."""
    try:
        with connection.transaction(force_rollback=True):
            for statement in attack.statements:
                changed = connection.execute(statement.encode(), scene)
                if not statement.startswith("CREATE"):
                    assert changed.rowcount > 0, attack.name
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # as the commit does
    except (InsufficientPrivilege, IntegrityConstraintViolation):
        return True
    return False


def test_each_attack_is_refused_by_its_guard(store: Store, database: Database, scene: dict[str, Any]) -> None:
    """
    The attack is refused. Without the guard it succeeds, so no other reason refuses it.
    """
    wrong = []
    with connected(database) as roles:
        for attack in ATTACKS:
            guard = Guard(*(statement.format(database=database.name) for statement in attack.guard))
            if not is_refused(roles[attack.role], attack, scene):
                wrong.append((attack.name, "succeeds"))
            store.owner.execute(guard.remove.encode())
            if is_refused(roles[attack.role], attack, scene):
                wrong.append((attack.name, "is refused by something else"))
            store.owner.execute(guard.restore.encode())
            if not is_refused(roles[attack.role], attack, scene):
                wrong.append((attack.name, "succeeds after the guard was put back"))
    assert wrong == []


def test_each_role_writes_its_own_verbs(database: Database) -> None:
    """
    People command through the API, only a worker's sweep lets codes expire, and only a courier settles.
    """
    own = {
        "teller_api": set(VERBS) - {"settle", "expire"},
        "teller_worker": {"expire"},
        "teller_courier": {"settle"},
        "teller_archive": set(),
    }
    statement = "INSERT INTO inbox (partition, request_id, verb) VALUES (7, %s, %s)"
    with connected(database) as roles:
        for role, connection in roles.items():
            # A kept plan checks the rights of a whole condition, also of the part that is not evaluated.
            connection.execute("SET plan_cache_mode = force_generic_plan")
            refused = set()
            for verb in VERBS:
                try:
                    connection.execute(statement, (uuid.uuid4(), verb))
                except InsufficientPrivilege:
                    refused.add(verb)
                except IntegrityConstraintViolation:
                    assert role == "teller_api"  # its own verb, without an audit line
            assert set(VERBS) - refused == own[role], role


def test_a_withdrawal_is_paid_to_a_courier_only_without_the_guard(
    store: Store, database: Database, scene: dict[str, Any]
) -> None:
    """
    The commands of a courier that was taken over do not reach the batch. Without the guard they would pay 5,000.
    """
    waiting = [scene["unconfirmed"], scene["unapproved"]]
    commands = [
        PLAIN_COMMAND.format(verb="confirm", request="unconfirmed"),
        PLAIN_COMMAND.format(verb="approve", request="unapproved"),
    ]

    def command(courier: Connection) -> None:
        for statement in commands:
            courier.execute(statement.encode(), scene)
        store.drain("safe")
        store.drain("vault")

    with connected(database) as roles:
        with pytest.raises(InsufficientPrivilege):
            command(roles["teller_courier"])
        assert store.statuses(waiting) == ["processing", "processing"]

        store.owner.execute("DROP TRIGGER own_commands ON inbox")
        command(roles["teller_courier"])
        assert store.statuses(waiting) == ["completed", "completed"]


def test_functions_find_the_tables_of_the_schema_alone(store: Store) -> None:
    """
    Each function has a search path that ends with pg_temp, or names the schema of each table. The two that have the
    rights of their owner can be neither called by a role nor attached to a table.
    """
    functions = store.owner.execute(
        "SELECT proname, proconfig, prosrc, prosecdef FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()

    assert len(functions) >= 5
    for name, settings, source, is_definer in functions:
        assert is_definer == (name in OF_THE_OWNER), name
        if is_definer:
            assert (
                store.owner.execute(
                    "SELECT role FROM unnest(%s::text[]) AS role WHERE has_function_privilege(role, %s, 'EXECUTE')",
                    (list(ROLES), f"{name}()"),
                ).fetchall()
                == []
            )
        if "search_path=pg_catalog, public, pg_temp" not in (settings or []):
            named = re.findall(r"\b(?:FROM|JOIN)\s+([\w.]+)", source)
            assert all(
                table == "made" or table.startswith("public.") for table in named if table != "WHERE"
            ), name


@pytest.mark.usefixtures("scene")
def test_a_temporary_table_hides_nothing(store: Store, database: Database) -> None:
    """
    Where an owner cannot revoke temporary tables, a role still finds the tables of the schema first.
    """
    store.owner.execute(f"GRANT TEMPORARY ON DATABASE {database.name} TO PUBLIC".encode())
    with connected(database) as roles:
        for connection in roles.values():
            connection.execute("CREATE TEMPORARY TABLE requests (id uuid)")
            assert connection.execute(
                "SELECT 'requests'::regclass = 'public.requests'::regclass"
            ).fetchall() == [(True,)]


@pytest.mark.usefixtures("scene")
def test_no_role_makes_what_the_schema_does_not_have(store: Store, database: Database) -> None:
    """
    No role makes a temporary table, a schema or a large object, or moves a sequence.
    """
    sequences = [
        statement.format(name)
        for (name,) in store.owner.execute("SELECT seqrelid::regclass::text FROM pg_sequence")
        for statement in ("SELECT nextval('{}')", "SELECT setval('{}', 1)", "SELECT last_value FROM {}")
        # Each process reads it at its start, to find numbers behind the data.
        if (name, statement) != ("inbox_seq_seq", "SELECT last_value FROM {}")
    ]
    assert len(sequences) > 10
    others = [
        "CREATE TEMPORARY TABLE mine (n integer)",
        "CREATE TEMPORARY SEQUENCE mine",
        "CREATE TEMPORARY VIEW mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION pg_temp.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    ]
    with connected(database) as roles:
        for role, connection in roles.items():
            for statement in (*sequences, *others):
                try:
                    connection.execute(statement.encode())
                except InsufficientPrivilege:
                    continue
                pytest.fail(f"{role}: {statement}")
    callable_ones = (
        "SELECT rolname, p.oid::regprocedure::text FROM pg_proc p, pg_roles"
        " WHERE rolname = ANY(%s) AND pronamespace = 'pg_catalog'::regnamespace"
        "   AND (proname LIKE 'lo\\_%%' OR proname IN ('loread', 'lowrite')) {}"
    )
    revoked = "AND has_function_privilege(rolname, p.oid, 'EXECUTE')"
    assert len(store.owner.execute(callable_ones.format(""), (list(ROLES),)).fetchall()) > 10 * len(ROLES)
    assert store.owner.execute(callable_ones.format(revoked), (list(ROLES),)).fetchall() == []


def test_only_a_right_to_delete_lets_a_role_lock_a_table(store: Store, database: Database) -> None:
    """
    API and courier can lock no table of batches against them: the watch of the workers finds these locks.
    """
    tables = [
        table
        for (table,) in store.owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
    ]
    with connected(database) as roles:
        for role, connection in roles.items():
            lockable = set()
            for table in tables:
                with contextlib.suppress(InsufficientPrivilege), connection.transaction(force_rollback=True):
                    connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
                    lockable.add(table)
            deletable = {
                table
                for (table,) in store.owner.execute(
                    "SELECT name FROM unnest(%s::text[]) AS name WHERE has_table_privilege(%s, name, 'DELETE')",
                    (tables, role),
                )
            }
            assert lockable == deletable, role
            if role not in ("teller_worker", "teller_archive"):
                assert not lockable & {"inbox", "requests", "decisions", "entries", "resources", "partitions"}
