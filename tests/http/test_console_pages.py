"""
The pages of the console: the overview, partitions, resources, search.
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
from processor.reading import activity
from processor.reading import overview as overview_queries
from processor.storage import connections
from tests.http.visitor import Visitor, words
from tests.servers import PARTITIONS

if TYPE_CHECKING:
    from tests.http.teller import Teller

#: A script that a browser would run if a page did not escape it.
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def visitor(teller: Teller) -> Visitor:
    """
    An operator with a session.
    """
    return Visitor.signed_in(teller, teller.operator)


def home_of(resource: str) -> int:
    """Return the partition of a resource."""
    return partition_of(resource, PARTITIONS)


def worker(teller: Teller, *owned: int, is_alive: bool = True) -> None:
    """Start a worker that owns some partitions."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        one = new_id()
        ownership.join(connection, one, "host", 4711)
        connection.execute(
            "UPDATE ownership SET worker_id = %s WHERE partition = ANY(%s)", (one, list(owned))
        )
        if not is_alive:
            connection.execute("UPDATE workers SET alive_until = now() - interval '1 second'")


# ---------------------------------------------------------------- overview


def test_the_overview_counts_waiting_and_failed_requests(teller: Teller, visitor: Visitor) -> None:
    """
    One request failed, one is held at the gateway, and two wait in a paused partition.
    """
    teller.open("bank", "balance", 1_000, gateway="sandbox")
    teller.open("shelf")
    teller.fail_withdrawal("bank")
    teller.withdraw("bank")
    for _ in range(2):
        teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})
    home = home_of("shelf")
    teller.admin.post(f"/v1/admin/partitions/{home}/pause", {"reason": "a wrong price"})

    page = visitor.get("/admin").text
    read = words(page)

    assert "Waiting in queues 2" in read
    assert "Failed 1 " in read
    assert "Waiting for gateways 1 " in read
    assert "One request has failed, to be replayed or refunded." in read
    assert re.search(rf"Partition {home} has been paused since [0-9:]+ UTC by \S.*: a wrong price\.", read)
    assert "No worker is running" in read
    [cell] = re.findall(rf'<a id="p{home}" class="(\w+)"', page)
    assert cell == "paused"
    assert page.count('<li><a id="p') == teller.settings.partitions


def test_the_overview_counts_the_last_hour_day_and_week(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each count leads to its list. If there are many requests, the newest are counted, and a plus says so.
    """
    monkeypatch.setattr("api.console.rates.ACTIVITY_SECONDS", 0)
    teller.open("shelf", available=2)
    for _ in range(5):
        teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})
    teller.drain()
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})

    page = visitor.get("/admin").text
    rows = re.findall(r'<tr><td data-label="In the last"><strong>(\w+)</strong></td>(.*?)</tr>', page)
    counts = [(name, words(row).split()) for name, row in rows]

    assert [name for name, _ in counts] == ["hour", "day", "week"]
    assert {tuple(row[:1] + row[3:]) for _, row in counts} == {("7", "3", "3", "0", "0", "0", "1")}
    [address] = set(re.findall(r'href="(/admin/requests\?status=rejected[^"]*)"', rows[0][1]))
    listed = visitor.get(html.unescape(address)).text
    assert listed.count('<a class="mono uuid"') == 3

    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        now = datetime.now(UTC)
        later = activity.read_activity(connection, now + timedelta(hours=3))
        assert [one.accepted for one in later] == [0, 7, 7]
        assert [one.is_cut for one in later] == [False, False, False]
        monkeypatch.setattr("processor.reading.activity.COUNTED_MAX", 3)
        [hour, *_] = activity.read_activity(connection, now)
        assert (hour.accepted, hour.is_cut) == (3, True)
        assert hour.seconds < 3_600
    cut = re.findall(r'data-label="Accepted" class="r"><a href="[^"]*">([^<]*)<', visitor.get("/admin").text)
    assert cut == ["3+", "3+", "3+"]


def test_a_gateway_that_does_not_answer_needs_attention(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The overview and the page of a resource agree: calls are paused until a time, and then one at a time is made.

    It ends with the last call that is due.
    """
    monkeypatch.setattr("api.console.rates.FRESH_SECONDS", 0)
    teller.open("bank", "balance", 1_000, gateway="sandbox")
    teller.withdraw("bank")
    shown = []
    for until, is_due in (("2999-01-01", True), ("2020-01-01", True), ("2020-01-01", False), (None, True)):
        with connections.connect(teller.settings.database_url, application_name="test") as connection:
            connection.execute(
                "INSERT INTO gateways (name, open_until) VALUES ('sandbox', %(until)s) "
                "ON CONFLICT (name) DO UPDATE SET open_until = %(until)s",
                {"until": until and f"{until}T19:03:27Z"},
            )
            connection.execute(
                "UPDATE effects SET due_at = CASE WHEN %(is_due)s THEN now() END", {"is_due": is_due}
            )
        pages = (words(visitor.get(address).text) for address in ("/admin", "/admin/resources/bank"))
        found = [re.search(r"The gateway sandbox does not answer: ([^.]*)", page) for page in pages]
        shown.append([one and one[1] for one in found])

    paused = "calls are paused until 01 Jan 2999 19:03 UTC"
    again = "one call at a time tries it again"
    assert shown == [[paused, paused], [again, again], [None, None], [None, None]]


def test_a_partition_without_a_worker_is_stuck(teller: Teller, visitor: Visitor) -> None:
    """
    Without a running owner a partition with a backlog is stuck at once. With one, the age of the backlog decides.
    """
    teller.open("shelf")
    home = home_of("shelf")
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})
    stuck = visitor.get("/admin").text
    worker(teller, home)

    assert f'id="p{home}" class="stuck"' in stuck
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        [partition] = [one for one in overview_queries.read_pulse(connection).partitions if one.id == home]
    assert (partition.owner, partition.owner_alive, partition.backlog, partition.undecided) == (
        "host:4711",
        True,
        1,
        1,
    )
    assert state_of(partition) == "working"
    assert state_of(partition._replace(oldest_seconds=5.0)) == "behind"
    assert state_of(partition._replace(oldest_seconds=11.0)) == "stuck"
    assert state_of(partition._replace(paused=True)) == "paused"
    assert state_of(partition._replace(backlog=0, oldest_seconds=None)) == "idle"


def test_accepted_and_decided_add_up(teller: Teller) -> None:
    """
    Undecided and decided requests together are all accepted requests, whatever else is in the inbox.
    """
    teller.open("bank", "balance", 1_000, gateway="sandbox")
    teller.withdraw("bank")
    teller.call_gateway(Answer("done", 200))
    for _ in range(3):
        teller.client.post("/v1/redemptions", {"resource": "bank", "account": "u"})
    asked = teller.client.post("/v1/redemptions", {"resource": "bank", "account": "u"}).json["id"]
    teller.client.post(f"/v1/requests/{asked}/cancel")

    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        partitions = overview_queries.read_pulse(connection).partitions
        [(accepted,)] = connection.execute("SELECT count(*) FROM requests").fetchall()

    assert sum(partition.undecided for partition in partitions) == 4
    assert sum(partition.backlog for partition in partitions) == 5
    assert sum(partition.decided + partition.undecided for partition in partitions) == accepted == 6


# ---------------------------------------------------------------- one partition


def test_a_form_pauses_and_resumes_a_partition(teller: Teller, visitor: Visitor) -> None:
    """
    The page confirms the pause, and the audit has the operator and the reason. A second pause changes nothing.
    """
    teller.open("shelf")
    home = home_of("shelf")
    page = f"/admin/partitions/{home}"
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "u"})

    first = visitor.send(f"{page}/pause", {"reason": "stocktaking"})
    assert (first.status, first.location) == (303, page)
    paused = words(visitor.get(page).text)
    visitor.send(f"{page}/pause", {"reason": "again"})
    assert f"Partition {home} was already paused." in words(visitor.get(page).text)
    teller.drain()

    assert f"Partition {home} is paused. It accepts requests, but decides none." in paused
    assert f"Resume partition {home}" in paused
    assert "Waiting now: 1." in paused
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


def test_a_form_does_not_redirect_to_other_sites(visitor: Visitor) -> None:
    """
    An address of another site is replaced by the first page of the console.
    """
    answer = visitor.send("/admin/partitions/3/pause", {"reason": "x", "back": "//evil.example"})
    assert answer.location == "/admin"


@pytest.mark.parametrize("number", ["64", "-1", "nonsense", "99999999999", "%F0%9D%9F%97"])
def test_an_unknown_partition_is_not_found(visitor: Visitor, number: str) -> None:
    """
    Pages and forms of an unknown partition return a page with status 404.
    """
    answers = [
        visitor.get(f"/admin/partitions/{number}"),
        visitor.send(f"/admin/partitions/{number}/pause", {"reason": "x"}),
        visitor.send(f"/admin/partitions/{number}/resume", {"reason": "x"}),
    ]
    assert [answer.status for answer in answers] == [404] * 3
    assert all("<h1>Not found</h1>" in answer.text for answer in answers)


def test_a_partition_lists_its_waiting_resources(teller: Teller, visitor: Visitor) -> None:
    """
    Each resource has its number of waiting requests and the position of the first.
    """
    names = [name for name in (f"r{n}" for n in range(2_000)) if home_of(name) == 5][:2]
    for name in (names[0], names[0], names[1]):
        teller.client.post("/v1/redemptions", {"resource": name, "account": "u"})

    read = words(visitor.get("/admin/partitions/5").text)

    assert "3 waiting, for 2 resources" in read
    assert re.search(rf"{names[0]} 2 1 \d", read)
    assert re.search(rf"{names[1]} 1 3 \d", read)
    assert "This stops every resource of this partition. Waiting now: 3, for 2 resources." in read


# ---------------------------------------------------------------- resources


def test_resources_are_listed_by_kind_in_pages(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The list is newest first. The next page keeps the filter, and the last page has no link to another.
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
    # An empty field of a form is sent, too.
    assert "shelf" in visitor.get("/admin/resources?kind=").text


def test_a_resource_shows_why_its_requests_wait(teller: Teller, visitor: Visitor) -> None:
    """
    The page names each cause: pause, no worker, silent owner, backlog, closing, start time, gateway, failed requests.
    """
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    teller.open("bank", "balance", 1_000, gateway="sandbox", starts_at="2026-01-01T00:00:00Z")
    teller.open("morrow", starts_at=later)
    teller.open("gone")
    teller.admin.post("/v1/resources/gone/close")
    teller.drain()
    home = home_of("bank")

    def text_of(resource: str) -> str:
        return words(visitor.get(f"/admin/resources/{resource}").text)

    assert "No worker is running, so no request is decided." in text_of("bank")
    worker(teller, home, is_alive=False)
    assert "No worker is running" in text_of("bank")
    worker(teller, home)
    assert "Nothing is waiting, and nothing blocks new requests." in text_of("bank")
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        silent = new_id()
        ownership.join(connection, silent, "old", 12)
        connection.execute("UPDATE workers SET alive_until = now() - interval '1 s' WHERE id = %s", (silent,))
        connection.execute("UPDATE ownership SET worker_id = %s WHERE partition = %s", (silent, home))
    assert "The worker old:12 does not respond" in text_of("bank")
    assert "The resource is closed. Requests are rejected" in text_of("gone")
    assert "UTC, requests are rejected with not_started" in text_of("morrow")

    teller.fail_withdrawal("bank")
    assert "One request has failed, to be replayed or refunded." in text_of("bank")
    assert 'href="/admin/failed?resource=bank"' in visitor.get("/admin/resources/bank").text
    teller.withdraw("bank")
    assert "One request is held until the gateway sandbox answers." in text_of("bank")

    neighbour = next(name for name in (f"n{n}" for n in range(5_000)) if home_of(name) == home)
    for name in (neighbour, neighbour, "bank"):
        teller.client.post("/v1/redemptions", {"resource": name, "account": "u"})
    assert "2 rows are ahead of this resource in the queue." in text_of("bank")
    assert "Waiting now: requests for 1 other resource." in text_of("bank")
    visitor.send(f"/admin/partitions/{home}/pause", {"reason": "x"})
    assert re.search(
        rf"Partition {home} has been paused since [0-9:]+ UTC by \S.*: x\. It accepts", text_of("bank")
    )


def test_a_resource_shows_its_ledger_and_a_chart(teller: Teller, visitor: Visitor) -> None:
    """
    Entries are newest first with the available quantity after each. The chart has a text alternative.
    """
    teller.open("bank", "balance", 100, unit="EUR")
    for amount in (10, 20, 5):
        teller.withdraw("bank", amount)

    page = visitor.get("/admin/resources/bank").text

    assert re.findall(r'data-label="Available" class="r">([^<]+)<', page) == [
        "65 EUR",
        "70 EUR",
        "90 EUR",
        "100 EUR",
    ]
    chart = "available after each of the last 4 entries: from 100 EUR to 65 EUR, between 65 EUR and 100 EUR"
    assert f'aria-label="Balance of bank: {chart}"' in page
    assert "Available 65 EUR" in words(page)
    assert visitor.get("/admin/resources/nothing").status == 404


# ---------------------------------------------------------------- search


def test_search_redirects_to_an_exact_match(teller: Teller, visitor: Visitor) -> None:
    """
    An id of a request, an idempotency key of one client, and a resource's id or its unique prefix redirect.
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


def test_search_lists_ambiguous_matches(teller: Teller, visitor: Visitor) -> None:
    """
    Accounts, resources with this prefix, and requests of several clients with this key are listed.
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
        assert "No results" in visitor.get(f"/admin/search?q={nothing}").text
    assert "Enter a search term" in visitor.get("/admin/search").text


# ---------------------------------------------------------------- markup


def test_markup_of_clients_is_escaped(teller: Teller) -> None:
    """
    A script in a unit, metadata, a key's name, a reason or a search is shown as text.
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


def test_text_of_clients_hides_nothing_and_reorders_nothing(teller: Teller) -> None:
    """
    Direction marks and control characters are shown as escapes on every page, and right-to-left text is isolated.
    """
    teller.open("bank", "balance", 100, unit="\u05d0\u05d1", approve_above=0, metadata={"a": "b\u202ec"})
    body = {"resource": "bank", "account": "u", "amount": 1, "metadata": {"x": "y\u202ez"}}
    asked = teller.client.post("/v1/withdrawals", {**body, "destination": "DE00\u202e1234\u2066\x9b\x07"})
    teller.drain()
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("UPDATE api_keys SET name = %s WHERE role <> 'client'", ("ada\u202e",))
    visitor = Visitor.signed_in(teller, teller.operator)
    visitor.send(f"/admin/partitions/{home_of('bank')}/pause", {"reason": "rest\u202e"})

    pages = [
        visitor.get(address).text
        for address in (
            "/admin/approvals",
            f"/admin/requests/{asked.json['id']}",
            "/admin/resources/bank",
            "/admin/audit",
            "/admin",
        )
    ]
    for page in (re.sub(r'value="[^"]*"', "", page) for page in pages):  # a field holds what is sent back
        assert not {"\u202e", "\u2066", "\x9b", "\x07"} & set(page)
    assert all("DE00\\u202e1234\\u2066\\u009b\\u0007" in page for page in pages[:2])
    assert "\u2068\u05d0\u05d1\u2069" in pages[0]
    assert '"y\\u202ez"' in html.unescape(pages[1])
    assert '"b\\u202ec"' in html.unescape(pages[2])
    assert "rest\\u202e" in pages[3]


def test_no_answer_names_the_host_of_its_request(teller: Teller) -> None:
    """
    A redirect is relative, whatever the header Host says, and for an address with and without a slash at its end.
    """
    browser = teller.application.test_client()
    paths = {
        re.sub(r"<[^>]+>", "x", rule.rule).rstrip("/") for rule in teller.application.url_map.iter_rules()
    }

    for path in sorted(path + end for path in paths for end in ("", "/")):
        answer = browser.get(path, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
        location = answer.headers.get("Location", "/")
        assert location.startswith("/"), path
        assert not location.startswith("//"), path
        assert "evil.example" not in str(answer.headers), path
        assert b"evil.example" not in answer.data, path


def test_a_page_of_a_fault_of_the_database_names_no_table(teller: Teller, visitor: Visitor) -> None:
    """
    A right is missing, for example. The log alone has the message of PostgreSQL.
    """
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute("REVOKE SELECT ON audit FROM teller_api")

    page = visitor.get("/admin/audit")

    assert page.status == 503
    assert "permission" not in page.text
