"""
Parked requests from the command line: listed, shown, replayed, refunded.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from processor.domain.partitioning import partition_of
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.said import Said
    from tests.store.store import Store

    Park = Callable[[str], uuid.UUID]


def test_parked_requests_are_listed_and_shown(teller: Callable[..., Said], park: Park, store: Store) -> None:
    """
    Only those; shown with the calls of the gateway that came to nothing.
    """
    store.open("stock")
    first, second = park("ticket"), park("voucher")
    token = uuid.uuid4()
    store.owner.execute(
        "INSERT INTO attempts (request_id, token, ended_at, status, outcome, error)"
        " VALUES (%s, %s, now(), 404, 'misconfigured', 'no such address')",
        (first, token),
    )

    assert [row[0] for row in teller("failed", "list").rows] == [str(second), str(first)]
    assert [row[0] for row in teller("failed", "list", "--resource", "ticket").rows] == [str(first)]
    document = teller("failed", "show", str(first), "--json").document
    assert document["error"]["code"] == "gateway_misconfigured"
    assert [attempt["error"] for attempt in document["attempts"]] == ["no such address"]
    assert "no such address" in teller("failed", "show", str(first)).out


def test_a_replay_sends_a_parked_request_back_into_its_queue(
    teller: Callable[..., Said], park: Park, store: Store
) -> None:
    """
    The reason is in the audit; the effect is armed again when the batch comes to it.
    """
    request = park("ticket")

    said = teller("failed", "replay", str(request), "--reason", "key renewed", "--json")

    assert said.document == {"matched": 1, "replayed": 1}
    assert (
        store.one("SELECT reason FROM audit WHERE request_id = %s AND action = 'replay'", request)
        == "key renewed"
    )
    store.drain("ticket")
    assert store.one("SELECT due_at IS NOT NULL FROM effects WHERE request_id = %s", request)


def test_a_replay_of_what_is_not_parked_is_a_failure(teller: Callable[..., Said], park: Park) -> None:
    """
    Alone it is refused; beside one that is parked, that one goes, and the status tells.
    """
    stranger = str(uuid.uuid4())

    teller("failed", "replay", stranger, "--reason", "r", "--json").refuses(1, "not_failed")
    both = teller("failed", "replay", stranger, str(park("ticket")), "--reason", "r")
    assert (both.status, both.out) == (1, "replayed 1 of 2\n")


def test_all_that_match_are_replayed_and_a_dry_run_only_counts(
    teller: Callable[..., Said], park: Park, store: Store
) -> None:
    """
    Filters by code and resource; nothing that matches is nothing to complain about.
    """
    for resource in ("ticket", "ticket", "voucher"):
        park(resource)

    def replay(*filters: str) -> tuple[int, int]:
        document = teller("failed", "replay", "--all", "--reason", "r", *filters, "--json").document
        return document["matched"], document["replayed"]

    assert replay("--dry-run") == (3, 0)
    assert replay("--code", "gateway_unreachable") == (0, 0)
    assert replay("--resource", "voucher") == (1, 1)
    assert store.one("SELECT count(*) FROM inbox WHERE verb = 'replay'") == 1
    assert replay("--code", "gateway_misconfigured") == (3, 2)


def test_a_refund_is_a_request_of_its_own(teller: Callable[..., Said], park: Park, store: Store) -> None:
    """
    Decided in its turn: the hold is released, and the parked request is refunded.
    """
    request = park("ticket")
    assert store.available("ticket") == 9

    document = teller("failed", "refund", str(request), "--reason", "never sent", "--json").document
    store.drain("ticket")

    assert (document["kind"], document["refund_of"]) == ("refund", str(request))
    assert store.available("ticket") == 10
    assert teller("requests", "show", str(request), "--json").document["status"] == "refunded"
    assert store.one("SELECT reason FROM audit WHERE action = 'refund'") == "never sent"
    assert store.one("SELECT partition FROM requests WHERE kind = 'refund'") == partition_of(
        "ticket", PARTITIONS
    )
    stranger = str(uuid.uuid4())
    assert stranger in teller("failed", "refund", stranger, "--reason", "r", "--json").refuses(1, "not_found")
