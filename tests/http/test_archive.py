"""
Requests in the archive: 410 with the name of the file, for those who could see them, and nothing else changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from processor.storage import connections
from tests.http.visitor import Visitor
from tests.store.archives import archive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.teller import Client, Reply, Teller
    from tests.servers import Database


@pytest.fixture
def gone(teller: Teller, database: Database, tmp_path: Path) -> tuple[str, str]:
    """A completed redemption that has left. Returns its id and the name of the file."""
    teller.open("coupon", "coupon", 10)
    answer = teller.client.post("/v1/redemptions", {"resource": "coupon", "account": "ada"}, key="first")
    teller.drain()
    archive(database, tmp_path)
    [path] = tmp_path.iterdir()
    return answer.json["id"], path.name


def calls(client: Client, request: str) -> dict[str, Reply]:
    """Call every route about a request that a client may use."""
    path = f"/v1/requests/{request}"
    return {
        "read": client.get(path),
        "wait": client.get(path, Prefer="wait=1"),
        "entries": client.get(f"{path}/entries"),
        "events": client.get(f"{path}/events"),
        "cancel": client.post(f"{path}/cancel"),
        "capture": client.post(f"{path}/capture"),
        "release": client.post(f"{path}/release"),
        "confirm": client.post(f"{path}/confirm", {"code": "123456"}),
        "code": client.post(f"{path}/code"),
    }


def test_a_request_that_has_left_is_410_with_its_file(teller: Teller, gone: tuple[str, str]) -> None:
    """
    Each route about the request names the file. Another client cannot know that the request was there.
    """
    request, name = gone
    for client in (teller.client, teller.admin):
        for route, answer in calls(client, request).items():
            assert (route, answer.status_code) == (route, 410)
            assert answer.json["code"] == "archived"
            assert answer.json["type"] == "/problems/archived"
            assert answer.json["archive"] == name
    for route, answer in calls(teller.other, request).items():
        assert (route, answer.status_code) == (route, 404)


def test_operators_get_410_too(teller: Teller, gone: tuple[str, str]) -> None:
    """
    A request in the archive cannot be replayed, refunded or approved.
    """
    request, name = gone
    path = f"/v1/admin/requests/{request}"
    for answer in (
        teller.admin.get(path),
        teller.admin.post(f"{path}/replay", {"reason": "late"}),
        teller.admin.post(f"{path}/refund", {"reason": "late"}),
        teller.admin.post(f"{path}/approve"),
        teller.admin.post(f"{path}/deny", {"reason": "late"}),
    ):
        assert (answer.status_code, answer.json["archive"]) == (410, name)


def test_the_resource_and_its_later_requests_are_unchanged(teller: Teller, gone: tuple[str, str]) -> None:
    """
    Quantities go on from the checkpoint, later requests are refunded, and the key of what has left is free again.
    """
    assert teller.client.get("/v1/resources/coupon").json["available"] == 9
    answer = teller.client.post("/v1/redemptions", {"resource": "coupon", "account": "ada"}, key="first")
    assert answer.status_code == 202
    assert answer.json["id"] != gone[0]
    teller.drain()
    again = teller.client.post("/v1/redemptions", {"resource": "coupon", "account": "ada"}, key="first")
    assert (again.json["id"], again.json["status"]) == (answer.json["id"], "completed")

    teller.admin.post(f"/v1/admin/requests/{answer.json['id']}/refund", {"reason": "broken"})
    teller.drain()

    assert teller.client.get(f"/v1/requests/{answer.json['id']}").json["status"] == "refunded"
    assert teller.client.get("/v1/resources/coupon").json["available"] == 9
    versions = [entry["version"] for entry in teller.admin.get("/v1/resources/coupon/entries").json["data"]]
    assert versions == [4, 3, 1]  # 2 has left


def test_a_time_in_the_past_is_answered_within_what_stays(
    teller: Teller, database: Database, gone: tuple[str, str]
) -> None:
    """
    From the last checkpoint on, `at` has the quantities of each time. Before it, the answer is 410 without a file.
    """

    def execute(statement: str) -> list[datetime]:
        with connections.connect(database.url, application_name="test") as owner:
            return [at for (at,) in owner.execute(statement.encode())]

    [left_at] = execute("SELECT created_at FROM checkpoints")
    for account in ("bob", "cleo"):
        teller.client.post("/v1/redemptions", {"resource": "coupon", "account": account})
        teller.drain()
    times = execute("SELECT created_at FROM entries WHERE version > 1 ORDER BY version")

    def at(moment: datetime) -> Reply:
        return teller.client.get(f"/v1/resources/coupon?at={moment.isoformat().replace('+00:00', 'Z')}")

    tick = timedelta(microseconds=1)
    expected = [(left_at, 9), (times[0] - tick, 9), (times[0], 8), (times[1] - tick, 8), (times[1], 7)]
    assert [at(moment).json["available"] for moment, _ in expected] == [quantity for _, quantity in expected]
    early = at(left_at - tick)
    assert (early.status_code, early.json["code"], early.json["archive"]) == (410, "archived", None)
    assert gone


def test_the_console_names_the_file(teller: Teller, gone: tuple[str, str]) -> None:
    """
    The page of a request in the archive is a page with the name of the file. A search for its id finds nothing else.
    """
    request, name = gone
    visitor = Visitor.signed_in(teller, teller.operator)

    page = visitor.get(f"/admin/requests/{request}")

    assert page.status == 410
    assert name in page.text
    assert "In the archive" in page.text
    assert visitor.get(f"/admin/search?q={request}").status == 200
    assert visitor.send(f"/admin/requests/{request}/cancel", {"reason": "late"}).status in (403, 410)
