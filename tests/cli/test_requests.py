"""
Requests from the command line: listed, shown, cancelled.
"""

from __future__ import annotations

import os
import pwd
import socket
import uuid
from typing import TYPE_CHECKING

import click
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.said import Said
    from tests.store.store import Store


@pytest.fixture
def sold_out(store: Store) -> list[uuid.UUID]:
    """
    A resource of one; the first request has it, the second was refused, the third still waits.
    """
    store.open("seat", available=1)
    decided = store.accept(store.redeems("seat", "ada"), store.redeems("seat", "bob"))
    store.drain("seat")
    return decided + store.accept(store.redeems("seat", "ada"))


def test_requests_are_listed_newest_first_and_filtered(
    teller: Callable[..., Said], sold_out: list[uuid.UUID]
) -> None:
    """
    Each filter leaves what it names; the text and the document have the same requests.
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


def test_a_request_is_shown_with_its_history_and_what_it_took(
    teller: Callable[..., Said], sold_out: list[uuid.UUID]
) -> None:
    """
    The document of the contract, its client, the events and the entries; of one that waits, its position.
    """
    taken, refused, waiting = (teller("requests", "show", str(one), "--json").document for one in sold_out)

    assert (taken["status"], [entry["kind"] for entry in taken["entries"]]) == ("completed", ["debit"])
    assert [event["status"] for event in taken["events"]] == ["processing", "completed"]
    assert (refused["error"], refused["entries"]) == ({"code": "out_of_stock"}, [])
    assert (waiting["stage"], waiting["position"], waiting["client"]) == ("queued", 0, "shop")
    text = teller("requests", "show", str(sold_out[1]))
    assert ["status", "rejected"] in text.rows
    assert text.status == 0


def test_a_cancelled_request_is_withdrawn_in_its_turn(
    teller: Callable[..., Said], sold_out: list[uuid.UUID], store: Store
) -> None:
    """
    The wish is recorded, and the batch heeds it; what is decided cannot be cancelled any more.
    """
    waiting = str(sold_out[2])

    assert teller("requests", "cancel", waiting).status == 0
    store.drain("seat")

    assert teller("requests", "show", waiting, "--json").document["status"] == "cancelled"
    assert "decided" in teller("requests", "cancel", waiting, "--json").refuses(1, "not_cancellable")
    assert "decided" in teller("requests", "cancel", str(sold_out[0]), "--json").refuses(1, "not_cancellable")


def test_a_cancel_names_the_account_and_the_host_in_the_audit(
    teller: Callable[..., Said], sold_out: list[uuid.UUID], store: Store
) -> None:
    """
    With the reason that was given.
    """
    assert teller("requests", "cancel", str(sold_out[2]), "--reason", "fraud").status == 0

    account = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    assert store.owner.execute("SELECT actor, action, request_id, reason FROM audit").fetchall() == [
        (f"command-line (admin {account})", "cancel", sold_out[2], "fraud")
    ]


def test_a_request_that_is_not_there_is_a_failure(teller: Callable[..., Said]) -> None:
    """
    Shown or cancelled: one line with its id.
    """
    stranger = str(uuid.uuid4())

    assert stranger in teller("requests", "show", stranger, "--json").refuses(1, "not_found")
    assert stranger in teller("requests", "cancel", stranger, "--json").refuses(1, "not_found")


def test_a_table_on_a_terminal_has_a_heading_and_fits(
    teller: Callable[..., Said], terminal: Callable[[int], None], store: Store
) -> None:
    """
    Columns are aligned; where it is narrow the widest cells are cut, but never the id; into a pipe, nothing is cut.
    """
    long = "ticket:" + "x" * 100
    store.open(long)

    terminal(120)
    heading, line = click.unstyle(teller("requests", "list").out).splitlines()

    assert heading.split()[:3] == ["id", "kind", "status"]
    assert len(line) <= 120
    assert "…" in line
    assert heading.index("kind") == line.index("opening")
    assert line.split()[0] in teller("requests", "list", "--json").out
    terminal(300)
    assert long in teller("requests", "list").out


def test_an_empty_table_says_so_on_a_terminal_alone(
    teller: Callable[..., Said], terminal: Callable[[int], None]
) -> None:
    """
    A person reads "none", a pipe gets nothing.
    """
    assert teller("requests", "list").out == ""
    terminal(80)
    assert click.unstyle(teller("requests", "list").out) == "none\n"
