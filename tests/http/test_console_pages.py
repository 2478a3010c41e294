"""
What the pages of the console say: the overview, partitions, resources, search.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from api.console.overview import state_of
from processor.cluster import ownership
from processor.domain.partitioning import partition_of
from processor.gateways.protocol import Answer
from processor.ids import new_id
from processor.reading import overview as overview_queries
from processor.storage import connections
from tests.http.visitor import Visitor
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from tests.http.teller import Teller

#: What a browser would run, if it were not escaped.
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def visitor(teller: Teller) -> Visitor:
    """
    An operator at the console.
    """
    return Visitor.signed_in(teller, teller.operator)


def words(text: str) -> str:
    """A page as it is read."""
    return " ".join(
        html.unescape(re.sub(r"<(script|svg).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)).split()
    )


def home_of(resource: str) -> int:
    """Its partition."""
    return partition_of(resource, PARTITIONS)


def worker(teller: Teller, *owned: int, lives: bool = True) -> None:
    """A worker that owns some partitions."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        one = new_id()
        ownership.join(connection, one, "host", 4711)
        connection.execute(
            "UPDATE ownership SET worker_id = %s WHERE partition = ANY(%s)", (one, list(owned))
        )
        if not lives:
            connection.execute("UPDATE workers SET alive_until = now() - interval '1 second'")


# ---------------------------------------------------------------- overview


def test_the_overview_counts_what_waits_and_what_failed(teller: Teller, visitor: Visitor) -> None:
    """
    One is parked, one is held with its gateway, two wait in a partition that is paused.
    """
    teller.open("bank", "balance", 1_000, gateway="sandbox")
    teller.open("shelf")
    teller.fail_withdrawal("bank")
    teller.withdraw("bank")
    for _ in range(2):
        teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})
    home = home_of("shelf")
    teller.admin.post(f"/v1/admin/partitions/{home}/pause")

    page = visitor.get("/admin").text
    read = words(page)

    assert "Waiting 2" in read
    assert "Failed 1 " in read
    assert "Held with the gateways 1 " in read
    assert "One request has failed: to be replayed or refunded." in read
    assert f"Paused: partition {home}" in read
    assert "No worker is alive" in read
    [cell] = re.findall(rf'<a id="p{home}" class="(\w+)"', page)
    assert cell == "paused"
    assert page.count('<li><a id="p') == teller.settings.partitions


def test_a_partition_that_nobody_drains_is_stuck(teller: Teller, visitor: Visitor) -> None:
    """
    With an owner that lives it is at work; without one, what waits is stuck at once.
    """
    teller.open("shelf")
    home = home_of("shelf")
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})
    stuck = visitor.get("/admin").text
    worker(teller, home)

    assert f'id="p{home}" class="stuck"' in stuck
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [lane] = [one for one in overview_queries.read_pulse(connection).partitions if one.id == home]
    assert (lane.owner, lane.owner_alive, lane.backlog, lane.undecided) == ("host:4711", True, 1, 1)
    assert state_of(lane) == "warm"
    assert state_of(lane._replace(oldest_seconds=5.0)) == "hot"
    assert state_of(lane._replace(oldest_seconds=11.0)) == "stuck"
    assert state_of(lane._replace(paused=True)) == "paused"
    assert state_of(lane._replace(backlog=0, oldest_seconds=None)) == "idle"


def test_accepted_and_decided_are_counters_of_the_database(teller: Teller) -> None:
    """
    Undecided and decided together are all that was ever accepted, whatever else waits in the inbox.
    """
    teller.open("bank", "balance", 1_000, gateway="sandbox")
    teller.withdraw("bank")
    teller.call_gateway(Answer("done", 200))
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "bank", "account": "u"})
    asked = teller.client.post("/v1/redemptions", {"resource": "bank", "account": "u"}).json["id"]
    teller.client.post(f"/v1/requests/{asked}/cancel")

    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        lanes = overview_queries.read_pulse(connection).partitions
        [(accepted,)] = connection.execute("SELECT count(*) FROM requests").fetchall()

    assert sum(lane.undecided for lane in lanes) == 4
    assert sum(lane.backlog for lane in lanes) == 5
    assert sum(lane.decided + lane.undecided for lane in lanes) == accepted == 6


# ---------------------------------------------------------------- one partition


def test_pausing_by_the_form_is_pausing(teller: Teller, visitor: Visitor) -> None:
    """
    It is said, done and kept in the audit with who and why; resuming likewise; twice is once.
    """
    teller.open("shelf")
    home = home_of("shelf")
    page = f"/admin/partitions/{home}"
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})

    first = visitor.send(f"{page}/pause", {"reason": "stocktaking"})
    assert (first.status, first.location) == (303, page)
    paused = words(visitor.get(page).text)
    visitor.send(f"{page}/pause", {"reason": "again"})
    assert f"Partition {home} was paused already." in words(visitor.get(page).text)
    teller.drain()

    assert f"Partition {home} is paused: it accepts, and decides nothing." in paused
    assert f"Resume partition {home}" in paused
    assert "1 row waits" in paused
    assert teller.operator.id in paused
    back = visitor.send(f"{page}/resume", {"reason": "done", "back": "/admin/resources/shelf"})
    assert back.location == "/admin/resources/shelf"
    assert len(teller.drain()) == 1
    lines = teller.admin.get("/v1/admin/audit?limit=2").json["data"]
    assert [(line["action"], line["reason"]) for line in lines] == [
        ("partition_resumed", "done"),
        ("partition_paused", "stocktaking"),
    ]
    assert teller.operator.id in lines[0]["actor"]


def test_going_back_leads_nowhere_else(visitor: Visitor) -> None:
    """
    A form that names another site leads to the console.
    """
    answer = visitor.send("/admin/partitions/3/pause", {"reason": "x", "back": "//evil.example"})
    assert answer.location == "/admin"


@pytest.mark.parametrize("number", ["64", "-1", "nonsense", "99999999999", "%F0%9D%9F%97"])
def test_what_is_no_partition_is_not_found(visitor: Visitor, number: str) -> None:
    """
    A page, also for forms.
    """
    answers = [
        visitor.get(f"/admin/partitions/{number}"),
        visitor.send(f"/admin/partitions/{number}/pause", {"reason": "x"}),
        visitor.send(f"/admin/partitions/{number}/resume", {"reason": "x"}),
    ]
    assert [answer.status for answer in answers] == [404] * 3
    assert all("<h1>Not found</h1>" in answer.text for answer in answers)


def test_a_partition_shows_who_stands_in_its_line(teller: Teller, visitor: Visitor) -> None:
    """
    Each resource with how many wait and the place of its first; those that are next, one by one.
    """
    names = [name for name in (f"r{n}" for n in range(2_000)) if home_of(name) == 5][:2]
    for name in (names[0], names[0], names[1]):
        teller.client.post("/v1/redemptions", {"resource": name, "account": "u"})

    read = words(visitor.get("/admin/partitions/5").text)

    assert "3 waiting, of 2 resources" in read
    assert re.search(rf"{names[0]} 2 1 \d", read)
    assert re.search(rf"{names[1]} 1 3 \d", read)
    assert "This stops every resource of this partition: 3 rows wait here now, of 2 resources." in read


# ---------------------------------------------------------------- resources


def test_resources_are_listed_by_kind_in_parts(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Newest first; the filter is in the address and stays for the next part; the last part has no further one.
    """
    monkeypatch.setattr("api.console.resources.LISTED", 2)
    for number in range(5):
        teller.open(f"seat-{number}", "seat", 1)
    teller.open("shelf")

    assert "shelf" in visitor.get("/admin/resources").text
    seen: list[str] = []
    address = "/admin/resources?kind=seat"
    for _ in range(3):
        page = visitor.get(address).text
        seen += re.findall(r"/admin/resources/(seat-\d|shelf)", page)
        cursor = re.search(r'name="cursor" value="([^"]+)"', page)
        if cursor is None:
            break
        assert '<input type="hidden" name="kind" value="seat">' in page
        address = f"/admin/resources?kind=seat&cursor={cursor[1]}"
    assert seen == ["seat-4", "seat-3", "seat-2", "seat-1", "seat-0"]
    assert "There is no resource of this kind" in visitor.get("/admin/resources?kind=pool").text
    # A form sends what is not filled in, too.
    assert "shelf" in visitor.get("/admin/resources?kind=").text


def test_a_resource_says_why_it_does_not_move(teller: Teller, visitor: Visitor) -> None:
    """
    Paused, nobody there, its owner silent, behind others, closed, not begun, waiting for its gateway, parked.
    """
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    teller.open("bank", "balance", 1_000, gateway="sandbox", starts_at="2026-01-01T00:00:00Z")
    teller.open("morrow", starts_at=later)
    teller.open("gone")
    teller.admin.post("/v1/resources/gone/close")
    teller.drain()
    home = home_of("bank")

    def said(resource: str) -> str:
        return words(visitor.get(f"/admin/resources/{resource}").text)

    assert "No worker is alive: nothing at all is decided." in said("bank")
    worker(teller, home, lives=False)
    assert "No worker is alive" in said("bank")
    worker(teller, home)
    assert "Nothing waits, and nothing is in its way." in said("bank")
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        silent = new_id()
        ownership.join(connection, silent, "old", 12)
        connection.execute("UPDATE workers SET alive_until = now() - interval '1 s' WHERE id = %s", (silent,))
        connection.execute("UPDATE ownership SET worker_id = %s WHERE partition = %s", (silent, home))
    assert "Its owner old:12 has fallen silent" in said("bank")
    assert "It is closed: requests are rejected" in said("gone")
    assert "UTC requests are rejected with not_started" in said("morrow")

    teller.fail_withdrawal("bank")
    assert "One request is parked: they have failed" in said("bank")
    assert 'href="/admin/failed?resource=bank"' in visitor.get("/admin/resources/bank").text
    teller.withdraw("bank")
    assert "One request is held until the gateway sandbox answers." in said("bank")

    neighbour = next(name for name in (f"n{n}" for n in range(5_000)) if home_of(name) == home)
    for name in (neighbour, neighbour, "bank"):
        teller.client.post("/v1/redemptions", {"resource": name, "account": "u"})
    assert "2 rows are ahead of it in its line." in said("bank")
    assert "requests of 1 other resource wait here now" in said("bank")
    visitor.send(f"/admin/partitions/{home}/pause", {"reason": "x"})
    assert f"Partition {home} is paused since" in said("bank")


def test_a_resource_shows_its_ledger_and_its_way(teller: Teller, visitor: Visitor) -> None:
    """
    Entries newest first with what was left after each; the chart tells the same in words.
    """
    teller.open("bank", "balance", 100, unit="EUR")
    for amount in (10, 20, 5):
        teller.withdraw("bank", amount)

    page = visitor.get("/admin/resources/bank").text

    assert re.findall(r'data-label="Available" class="r">([\d,]+)<', page) == ["65", "70", "90", "100"]
    assert (
        'aria-label="Balance of bank: available after each of its last 4 entries: from 100 to 65, between 65 and 100"'
        in page
    )
    assert "Available 65 EUR" in words(page)
    assert visitor.get("/admin/resources/nothing").status == 404


# ---------------------------------------------------------------- search


def test_search_goes_straight_to_what_it_can_only_be(teller: Teller, visitor: Visitor) -> None:
    """
    A request's id, an idempotency key of one client, a resource, also by the beginning of its id.
    """
    teller.open("coupon:BLACK")
    asked = teller.client.post(
        "/v1/redemptions", {"resource": "coupon:BLACK", "account": "u_42"}, key="order A-17"
    ).json["id"]

    for text, place in (
        (asked, f"/admin/requests/{asked}"),
        (asked.upper(), f"/admin/requests/{asked}"),
        ("order A-17", f"/admin/requests/{asked}"),
        (" coupon:BLACK ", "/admin/resources/coupon:BLACK"),
        ("coupon", "/admin/resources/coupon:BLACK"),
    ):
        answer = visitor.get(f"/admin/search?q={text.replace(' ', '+')}")
        assert (answer.status, answer.location) == (303, place), text


def test_search_lists_what_may_be_meant(teller: Teller, visitor: Visitor) -> None:
    """
    Accounts of both clients, resources with this beginning, requests of two clients with this key.
    """
    teller.open("shop:a")
    teller.open("shop:b")
    asked = [
        who.post("/v1/redemptions", {"resource": "shop:a", "account": "u_42"}, key="same").json["id"]
        for who in (teller.client, teller.other)
    ]

    by_account = visitor.get("/admin/search?q=u_42").text
    by_key = visitor.get("/admin/search?q=same").text
    by_beginning = visitor.get("/admin/search?q=shop").text

    for page in (by_account, by_key):
        assert all(f"/admin/requests/{one}" in page for one in asked)
    assert "Requests of this account" in by_account
    assert "Requests with this idempotency key" in by_key
    assert "/admin/resources/shop:a" in by_beginning
    assert "/admin/resources/shop:b" in by_beginning
    for nothing in ("%25", "shop_a", "nothing", SCRIPT, "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4", "a" * 255):
        assert "Nothing is called so" in visitor.get(f"/admin/search?q={nothing}").text
    assert "What are you looking for?" in visitor.get("/admin/search").text


# ---------------------------------------------------------------- what clients can write


def test_no_script_of_a_client_reaches_a_page(teller: Teller) -> None:
    """
    In every field that somebody can fill: units, metadata, names of keys, reasons, searches.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("UPDATE api_keys SET name = %s WHERE role <> 'client'", (SCRIPT,))
    teller.open("bank", "balance", 100, unit=SCRIPT, metadata={SCRIPT: SCRIPT}, gateway="sandbox")
    teller.client.post(
        "/v1/withdrawals",
        {
            "resource": "bank",
            "account": "u",
            "amount": 1,
            "destination": SCRIPT,
            "metadata": {SCRIPT: SCRIPT},
        },
        key=SCRIPT,
    )
    visitor = Visitor.signed_in(teller, teller.operator)
    home = home_of("bank")
    visitor.send(f"/admin/partitions/{home}/pause", {"reason": SCRIPT})

    for address in (
        "/admin",
        "/admin/resources",
        "/admin/resources/bank",
        f"/admin/partitions/{home}",
        "/admin/search?q=u",
        f"/admin/search?q=x{SCRIPT}",
        f"/admin/{SCRIPT}",
        f"/admin/resources/{SCRIPT}",
        f"/admin/resources?kind={SCRIPT}",
        f"/admin/resources?{SCRIPT}=1",
        f"/admin/sign-in?next={SCRIPT}",
    ):
        page = visitor.get(address).text
        assert SCRIPT not in page, address
        assert "<script>" not in page
    assert html.escape(SCRIPT) in visitor.get("/admin").text
