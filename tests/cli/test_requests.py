"""
Requests on the command line: list, show, cancel.
"""

from __future__ import annotations

import os
import pwd
import socket
import uuid
from typing import TYPE_CHECKING

import click
import pytest

from processor.batch import run as batch
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result
    from tests.store.store import Store


@pytest.fixture
def sold_out(store: Store) -> list[uuid.UUID]:
    """
    Three requests for a resource of one: the first completed, the second was rejected, the third is queued.
    """
    store.owner.execute("INSERT INTO clients (id) VALUES (%s)", ["shop"])
    store.open("seat", available=1)
    decided = store.accept(store.redeems("seat", "ada"), store.redeems("seat", "bob"))
    store.drain("seat")
    return decided + store.accept(store.redeems("seat", "ada"))


def test_requests_are_listed_newest_first_and_filtered(
    teller: Callable[..., Result], sold_out: list[uuid.UUID]
) -> None:
    """
    Each filter selects the requests that it names. Text and JSON list the same requests.
    """
    first, second, third = map(str, sold_out)

    def listed(*filters: str) -> list[str]:
        ids = [request["id"] for request in teller("requests", "list", *filters, "--json").document["data"]]
        assert [row[0] for row in teller("requests", "list", *filters).rows] == ids
        return ids

    assert listed("--kind", "redemption") == [third, second, first]
    assert listed("--status", "rejected") == [second]
    assert listed("--status", "processing") == [third]
    assert listed("--account", "ada") == [third, first]
    assert listed("--resource", "nothing") == []
    assert listed("--limit", "1") == [third]
    assert listed("--resource", "seat", "--kind", "redemption", "--account", "bob") == [second]


def test_a_request_is_shown_with_its_events_and_entries(
    teller: Callable[..., Result], sold_out: list[uuid.UUID]
) -> None:
    """
    A request is shown with its client, events and entries. A queued request also has a position.
    """
    taken, refused, waiting = (teller("requests", "show", str(one), "--json").document for one in sold_out)

    assert (taken["status"], [entry["kind"] for entry in taken["entries"]]) == ("completed", ["debit"])
    assert [event["status"] for event in taken["events"]] == ["processing", "completed"]
    assert (refused["error"], refused["entries"]) == ({"code": "out_of_stock"}, [])
    assert (waiting["stage"], waiting["position"], waiting["client"]) == ("queued", 0, "shop")
    text = teller("requests", "show", str(sold_out[1]))
    assert ["status", "rejected"] in text.rows
    assert text.status == 0


def test_amounts_are_printed_as_people_write_them(teller: Callable[..., Result], store: Store) -> None:
    """
    JSON keeps whole numbers.
    """
    store.owner.execute("INSERT INTO clients (id) VALUES (%s)", ["shop"])
    store.open("cash", "balance", 123_456, unit="EUR", decimals=2)
    [asked] = store.accept(store.asks("withdrawal", "cash", "ada", 25_000))
    store.drain("cash")

    listed = teller("requests", "list", "--account", "ada")
    shown = teller("requests", "show", str(asked))

    assert listed.rows[0][6] == "250.00 EUR"
    assert ["amount", "250.00 EUR"] in shown.rows
    assert ["refunded", "0.00 EUR"] in shown.rows
    assert ["cash", "2", "debit", "250.00 EUR", "984.56 EUR", "0.00 EUR"] in shown.rows
    document = teller("requests", "show", str(asked), "--json").document
    assert (document["amount"], document["entries"][0]["available"]) == (25_000, 98_456)


def test_a_list_fits_80_columns_and_says_what_it_shows(
    teller: Callable[..., Result], store: Store, terminal: Callable[[int], None]
) -> None:
    """
    Ids and amounts stay whole, columns that do not fit are left out, and the caption counts all that match.
    """
    store.open("cash-of-a-long-name-that-must-be-cut", "balance", 10_000_000, unit="EUR", decimals=2)
    asked = store.accept(
        *(
            store.asks("withdrawal", "cash-of-a-long-name-that-must-be-cut", "ada", 123_456, client=client)
            for client in ("race-lab", "shop", "shop", "shop", "shop")
        )
    )
    terminal(80)

    lines = click.unstyle(teller("requests", "list", "--limit", "2", "--kind", "withdrawal").out).splitlines()
    hidden = click.unstyle(teller("requests", "list", "--client", "race-lab").out)

    assert lines[0] == "2 of 4 requests, newest first (--limit)"
    assert lines[1].split() == ["id", "status", "resource", "account", "amount"]
    assert all(len(line) <= 80 for line in lines)
    assert lines[2].split()[0] == str(asked[-1])
    assert lines[2].endswith("1,234.56 EUR")
    assert str(asked[0]) in hidden


def test_a_request_is_found_by_amount_code_and_key(
    teller: Callable[..., Result], sold_out: list[uuid.UUID]
) -> None:
    """
    The amount is that which people write. A text that is no amount is a wrong usage.
    """

    def listed(*filters: str) -> list[str]:
        return [one["id"] for one in teller("requests", "list", *filters, "--json").document["data"]]

    assert listed("--code", "out_of_stock") == [str(sold_out[1])]
    assert str(sold_out[0]) in listed("--amount", "1")
    assert listed("--amount", "7") == []
    assert "--amount" in teller("requests", "list", "--amount", "much", "--json").refuses(2, "usage")


def test_a_request_is_approved_or_denied(teller: Callable[..., Result], store: Store) -> None:
    """
    A verdict needs a reason, and is decided in its turn.
    """
    store.open("safe", "balance", 100, approve_above=10)
    first, second = store.accept(*(store.asks("withdrawal", "safe", "ada", 20) for _ in range(2)))
    store.drain("safe")

    assert "--reason" in teller("requests", "approve", str(first), "--json").refuses(2, "usage")
    assert teller("requests", "approve", str(first), "--reason", "known").status == 0
    assert teller("requests", "deny", str(second), "--reason", "unknown").status == 0
    store.drain("safe")

    assert store.statuses([first, second]) == ["completed", "denied"]
    lines = teller("audit", "--json", "--action", "deny").document["data"]
    assert [(line["request"], line["reason"]) for line in lines] == [(str(second), "unknown")]


def test_a_cancelled_request_is_withdrawn_in_its_turn(
    teller: Callable[..., Result], sold_out: list[uuid.UUID], store: Store
) -> None:
    """
    A cancel records a command, and the batch applies it. A decided request can no longer be cancelled.
    """
    waiting = str(sold_out[2])

    assert teller("requests", "cancel", waiting).status == 0
    store.drain("seat")

    assert teller("requests", "show", waiting, "--json").document["status"] == "cancelled"
    assert "decided" in teller("requests", "cancel", waiting, "--json").refuses(1, "not_cancellable")
    assert "decided" in teller("requests", "cancel", str(sold_out[0]), "--json").refuses(1, "not_cancellable")


def test_held_reservations_are_listed_and_released(teller: Callable[..., Result], store: Store) -> None:
    """
    The list has the time until which each is held. A release is recorded, and a second one is refused.
    """
    store.open("gate", available=5)
    [asked] = store.accept(store.asks("reservation", "gate", "ada", 2, details={"ttl_seconds": 600}))
    store.drain("gate")
    [held] = teller("requests", "held", "--json").document["data"]
    assert (held["id"], held["stage"], held["amount"]) == (str(asked), "held", 2)
    assert held["expires_at"] is not None
    assert str(asked) in teller("requests", "held").out

    assert teller("requests", "release", str(asked), "--reason", "double").status == 0
    assert "accepted already" in teller("requests", "release", str(asked), "--json").refuses(1, "not_held")
    store.drain("gate")

    assert store.statuses([asked]) == ["released"]
    assert store.one("SELECT reason FROM audit WHERE action = 'release'") == "double"
    assert teller("requests", "held", "--json").document["data"] == []


def test_a_cancel_names_the_account_and_the_host_in_the_audit(
    teller: Callable[..., Result], sold_out: list[uuid.UUID], store: Store
) -> None:
    """
    The audit line of a cancel has the operating system's account, the host and the given reason.
    """
    assert teller("requests", "cancel", str(sold_out[2]), "--reason", "fraud").status == 0

    account = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    assert store.owner.execute("SELECT actor, action, request_id, reason FROM audit").fetchall() == [
        (f"command-line (admin {account})", "cancel", sold_out[2], "fraud")
    ]


def test_an_unknown_request_is_an_error(teller: Callable[..., Result]) -> None:
    """
    Showing or cancelling an unknown request is an error of one line with its id.
    """
    unknown_id = str(uuid.uuid4())

    assert unknown_id in teller("requests", "show", unknown_id, "--json").refuses(1, "not_found")
    assert unknown_id in teller("requests", "cancel", unknown_id, "--json").refuses(1, "not_found")


def test_a_table_on_a_terminal_has_a_heading_and_fits(
    teller: Callable[..., Result], terminal: Callable[[int], None], store: Store
) -> None:
    """
    A terminal gets aligned columns. The widest cells are cut to its width, but never the id. A pipe gets whole cells.
    """
    long = "ticket:" + "x" * 100
    store.open(long)

    terminal(120)
    _, heading, line = click.unstyle(teller("requests", "list").out).splitlines()

    assert heading.split()[:3] == ["id", "kind", "status"]
    assert len(line) <= 120
    assert "…" in line
    assert heading.index("kind") == line.index("opening")
    assert line.split()[0] in teller("requests", "list", "--json").out
    terminal(300)
    assert long in teller("requests", "list").out


def test_an_empty_table_says_so_on_a_terminal_alone(
    teller: Callable[..., Result], terminal: Callable[[int], None]
) -> None:
    """
    An empty list prints "none" on a terminal, and nothing into a pipe.
    """
    assert teller("requests", "list").out == ""
    terminal(80)
    assert click.unstyle(teller("requests", "list").out) == "none\n"


def test_requests_with_legs_are_shown_held_and_released(teller: Callable[..., Result], store: Store) -> None:
    """
    Each leg has a line with the unit of its resource. A release gives all of them back.
    """
    store.open("lounge", "balance", 900, unit="EUR", decimals=2)
    store.open("row", "seat", 5)
    [asked] = store.accept(store.reserves("ada", ("lounge", 250), ("row", 1)))
    [traded] = store.accept(store.exchanges("ada", ("lounge", -100), ("row", 1)))
    drain_all(store)

    [held] = teller("requests", "held", "--json").document["data"]
    assert [leg["resource"] for leg in held["legs"]] == ["lounge", "row"]
    lines = [line.split() for line in teller("requests", "held").out.splitlines() if str(asked) in line]
    assert [line[-4:-2] for line in lines] == [["EUR", "lounge"], ["1", "row"]]
    assert "lounge and 1 more" in teller("requests", "list").out
    shown = teller("requests", "show", str(traded)).out
    assert "1.00 EUR of lounge" in shown
    assert "1 of row" in shown
    assert teller("requests", "show", str(asked), "--json").document["legs"] == held["legs"]

    assert teller("requests", "release", str(asked), "--reason", "double").status == 0
    drain_all(store)
    assert store.statuses([asked]) == ["released"]
    assert [store.available(name) for name in ("lounge", "row")] == [800, 6]


def drain_all(store: Store) -> None:
    """
    Run one batch over all partitions.
    """
    batch.drain_once(store.worker, range(PARTITIONS))
