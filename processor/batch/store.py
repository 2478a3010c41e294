"""
The worksheet of a batch in PostgreSQL: reads the snapshot, and writes the decisions, as sets.

Every function runs in the transaction and the pipeline of `processor/batch/run.py`, and none commits. The decisions
of the first rows are written while the next rows are decided.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from processor.batch.inbox import Taken
from processor.batch.snapshot import Decided, Delivery, Row, Snapshot, UsageKey, Webhook
from processor.batch.worksheet import Worksheet
from processor.domain import ledger
from processor.domain.kinds import KINDS
from processor.domain.model import MAX_QUANTITY, TELLER, Effect, Entry, Request, Reservation, Resource, State
from processor.domain.partitioning import partition_of
from processor.domain.rules import amendments, daily_limits
from processor.domain.rules.daily_limits import DailyUsage
from processor.errors import DatabaseUnavailable
from processor.storage import json_text, statements
from processor.storage.arrays import Execute, Rows

if TYPE_CHECKING:
    from uuid import UUID

SQL = statements.beside(__file__)
#: The first field that has its default in a plain state, and the defaults from there on.
_PLAIN_FROM: Final = State._fields.index("version")
_PLAIN: Final = tuple(State._field_defaults[name] for name in State._fields[_PLAIN_FROM:])


def read(
    execute: Execute, taken: Taken, rows: list[Row], sequences: dict[int, int], *, recheck: bool = False
) -> Worksheet:
    """
    Read everything that these rows can touch, in one or two round trips.

    `recheck`: the rows could not be written before, so the states of all their requests are read, too.
    """
    requests = _single([row.request for row in rows])
    resources_read = execute("read_resources", {"ids": list({request.resource_id for request in requests})})
    listeners_read = _ask_for_listeners(execute, requests)

    snapshot = Snapshot({}, {}, {}, taken.cancels)
    for home, *columns in resources_read:
        resource = Resource(*columns)
        snapshot.resources[resource.id] = resource
        snapshot.homes[resource.id] = home
    for request in requests:
        if request.resource_id not in snapshot.homes:
            snapshot.homes[request.resource_id] = partition_of(request.resource_id, taken.partition_count)
    _note_listeners(snapshot, listeners_read)
    _read_usages(execute, snapshot, requests)
    _read_most_used(execute, snapshot, requests)
    _read_history(execute, snapshot, rows, recheck=recheck)
    return Worksheet(taken.now, dict(sequences), snapshot)


def _single(requests: list[Request]) -> list[Request]:
    """Return requests with one resource each: a request with legs counts as one request for each leg."""
    if all(request.details is None or "legs" not in request.details for request in requests):
        return requests
    return [
        one
        for request in requests
        for one in (map(request.of_leg, request.legs) if request.legs else (request,))
    ]


def _ask_for_listeners(execute: Execute, requests: Iterable[Request]) -> Rows:
    """Send the query for the webhooks and addresses that are notified of these requests."""
    owners = {(request.client_id, request.account) for request in requests}
    clients = list({client for client, _ in owners})
    accounts = list({account for _, account in owners if account is not None})
    return execute("read_listeners", {"client_ids": clients, "accounts": accounts})


def _note_listeners(snapshot: Snapshot, listeners_read: Rows) -> None:
    webhooks: dict[str, list[Webhook]] = {}
    for client, account, webhook, events, email in listeners_read:
        if webhook is None:
            snapshot.contacts[client, account] = email
        else:
            webhooks.setdefault(client, []).append(Webhook(client, webhook, events))
    snapshot.webhooks |= webhooks


def _read_usages(execute: Execute, snapshot: Snapshot, requests: list[Request]) -> None:
    """Read the usages of the accounts, for resources with a per-account limit."""
    resources = snapshot.resources.values()
    limited = {one.id for one in resources if one.per_account_limit is not None}
    limited_daily = {one.id for one in resources if one.per_account_daily_limit is not None}
    names = ("resource_ids", "client_ids", "accounts")
    if keys := _keys(requests, limited):
        read = execute("read_usages", _columns(keys, names))
        snapshot.usages = {(resource, client, account): used for resource, client, account, used in read}
        snapshot.new_usages = keys.difference(snapshot.usages)
    if keys := _keys(requests, limited_daily):
        read = execute("read_daily_usages", _columns(keys, names))
        snapshot.daily_usages = {
            (resource, client, account): DailyUsage(day, used)
            for resource, client, account, day, used in read
        }
        snapshot.new_daily_usages = keys.difference(snapshot.daily_usages)


def _keys(requests: list[Request], resources: set[str]) -> set[UsageKey]:
    """Return the keys of the usages that requests of these resources may change."""
    return {
        (request.resource_id, request.client_id, request.account)
        for request in requests
        if request.account is not None and request.resource_id in resources
    }


def _read_most_used(execute: Execute, snapshot: Snapshot, requests: list[Request]) -> None:
    """Read the greatest usage of the resources that get another per-account limit."""
    ids = {request.resource_id for request in requests if amendments.limits_accounts(request)}
    if ids:
        read = execute("read_most_used", {"ids": list(ids), "largest": MAX_QUANTITY})
        snapshot.most_used = {resource: int(used) for resource, used in read}


def _read_history(execute: Execute, snapshot: Snapshot, rows: list[Row], *, recheck: bool) -> None:
    """Read the states of requests that were decided before: those with a later command, and those to be refunded."""
    refunded = [row.request.refund_of for row in rows if row.request.refund_of is not None]
    decided = [row.request for row in rows if recheck or row.verb != "decide"]
    ids = [request.id for request in decided] + refunded
    if not ids:
        return
    reserved = [request.id for request in decided if KINDS[request.kind].reserves]
    effects_read = execute("read_effects", {"ids": ids})  # first: it waits for a courier that claims one
    states_read = execute("read_states", {"ids": ids})
    holds_read = execute("read_open_holds", {"ids": ids})
    expiring = [row.request.id for row in rows if row.verb == "expire"]
    lapsed_read = execute("read_lapsed", {"ids": expiring}) if expiring else ()
    reservations_read = execute("read_reservations", {"ids": reserved}) if reserved else ()
    originals_read = execute("read_originals", {"ids": refunded})
    snapshot.effects = {effect.request_id: effect for effect in itertools.starmap(Effect, effects_read)}
    snapshot.states = {state.request_id: state for state in itertools.starmap(State, states_read)}
    snapshot.holding = {request_id for (request_id,) in holds_read}
    snapshot.lapsed = {request_id for (request_id,) in lapsed_read}
    snapshot.reservations = {one.request_id: one for one in itertools.starmap(Reservation, reservations_read)}
    snapshot.originals = {original.id: original for original in itertools.starmap(Request, originals_read)}
    if snapshot.originals:
        _note_listeners(snapshot, _ask_for_listeners(execute, snapshot.originals.values()))
    _read_usages(execute, snapshot, _single([*snapshot.originals.values(), *(row.request for row in rows)]))


class Writer:
    """
    Writes one worksheet: `part` after each part, `rest` at the end, and `check` after the pipeline was synced.
    """

    def __init__(self, execute: Execute, sheet: Worksheet) -> None:
        self._execute = execute
        self._sheet = sheet
        #: Statements with the number of rows that each must have changed, and the name of such a row.
        self._expected: list[tuple[Rows, int, str]] = []

    def part(self, decided: Decided) -> None:
        """Send the entries and states of some rows. It returns while PostgreSQL writes them."""
        if decided.entries:
            name = "insert_entries_of_legs" if decided.has_legs else "insert_entries"
            self._execute(name, _columns(decided.entries, Entry._fields))
        before = [(state.request_id, state.version) for state in decided.superseded.values()]
        if before:
            superseded = self._execute("supersede_states", _columns(before, ("request_ids", "versions")))
            self._expected.append((superseded, len(before), "a request"))
        plain: list[State] = []
        others: list[State] = []
        for state in decided.states:
            is_plain = state[_PLAIN_FROM:] == _PLAIN and decided.is_current(state)
            (plain if is_plain else others).append(state)
        now = self._sheet.now
        if plain:
            columns = _columns((state[:_PLAIN_FROM] for state in plain), State._fields[:_PLAIN_FROM])
            self._execute("insert_plain_states", columns | {"now": now, "actor": TELLER})
        if others:
            current = [decided.is_current(state) for state in others]
            self._execute("insert_states", _columns(others, State._fields) | {"current": current, "now": now})

    def rest(self) -> None:
        """Write resources, usages, and the work of the couriers."""
        self._resources()
        self._usages()
        self._consequences()
        if self._sheet.holds_legs:
            self._execute("check_holds_of_legs", {})
            self._execute("defer_holds_of_legs", {})

    def check(self) -> None:
        """
        Check that every statement changed the rows that were read.

        Raises DatabaseUnavailable if another transaction changed one of them: the next batch reads again.
        """
        for cursor, rows, what in self._expected:
            if cursor.rowcount != rows:
                raise DatabaseUnavailable(
                    f"{what} changed while the batch was under way; nothing was written"
                )

    def _resources(self) -> None:
        sheet, resources = self._sheet, self._sheet.snapshot.resources
        if sheet.opened:
            opened = [resources[resource_id] for resource_id in sheet.opened]
            columns = {
                one.name: [getattr(resource, one.name) for resource in opened] for one in fields(Resource)
            }
            columns["metadata"] = [
                None if one.metadata is None else json_text.dumps(one.metadata) for one in opened
            ]
            self._execute("insert_resources", columns | {"partition": list(sheet.opened.values())})
        for resource_id in sheet.amended.difference(sheet.opened):
            self._execute("update_rules", _rules(resources[resource_id]))
        moved = [
            (one.id, before, one.available, one.held, one.version, one.digest, one.last_entry_at)
            for one, before in ((resources[name], before) for name, before in sheet.versions_before.items())
            if one.id not in sheet.opened
        ]
        if moved:
            names = ("ids", "versions_before", "availables", "helds", "versions", "digests", "last_entries")
            self._expected.append(
                (self._execute("update_resources", _columns(moved, names)), len(moved), "a resource")
            )

    def _usages(self) -> None:
        sheet, resources = self._sheet, self._sheet.snapshot.resources
        usages = [
            (*key, used, max(used, resources[key[0]].per_account_limit or 0) if limit is None else limit)
            for key, used, limit in (
                (key, sheet.snapshot.usages[key], limit) for key, limit in sheet.moved_usages.items()
            )
        ]
        names = ("resource_ids", "client_ids", "accounts", "used", "limits")
        self._write_usages("usages", sheet.snapshot.new_usages, usages, names)
        if sheet.newly_limited is not None:
            limit = resources[sheet.newly_limited].per_account_limit
            self._execute("rebuild_usages", {"resource_id": sheet.newly_limited, "limit": limit})
        self._daily_usages()

    def _daily_usages(self) -> None:
        sheet, resources = self._sheet, self._sheet.snapshot.resources
        usages = [
            (*key, usage.day.isoformat(), usage.used, limit)
            for key, usage, limit in (
                (key, sheet.snapshot.daily_usages[key], limit)
                for key, limit in sheet.moved_daily_usages.items()
            )
        ]
        names = ("resource_ids", "client_ids", "accounts", "days", "used", "limits")
        self._write_usages("daily_usages", sheet.snapshot.new_daily_usages, usages, names)
        if sheet.newly_limited_daily is not None:
            resource = resources[sheet.newly_limited_daily]
            day = daily_limits.day_of(ledger.time_of_next(resource, sheet.now))
            parameters = {
                "resource_id": resource.id,
                "limit": resource.per_account_daily_limit,
                "day": day,
                "largest": MAX_QUANTITY,
            }
            self._execute("rebuild_daily_usages", parameters)

    def _write_usages(
        self, table: str, new: set[UsageKey], usages: Sequence[tuple[Any, ...]], names: tuple[str, ...]
    ) -> None:
        """Write usages, whose first three fields are their key. Those in `new` have no row yet."""
        inserted = [usage for usage in usages if usage[:3] in new]
        others = [usage for usage in usages if usage[:3] not in new] if len(inserted) < len(usages) else ()
        if inserted:
            self._execute(f"insert_{table}", _columns(inserted, names))
        if others:
            self._execute(f"write_{table}", _columns(others, names))

    def _consequences(self) -> None:
        """Write the work of the couriers."""
        sheet = self._sheet
        if sheet.new_effects:
            columns = _columns(sheet.new_effects, ("request_ids", "client_ids", "partitions", "gateways"))
            self._execute("insert_effects", columns | {"now": sheet.now})
        if sheet.retried:
            self._execute("retry_effects", {"ids": sheet.retried, "now": sheet.now})
        if sheet.voided:
            self._execute("void_effects", {"ids": sheet.voided, "now": sheet.now})
        if sheet.reserved:
            columns = _columns(sheet.reserved, ("request_ids", "partitions", "expire_at", "held", "has_legs"))
            self._execute("insert_reservations", columns)
        if sheet.unreserved:
            deleted = self._execute("delete_reservations", {"ids": sheet.unreserved})
            self._expected.append((deleted, len(sheet.unreserved), "a reservation"))
        begun = [(request_id, *where) for request_id, where in sheet.codes.items() if where is not None]
        if begun:
            columns = _columns(begun, ("request_ids", "client_ids", "destinations"))
            self._execute("insert_codes", columns | {"now": sheet.now})
        ended = [request_id for request_id, where in sheet.codes.items() if where is None]
        if ended:
            self._execute("delete_codes", {"ids": ended})
        self._deliveries()

    def _deliveries(self) -> None:
        """Write the notifications: one row for each webhook and batch, and one for each e-mail."""
        mails = []
        fanouts: dict[UUID, list[Delivery]] = {}
        for delivery in self._sheet.deliveries:
            if delivery.webhook_id is None:
                mails.append((delivery.request_id, delivery.version, delivery.type, delivery.email))
            else:
                fanouts.setdefault(delivery.webhook_id, []).append(delivery)
        if mails:
            self._execute("insert_mails", _columns(mails, ("request_id", "version", "type", "email")))
        for webhook_id, notified in fanouts.items():
            columns = _columns(
                ((one.request_id, one.version) for one in notified), ("request_ids", "versions")
            )
            self._execute("insert_fanout", columns | {"webhook_id": webhook_id})


def _rules(resource: Resource) -> dict[str, Any]:
    metadata = resource.metadata
    return asdict(resource) | {"metadata": None if metadata is None else Jsonb(metadata, json_text.dumps)}


def _columns(rows: Iterable[tuple[Any, ...]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return rows as one list for each column, as `unnest` takes them."""
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return dict(zip(names, columns, strict=True))
