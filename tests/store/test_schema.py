"""
Refusals by PostgreSQL itself: the wrong role, changes of append-only tables, impossible states.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import (
    CheckViolation,
    InsufficientPrivilege,
    IntegrityConstraintViolation,
    UniqueViolation,
)

from processor.domain.kinds import KINDS
from tests.store.rights import ROLES, columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.storage.connections import Connection
    from tests.servers import Database
    from tests.store.store import Store

SCHEMA: Final = Path(__file__).parents[2] / "schema.sql"
VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
#: Words in the table of tables and roles of schema.sql, as verbs.
WORDS: Final = {
    "read": {"SELECT"},
    "read but the secrets": {"SELECT"},
    "insert": {"INSERT"},
    "update": {"UPDATE"},
    "revoke": {"UPDATE"},
    "supersede": {"UPDATE"},
    "resend": {"UPDATE"},
    "disable": {"UPDATE"},
    "delete": {"DELETE"},
    "write": {"INSERT", "UPDATE", "DELETE"},
}


@pytest.fixture
def owner(database: Database) -> Iterator[Connection]:
    """
    The owner of the schema.
    """
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


# ---------------------------------------------------------------- rights of the roles


def test_each_role_may_do_what_the_table_says_and_nothing_else(owner: Connection, database: Database) -> None:
    """
    Every table, role, verb and column is tried. The table in schema.sql lists what is permitted,
    tests/store/rights.py names the columns, and all else is refused.

    A table without a line there fails.
    """
    given = _table_of_grants()
    tables: dict[str, list[str]] = {}
    for table, column in owner.execute(
        "SELECT relname, attname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
        "   AND attnum > 0 AND NOT attisdropped"
    ):
        tables.setdefault(table, []).append(column)
    assert sorted(given) == sorted({pattern for table in tables for pattern in _lines_of(table, given)})
    wrong = []
    for role, url in zip(ROLES, database.role_urls, strict=True):
        with psycopg.connect(url, autocommit=True) as connection:
            for table, names in tables.items():
                [line] = _lines_of(table, given)
                for verb in VERBS:
                    some = columns(table, role, verb)
                    for column in [""] if verb in ("DELETE", "TRUNCATE") else names:
                        may = verb in given[line][role] and (some is None or not column or column in some)
                        if _is_permitted(connection, verb, table, column) != may:
                            wrong.append((role, verb, table, column, f"should be permitted: {may}"))
    assert wrong == []


def test_no_role_owns_makes_or_disables_anything(owner: Connection, database: Database) -> None:
    """
    No role has the rights of another, and none can change the schema, disable a trigger or set a sequence.
    """
    assert (
        owner.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"
            "   AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR NOT rolcanlogin)",
            (list(ROLES),),
        ).fetchall()
        == []
    )
    assert (
        owner.execute(
            "SELECT roleid::regrole, member::regrole FROM pg_auth_members"
            " WHERE roleid::regrole::text LIKE 'teller\\_%%' OR member::regrole::text LIKE 'teller\\_%%'"
        ).fetchall()
        == []
    )
    for url in database.role_urls:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in (
                "CREATE TABLE mine (n integer)",
                "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
                "ALTER TABLE entries DISABLE TRIGGER ALL",
                "DROP TRIGGER append_only ON entries",
                "SET session_replication_role = replica",
                "CREATE TRIGGER mine BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION refuse_change()",
                "SELECT setval('inbox_seq_seq', 1)",
            ):
                with pytest.raises(InsufficientPrivilege):
                    connection.execute(statement.encode())


def test_nothing_is_granted_to_public_or_with_grant_option(owner: Connection) -> None:
    """
    Beyond the table's verbs there is no right on tables, columns or sequences.

    Nothing may be referred to, given a trigger, or maintained. No right is grantable, and PUBLIC has none.
    """
    assert (
        owner.execute(
            "SELECT name, grantee::regrole, privilege_type"
            "  FROM (SELECT relname AS name, relacl AS acl FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            "         UNION ALL"
            "        SELECT attname, attacl FROM pg_attribute JOIN pg_class c ON attrelid = c.oid"
            "         WHERE relnamespace = 'public'::regnamespace) AS ours, aclexplode(acl)"
            " WHERE grantee <> grantor AND (is_grantable OR grantee = 0 OR privilege_type <> ALL(%s))",
            (["SELECT", "INSERT", "UPDATE", "DELETE"],),
        ).fetchall()
        == []
    )


def _table_of_grants() -> dict[str, dict[str, set[str]]]:
    """Read the table in the comment of schema.sql. Returns the permitted verbs by line and role."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in re.findall(r"^-- ([\w*]+ +\|.*)$", SCHEMA.read_text(), flags=re.MULTILINE):
        table, *cells = (cell.strip() for cell in line.split("|"))
        assert len(cells) == len(ROLES), line
        found[table] = {
            role: {verb for word in cell.split(", ") if word for verb in WORDS[word]}
            for role, cell in zip(ROLES, cells, strict=True)
        }
    return found


def _lines_of(table: str, given: dict[str, dict[str, set[str]]]) -> list[str]:
    """Return the line for a table. `sandbox_*` covers several."""
    lines = [pattern for pattern in given if fnmatch.fnmatch(table, pattern)]
    assert len(lines) == 1, f"{table} needs one line in the table of tables and roles, and has {lines}"
    return lines


def _is_permitted(connection: Connection, verb: str, table: str, column: str) -> bool:
    """Try the statement and roll it back. Returns False if a grant is missing."""
    name, part = sql.Identifier(table), sql.Identifier(column) if column else sql.SQL("")
    statement = {
        "SELECT": sql.SQL("SELECT {1} FROM {0} LIMIT 0"),
        "INSERT": sql.SQL("INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT NULL WHERE false"),
        "UPDATE": sql.SQL("UPDATE {0} SET {1} = DEFAULT WHERE false"),
        "DELETE": sql.SQL("DELETE FROM {0} WHERE false"),
        "TRUNCATE": sql.SQL("TRUNCATE {0} CASCADE"),
    }[verb].format(name, part)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except InsufficientPrivilege:
        return False
    return True


# ---------------------------------------------------------------- changes refused even to the owner


@pytest.fixture
def history(store: Store) -> Store:
    """
    A store with some history: an opening, a redemption, a refusal, an act of an admin.
    """
    store.open("sneaker", available=1)
    store.accept(store.redeems("sneaker", "ada"), store.redeems("sneaker", "bob"))
    store.drain("sneaker")
    store.owner.execute("INSERT INTO audit (actor, action) VALUES ('admin', 'test')")
    return store


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount = amount + 1",
        "UPDATE entries SET created_at = now()",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE requests SET amount = 1",
        "DELETE FROM requests",
        "TRUNCATE requests",
        "TRUNCATE requests, entries, inbox",
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DELETE FROM decisions",
        "TRUNCATE decisions",
        "UPDATE decisions SET status = 'refunded', code = 'x'",
        "UPDATE decisions SET current = false, detail = 'changed by the way'",
        "UPDATE decisions SET current = true",
    ],
)
def test_history_cannot_be_changed(history: Store, statement: str) -> None:
    """
    History cannot be changed, deleted or emptied, not even by the owner of the schema.
    """
    before = history.contents()

    with pytest.raises(IntegrityConstraintViolation):
        history.owner.execute(statement.encode())

    assert history.contents() == before


def test_every_column_of_a_decision_is_guarded(history: Store) -> None:
    """
    A new column of the decisions must be in the trigger, too. A column that it does not compare could be
    changed.
    """
    condition = history.one("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'only_supersede'")
    columns = history.owner.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'decisions'::regclass AND attnum > 0 AND NOT attisdropped"
    ).fetchall()

    assert len(columns) >= 15
    for (column,) in columns:
        assert re.search(rf"old\.{column}\b", condition)
        assert re.search(rf"new\.{column}\b", condition)


def test_a_state_is_superseded_once_and_never_comes_back(history: Store) -> None:
    """
    The only change of a decision is from current to not current.
    """
    one = history.one("SELECT request_id FROM decisions ORDER BY sequence LIMIT 1")
    with history.owner.transaction(force_rollback=True):  # rolled back, so the ledger stays as it is
        history.owner.execute("UPDATE decisions SET current = false WHERE request_id = %s", (one,))
        with pytest.raises(IntegrityConstraintViolation):
            history.owner.execute("UPDATE decisions SET current = true WHERE request_id = %s", (one,))


def test_a_request_is_in_one_state_at_a_time(history: Store) -> None:
    """
    The next state comes after the end of the previous one, also within one statement.
    """
    one = history.one(
        "SELECT request_id FROM decisions WHERE status = 'completed' AND version = 2 AND current LIMIT 1"
    )
    further = (
        "INSERT INTO decisions (request_id, version, status, code, sequence, decided_at, at, actor, current)"
        " SELECT %s, v.version, CASE v.version WHEN 3 THEN 'refunded' ELSE 'failed' END, 'x', 1, now(), now(), '',"
        "        v.current"
        "   FROM unnest(%s::int[], %s::bool[]) AS v(version, current)"
    )
    with pytest.raises(UniqueViolation, match="in a state already"):
        history.owner.execute(further, (one, [3], [True]))
    with history.owner.transaction(force_rollback=True):
        history.owner.execute(
            "UPDATE decisions SET current = false WHERE request_id = %s AND current", (one,)
        )
        with pytest.raises(UniqueViolation, match="in a state already"), history.owner.transaction():
            history.owner.execute(further, (one, [3, 4], [True, True]))
        history.owner.execute(further, (one, [3, 4], [False, True]))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE resources SET available = -1",
        "UPDATE resources SET available = -8, overdraft = 7",
        "UPDATE resources SET available = 9007199254740992",
        "UPDATE resources SET held = -1",
        "UPDATE resources SET overdraft = -1, available = 5",
        "UPDATE resources SET version = -1",
        "UPDATE resources SET last_entry_at = NULL",
        "UPDATE resources SET digest = 'short'",
        "UPDATE resources SET per_account_limit = 0",
        "UPDATE resources SET kind = 'gold'",
        "UPDATE resources SET ends_at = 'infinity'",
        "INSERT INTO usages VALUES ('sneaker', 'shop', 'ada', 2, 1)",
        "INSERT INTO usages VALUES ('sneaker', 'shop', 'ada', -1, 1)",
        "INSERT INTO daily_usages VALUES ('sneaker', 'shop', 'ada', '2026-11-29', 2, 1)",
        "INSERT INTO daily_usages VALUES ('sneaker', 'shop', 'ada', '2026-11-29', -1, 1)",
        "UPDATE resources SET per_account_daily_limit = 0",
        (
            "INSERT INTO resources (id, kind, partition, available, created_at, digest, decimals)"
            " VALUES ('euro', 'balance', 0, 0, now(), sha256(''), 10)"
        ),
        "INSERT INTO inbox (partition, request_id, verb) VALUES (1, gen_random_uuid(), 'frobnicate')",
        "UPDATE installation SET partitions = 0",
        "INSERT INTO clients (id) VALUES ('two words')",
    ],
)
def test_an_impossible_state_is_refused(history: Store, statement: str) -> None:
    """
    CHECKs hold overdraft, holds, usages, names and numbers, whichever role writes.
    """
    with pytest.raises(CheckViolation):
        history.owner.execute(statement.encode())


def test_decimals_are_final_also_for_the_owner(history: Store) -> None:
    """
    An update that keeps them passes.
    """
    history.owner.execute("UPDATE resources SET decimals = decimals")
    with pytest.raises(psycopg.IntegrityError, match="decimals of resources is final"):
        history.owner.execute("UPDATE resources SET decimals = 3")


@pytest.mark.parametrize(
    ("kind", "account", "amount", "refund_of"),
    [
        ("redemption", None, 1, None),
        ("redemption", "ada", None, None),
        ("redemption", "ada", 0, None),
        ("withdrawal", None, 1, None),
        ("reservation", "ada", None, None),
        ("deposit", None, None, None),
        ("deposit", None, 0, None),
        ("opening", None, None, None),
        ("opening", None, -1, None),
        ("refund", None, 1, None),
        ("redemption", "ada", 2**53, None),
        ("gift", "ada", 1, None),
    ],
)
def test_a_request_without_the_fields_of_its_kind_is_refused(
    owner: Connection, kind: str, account: str | None, amount: int | None, refund_of: uuid.UUID | None
) -> None:
    """
    Account and amount are present where the kind needs them, and NULL does not pass.
    """
    with pytest.raises(CheckViolation):
        owner.execute(
            "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
            "                      resource_id, account, amount, refund_of)"
            " VALUES (gen_random_uuid(), 'shop', gen_random_uuid(), 'k', sha256('x'), %s, 1, 'r', %s, %s, %s)",
            (kind, account, amount, refund_of),
        )


def test_the_kinds_of_the_schema_are_those_of_the_domain(owner: Connection) -> None:
    """
    The table `request_kinds` has a row for each kind, and each of its columns has the value of the kind's field.
    """
    rows = owner.execute("SELECT to_jsonb(request_kinds) FROM request_kinds").fetchall()
    stored = {row.pop("kind"): row for (row,) in rows}

    assert stored == {
        name: {column: getattr(kind, column) for column in stored["redemption"]}
        for name, kind in KINDS.items()
    }


STATES: Final = ("processing", "completed", "rejected", "refunded", "cancelled", "failed")
STAGES: Final = ("awaiting_confirmation", "awaiting_approval", "queued", "held", "settling")


def test_a_state_has_a_stage_or_a_code_as_its_status_requires(owner: Connection) -> None:
    """
    A processing request has a known stage, and others have none. A completed one has no code, and each no has
    one.
    """
    for status, stage, code in itertools.product(
        (*STATES, "done", ""), (*STAGES, "waiting", None), ("out_of_stock", None)
    ):
        right_stage = stage in STAGES if status == "processing" else stage is None
        right_code = {"completed": code is None, "processing": True}.get(status, code is not None)
        try:
            owner.execute(
                "INSERT INTO decisions (request_id, version, status, stage, code, sequence, decided_at, at, actor)"
                " VALUES (gen_random_uuid(), 2, %s, %s, %s, 1, now(), now(), 'test')",
                (status, stage, code),
            )
            taken = True
        except CheckViolation:
            taken = False
        assert taken == (status in STATES and right_stage and right_code), (status, stage, code)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("hold", "hold", True),
        ("debit", "debit", True),
        ("credit", "credit", True),
        ("capture", "capture", True),
        ("capture", "release", True),
        ("release", "capture", True),
        ("hold", "capture", False),
        ("hold", "release", False),
    ],
)
def test_a_request_takes_once_and_its_hold_ends_once(
    owner: Connection, first: str, second: str, *, refused: bool
) -> None:
    """
    A UNIQUE index allows one entry of a kind for a leg of a request, and one end for a hold.
    """
    request = uuid.uuid4()

    def enter(version: int, kind: str) -> None:
        owner.execute(
            "INSERT INTO entries (resource_id, version, kind, request_id, amount, available, held, created_at,"
            "                     digest) VALUES ('r', %s, %s, %s, 1, 0, 0, now(), sha256('x'))",
            (version, kind, request),
        )

    enter(1, first)
    if refused:
        with pytest.raises(UniqueViolation):
            enter(2, second)
    else:
        enter(2, second)
