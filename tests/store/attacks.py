"""
Attacks of a role that was taken over, each with the guard that refuses it.

The parameters are the requests of the scene in tests/store/test_guards.py.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Guard(NamedTuple):
    """How the owner removes a guard, and puts it back."""

    remove: str
    restore: str


def trigger(name: str, table: str) -> Guard:
    return Guard(f"ALTER TABLE {table} DISABLE TRIGGER {name}", f"ALTER TABLE {table} ENABLE TRIGGER {name}")


def missing_grant(right: str, role: str) -> Guard:
    return Guard(f"GRANT {right} TO {role}", f"REVOKE {right} FROM {role}")


def both(one: Guard, other: Guard) -> Guard:
    return Guard(f"{one.remove}; {other.remove}", f"{other.restore}; {one.restore}")


class Attack(NamedTuple):
    """Statements of a role, which one guard refuses."""

    name: str
    role: str
    guard: Guard
    statements: tuple[str, ...]


def attack(name: str, role: str, guard: Guard, *statements: str) -> Attack:
    return Attack(name, role, guard, statements)


COMMAND: Final = (
    "INSERT INTO inbox (partition, request_id, verb, payload)"
    " SELECT partition, id, '{verb}', '{{\"actor\": \"olga\"}}' FROM requests WHERE id = %({request})s"
)
PLAIN_COMMAND: Final = (
    "INSERT INTO inbox (partition, request_id, verb) SELECT partition, id, '{verb}' FROM requests"
    " WHERE id = %({request})s"
)
LINE: Final = "INSERT INTO audit (actor, action, request_id) VALUES ('olga', '{verb}', %({request})s)"

_ENTRY: Final = (
    "INSERT INTO entries (resource_id, version, kind, request_id, amount, available, held, created_at, digest)"
    " SELECT resource_id, 1000, 'release', id, amount, 0, 0, now(), sha256('x') FROM requests"
    "  WHERE id = %({request})s"
)
_STATE: Final = (
    "INSERT INTO decisions (request_id, version, status, code, sequence, decided_at, at, actor)"
    " SELECT request_id, 3, 'cancelled', '{code}', sequence, now(), now(), 'x' FROM decisions"
    "  WHERE request_id = %({request})s"
)
END_OF_A_HOLD: Final = (
    _ENTRY,
    "UPDATE decisions SET current = false WHERE request_id = %({request})s AND current",
    _STATE,
    "DELETE FROM reservations WHERE request_id = %({request})s",
)

_LEG: Final = (
    "INSERT INTO entries (resource_id, version, kind, request_id, leg, amount, available, held, created_at, digest)"
    " SELECT l.resource_id, 1000, 'release', l.request_id, l.leg, {amount}, 0, 0, now(), sha256('x')"
    "   FROM legs l JOIN reservations v USING (request_id) WHERE l.request_id = %(legs_releasing)s AND l.leg = {leg}"
)
END_OF_ONE_LEG: Final = (
    _LEG.format(leg=0, amount="v.held"),
    *(statement.format(request="legs_releasing", code="released") for statement in END_OF_A_HOLD[1:]),
)

ATTACKS: Final = (
    attack(
        "a courier confirms a withdrawal",
        "teller_courier",
        trigger("own_commands", "inbox"),
        PLAIN_COMMAND.format(verb="confirm", request="unconfirmed"),
    ),
    attack(
        "a courier approves a withdrawal",
        "teller_courier",
        trigger("own_commands", "inbox"),
        PLAIN_COMMAND.format(verb="approve", request="unapproved"),
    ),
    attack(
        "a worker approves a withdrawal",
        "teller_worker",
        trigger("own_commands", "inbox"),
        PLAIN_COMMAND.format(verb="approve", request="unapproved"),
    ),
    attack(
        "the API settles a withdrawal",
        "teller_api",
        trigger("own_commands", "inbox"),
        COMMAND.format(verb="settle", request="declined"),
    ),
    attack(
        "the API confirms a withdrawal without its code",
        "teller_api",
        trigger("own_commands", "inbox"),
        LINE.format(verb="confirm", request="unconfirmed"),
        COMMAND.format(verb="confirm", request="unconfirmed"),
    ),
    *(
        attack(
            f"the API writes {verb} and no audit",
            "teller_api",
            trigger("own_commands", "inbox"),
            COMMAND.format(verb=verb, request="unapproved"),
        )
        for verb in ("approve", "deny", "replay")
    ),
    attack(
        "the API approves in the name of an older line",
        "teller_api",
        trigger("own_commands", "inbox"),
        COMMAND.format(verb="approve", request="approved_before"),
    ),
    attack(
        "a courier writes the audit, with numbers that are still to come and a date in the past",
        "teller_courier",
        missing_grant("INSERT ON audit", "teller_courier"),
        "INSERT INTO audit (id, at, actor, action) OVERRIDING SYSTEM VALUE"
        " SELECT n, '2020-01-01', 'olga', 'approve' FROM generate_series(1000, 1010) AS n",
    ),
    attack(
        "the API numbers and dates a line of the audit",
        "teller_api",
        missing_grant("INSERT (id, at) ON audit", "teller_api"),
        "INSERT INTO audit (id, at, actor, action) OVERRIDING SYSTEM VALUE"
        " VALUES (1000, '2020-01-01', 'olga', 'approve')",
    ),
    attack(
        "the API accepts a request in the past",
        "teller_api",
        missing_grant("INSERT (created_at) ON requests", "teller_api"),
        "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition,"
        "                      resource_id, account, amount, created_at)"
        " SELECT gen_random_uuid(), client_id, created_by, 'older', fingerprint, kind, partition, resource_id,"
        "        account, amount, '2020-01-01' FROM requests WHERE id = %(unapproved)s",
    ),
    attack(
        "the API takes a place in front of the others",
        "teller_api",
        missing_grant("INSERT (seq) ON inbox", "teller_api"),
        "INSERT INTO inbox (seq, partition, request_id, verb) OVERRIDING SYSTEM VALUE"
        " SELECT -1, partition, id, 'cancel' FROM requests WHERE id = %(unapproved)s",
    ),
    attack(
        "a courier removes a notification before it is sent",
        "teller_courier",
        trigger("pending_stays", "deliveries"),
        "DELETE FROM deliveries WHERE status = 'pending'",
    ),
    attack(
        "a courier turns a gateway's no into a yes",
        "teller_courier",
        trigger("outcome", "effects"),
        "UPDATE effects SET outcome = 'done' WHERE request_id = %(declined)s",
    ),
    attack(
        "a courier calls a gateway again after its no",
        "teller_courier",
        trigger("outcome", "effects"),
        "UPDATE effects SET due_at = now() WHERE request_id = %(declined)s",
    ),
    attack(
        "a courier calls a gateway after the refund",
        "teller_courier",
        trigger("outcome", "effects"),
        "UPDATE effects SET due_at = now() WHERE request_id = %(voided)s",
    ),
    attack(
        "a worker takes back what a refund voided",
        "teller_worker",
        trigger("outcome", "effects"),
        "UPDATE effects SET voided_at = NULL, due_at = now() WHERE request_id = %(voided)s",
    ),
    attack(
        "a worker multiplies every amount of a resource by ten, for its readers",
        "teller_worker",
        both(
            missing_grant("UPDATE (decimals) ON resources", "teller_worker"), trigger("decimals", "resources")
        ),
        "UPDATE resources SET decimals = decimals + 1",
    ),
    attack(
        "the API makes a revoked key valid",
        "teller_api",
        trigger("revocation", "api_keys"),
        "UPDATE api_keys SET revoked_at = NULL WHERE id = %(revoked)s",
    ),
    attack(
        "the API uses a code twice",
        "teller_api",
        trigger("use", "codes"),
        "UPDATE codes SET used_at = NULL WHERE request_id = %(used)s",
    ),
    attack(
        "the API captures a reservation whose release was accepted",
        "teller_api",
        trigger("command", "reservations"),
        "UPDATE reservations SET command = 'capture' WHERE request_id = %(releasing)s",
    ),
    attack(
        "the API accepts a capture after the expiry",
        "teller_api",
        trigger("command", "reservations"),
        "UPDATE reservations SET command = 'capture', accepted_at = now() WHERE request_id = %(lapsed)s",
    ),
    attack(
        "the API captures what was not accepted",
        "teller_api",
        trigger("own_commands", "inbox"),
        COMMAND.format(verb="capture", request="lapsed"),
    ),
    attack(
        "the API prolongs a hold",
        "teller_api",
        missing_grant("UPDATE (expires_at) ON reservations", "teller_api"),
        "UPDATE reservations SET expires_at = 'infinity' WHERE request_id = %(reserved)s",
    ),
    attack(
        "a worker forgets a hold that is open",
        "teller_worker",
        trigger("right_end", "reservations"),
        "DELETE FROM reservations WHERE request_id = %(lapsed)s",
    ),
    *(
        attack(
            f"a worker ends a hold as {code}, and it should not",
            "teller_worker",
            trigger("right_end", "reservations"),
            *(statement.format(request=request, code=code) for statement in END_OF_A_HOLD),
        )
        for code, request in (
            ("reservation_expired", "reserved"),  # before its time
            ("reservation_expired", "capturing"),  # beside an accepted capture
            ("released", "capturing"),
            ("released", "lapsed"),  # that no client released
        )
    ),
    attack(
        "a worker ends one of several legs",
        "teller_worker",
        trigger("whole_hold", "entries"),
        _LEG.format(leg=1, amount="l.take"),
    ),
    attack(
        "a worker ends one of several legs, with the amount of all, and forgets the hold",
        "teller_worker",
        trigger("right_end", "reservations"),
        *END_OF_ONE_LEG,
    ),
    attack(
        "a worker writes the hold of legs that are not held",
        "teller_worker",
        trigger("whole_hold", "reservations"),
        "INSERT INTO reservations (request_id, partition, expires_at, held, partitions)"
        " SELECT id, partition, now(), 2, ARRAY[partition] FROM requests WHERE id = %(legs_queued)s",
    ),
    attack(
        "a worker makes a table that hides another one",
        "teller_worker",
        missing_grant("TEMPORARY ON DATABASE {database}", "PUBLIC"),
        "CREATE TEMPORARY TABLE decisions (request_id uuid, current boolean)",
        "INSERT INTO pg_temp.decisions VALUES (NULL)",
    ),
    attack(
        "a courier stores a large object",
        "teller_courier",
        missing_grant("EXECUTE ON FUNCTION lo_from_bytea(oid, bytea)", "PUBLIC"),
        "SELECT lo_from_bytea(0, 'anything')",
    ),
    *(
        attack(
            f"the archive removes a request that is {state}",
            "teller_archive",
            trigger("removal", "requests"),
            f"DELETE FROM requests WHERE id = %({request})s",  # noqa: S608  # names from above
        )
        for state, request in (("unfinished", "unconfirmed"), ("held", "reserved"), ("given back", "voided"))
    ),
    attack(
        "the archive removes the opening of a resource",
        "teller_archive",
        trigger("removal", "requests"),
        "DELETE FROM requests WHERE kind = 'opening'",
    ),
    *(
        attack(
            f"the archive removes the {table} of a request that stays",
            "teller_archive",
            trigger("removal", table),
            f"DELETE FROM {table} WHERE request_id = %(voided)s",  # noqa: S608  # names from above
        )
        for table in ("decisions", "entries", "effects")
    ),
    attack(
        "the archive removes an entry without a checkpoint",
        "teller_archive",
        both(trigger("removal", "entries"), trigger("removal", "requests")),
        "DELETE FROM requests WHERE id = %(voided)s",
        "DELETE FROM entries WHERE request_id = %(voided)s",
    ),
)
