"""
Failed requests on the command line: list, show, replay, refund.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from processor.domain.partitioning import partition_of
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result
    from tests.store.store import Store

    FailRequest = Callable[[str], uuid.UUID]


def test_failed_requests_are_listed_and_shown(
    teller: Callable[..., Result], fail_request: FailRequest, store: Store
) -> None:
    """
    The list has only failed requests. Each is shown with its calls to the gateway.
    """
    store.open("stock")
    first, second = fail_request("ticket"), fail_request("voucher")
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


def test_a_replay_returns_a_failed_request_to_its_queue(
    teller: Callable[..., Result], fail_request: FailRequest, store: Store
) -> None:
    """
    A replay writes its reason to the audit, and the next batch makes the effect due again.
    """
    request = fail_request("ticket")

    printed = teller("failed", "replay", str(request), "--reason", "key renewed", "--json")

    assert printed.document == {"matched": 1, "replayed": 1}
    assert (
        store.one("SELECT reason FROM audit WHERE request_id = %s AND action = 'replay'", request)
        == "key renewed"
    )
    store.drain("ticket")
    assert store.one("SELECT due_at IS NOT NULL FROM effects WHERE request_id = %s", request)


def test_a_replay_of_a_request_that_did_not_fail_is_refused(
    teller: Callable[..., Result], fail_request: FailRequest
) -> None:
    """
    A request that did not fail is refused. Among several requests, the failed ones are replayed and the status is 1.
    """
    unknown_id = str(uuid.uuid4())

    teller("failed", "replay", unknown_id, "--reason", "r", "--json").refuses(1, "not_failed")
    both = teller("failed", "replay", unknown_id, str(fail_request("ticket")), "--reason", "r")
    assert (both.status, both.out) == (1, "replayed 1 of 2\n")


def test_all_that_match_are_replayed_and_a_dry_run_only_counts(
    teller: Callable[..., Result], fail_request: FailRequest, store: Store
) -> None:
    """
    A replay takes filters for code and resource. A filter that matches no request is not an error.
    """
    for resource in ("ticket", "ticket", "voucher"):
        fail_request(resource)

    def replay(*filters: str) -> tuple[int, int]:
        document = teller("failed", "replay", "--all", "--reason", "r", *filters, "--json").document
        return document["matched"], document["replayed"]

    assert replay("--dry-run") == (3, 0)
    assert replay("--code", "gateway_unreachable") == (0, 0)
    assert replay("--resource", "voucher") == (1, 1)
    assert store.one("SELECT count(*) FROM inbox WHERE verb = 'replay'") == 1
    assert replay("--code", "gateway_misconfigured") == (3, 2)


def test_a_refund_is_a_request_of_its_own(
    teller: Callable[..., Result], fail_request: FailRequest, store: Store
) -> None:
    """
    A batch decides the refund: the hold is released, and the failed request becomes refunded.
    """
    request = fail_request("ticket")
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
    unknown_id = str(uuid.uuid4())
    assert unknown_id in teller("failed", "refund", unknown_id, "--reason", "r", "--json").refuses(
        1, "not_found"
    )
