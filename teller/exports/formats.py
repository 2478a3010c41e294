"""
Entries and balances as CSV, as a journal of hledger, and as a file of beancount.

hledger and beancount keep two accounts for each resource, of its available and its held quantity. A hold moves from
one to the other, and all other entries move to or from the account of a client. The last lines of a resource assert
both quantities, so a file in which an entry was changed is refused.
"""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from processor.domain.amounts import format_decimal
from processor.records.documents import timestamp
from teller.exports.names import CARRIED_FORWARD, account_of, commodity, quantity_account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from processor.domain.amounts import Unit
    from processor.reading.ledger_export import ExportedEntry, ExportedResource

#: The columns of the CSV. `record` is `entry`, `forward` (the quantities before the period) or `balance`.
COLUMNS: Final = (
    *("record", "resource", "version", "kind", "request", "client", "account"),
    *("amount", "available", "held", "unit", "at"),
)


class Format(NamedTuple):
    """A format: its first text, and the texts of a resource before, in and after its entries."""

    head: Callable[[datetime], str]
    begin: Callable[[ExportedResource, datetime], str]
    entry: Callable[[ExportedResource, ExportedEntry], str]
    #: With the time of the last entry, or that of the snapshot if there is none.
    end: Callable[[ExportedResource, datetime], str]


Posting = tuple[str, int]


def _postings(resource: ExportedResource, entry: ExportedEntry) -> Sequence[Posting]:
    """Return the two accounts that an entry moves an amount between, and the change of each."""
    available, held = quantity_account(resource.id, "Available"), quantity_account(resource.id, "Held")
    other = account_of(entry.client, entry.account)
    source, target = {
        "credit": (other, available),
        "debit": (available, other),
        "hold": (available, held),
        "capture": (held, other),
        "release": (held, available),
    }[entry.kind]
    return (source, -entry.amount), (target, entry.amount)


def _forward(resource: ExportedResource) -> Sequence[Posting]:
    """Return the quantities from before the period. Empty if there are none."""
    quantities = (("Available", resource.available_before), ("Held", resource.held_before))
    moved = [(quantity_account(resource.id, name), value) for name, value in quantities if value]
    return (*moved, (CARRIED_FORWARD, -sum(value for _, value in moved))) if moved else ()


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


# ---------------------------------------------------------------- CSV


def _row(*cells: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _csv_quantities(record: str, resource: ExportedResource, available: int, held: int, at: datetime) -> str:
    digits = resource.unit.decimals
    shown = format_decimal(available, digits), format_decimal(held, digits)
    return _row(record, resource.id, "", "", "", "", "", "", *shown, resource.unit.name, timestamp(at))


def _csv_entry(resource: ExportedResource, entry: ExportedEntry) -> str:
    digits = resource.unit.decimals
    return _row(
        *(
            "entry",
            entry.resource_id,
            entry.version,
            entry.kind,
            entry.request_id,
            entry.client,
            entry.account,
        ),
        *(format_decimal(value, digits) for value in (entry.amount, entry.available, entry.held)),
        *(resource.unit.name, timestamp(entry.created_at)),
    )


# ---------------------------------------------------------------- hledger and beancount


def _quoted(unit: Unit) -> str:
    """Return a symbol for hledger, which quotes all but letters."""
    symbol = commodity(unit.name)
    return symbol if symbol.isalpha() else f'"{symbol}"'


def _lines(postings: Sequence[Posting], unit: Unit, symbol: str) -> str:
    return "".join(
        f"  {account}  {format_decimal(amount, unit.decimals)} {symbol}\n" for account, amount in postings
    )


def _hledger_begin(resource: ExportedResource, since: datetime) -> str:
    moved = _forward(resource)
    if not moved:
        return ""
    return f"\n{_day(since)} * carried forward\n" + _lines(moved, resource.unit, _quoted(resource.unit))


def _hledger_entry(resource: ExportedResource, entry: ExportedEntry) -> str:
    return (
        f"\n{_day(entry.created_at)} * {entry.kind}"
        f"  ; entry: {entry.resource_id}/{entry.version}, request: {entry.request_id}\n"
        + _lines(_postings(resource, entry), resource.unit, _quoted(resource.unit))
    )


def _hledger_end(resource: ExportedResource, last: datetime) -> str:
    unit, symbol = resource.unit, _quoted(resource.unit)
    zero = format_decimal(0, unit.decimals)
    return f"\n{_day(last)} * balance\n" + "".join(
        f"  {account}  {zero} {symbol} = {format_decimal(value, unit.decimals)} {symbol}\n"
        for account, value in _balances(resource)
    )


def _balances(resource: ExportedResource) -> Sequence[Posting]:
    return (
        (quantity_account(resource.id, "Available"), resource.available),
        (quantity_account(resource.id, "Held"), resource.held),
    )


def _beancount_begin(resource: ExportedResource, since: datetime) -> str:
    opened = min(resource.created_at, since)
    text = "".join(
        f'\n{_day(opened)} open {account}\n  resource: "{resource.id}"\n'
        for account, _ in _balances(resource)
    )
    if moved := _forward(resource):
        text += f'\n{_day(since)} * "carried forward"\n'
        text += _lines(moved, resource.unit, commodity(resource.unit.name))
    return text


def _beancount_entry(resource: ExportedResource, entry: ExportedEntry) -> str:
    return (
        f'\n{_day(entry.created_at)} * "{entry.kind}"\n'
        f'  entry: "{entry.resource_id}/{entry.version}"\n  request: "{entry.request_id}"\n'
        + _lines(_postings(resource, entry), resource.unit, commodity(resource.unit.name))
    )


def _beancount_end(resource: ExportedResource, last: datetime) -> str:
    """Beancount compares a balance at the beginning of a day, and allows for rounding unless a tolerance is given."""
    symbol, decimals = commodity(resource.unit.name), resource.unit.decimals
    zero = format_decimal(0, decimals)
    return "\n" + "".join(
        f"{_day(last + timedelta(days=1))} balance {account}  {format_decimal(value, decimals)} ~ {zero} {symbol}\n"
        for account, value in _balances(resource)
    )


FORMATS: Final = {
    "csv": Format(
        lambda _at: _row(*COLUMNS),
        lambda resource, since: (
            _csv_quantities("forward", resource, resource.available_before, resource.held_before, since)
            if _forward(resource)
            else ""
        ),
        _csv_entry,
        lambda resource, last: _csv_quantities("balance", resource, resource.available, resource.held, last),
    ),
    "hledger": Format(
        lambda at: f"; The ledger of Teller, as of {timestamp(at)}\ndecimal-mark .\n",
        _hledger_begin,
        _hledger_entry,
        _hledger_end,
    ),
    "beancount": Format(
        lambda at: (
            f"; The ledger of Teller, as of {timestamp(at)}\n"
            'option "title" "Teller"\nplugin "beancount.plugins.auto_accounts"\n'
        ),
        _beancount_begin,
        _beancount_entry,
        _beancount_end,
    ),
}


def texts(
    chosen: Format,
    at: datetime,
    since: datetime | None,
    resources: Iterator[ExportedResource],
    entries: Iterator[ExportedEntry],
) -> Iterator[tuple[str, int]]:
    """
    Return the file part by part: a text, and the number of entries in it.

    `entries` are in the order of `resources`. `since` is the beginning of the period, `at` the time of the snapshot.
    """
    yield chosen.head(at), 0
    entry = next(entries, None)
    for resource in resources:
        yield chosen.begin(resource, resource.created_at if since is None else since), 0
        last = None
        while entry is not None and entry.resource_id == resource.id:
            yield chosen.entry(resource, entry), 1
            last = entry.created_at
            entry = next(entries, None)
        yield chosen.end(resource, last or since or at), 0
