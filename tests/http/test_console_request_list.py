"""
The list of requests in the console: its filters, its counts, and the links to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from processor.reading import request_lists
from tests.http.visitor import Visitor, words

if TYPE_CHECKING:
    from tests.http.teller import Teller


@pytest.fixture
def visitor(teller: Teller) -> Visitor:
    """Return an operator who is signed in."""
    return Visitor.signed_in(teller, teller.operator)


def listed(visitor: Visitor, query: str = "") -> list[str]:
    """Return the ids of the requests that the list shows."""
    page = visitor.get(f"/admin/requests{query}")
    assert page.status == 200, page.text
    return re.findall(r'class="mono uuid" href="/admin/requests/([0-9a-f-]{36})"', page.text)


def counted(visitor: Visitor, query: str = "") -> dict[str, str]:
    """Return the count at each tab."""
    page = visitor.get(f"/admin/requests{query}").text
    return dict(re.findall(r">(\w+) <span class=\"num\">([\d,+]+)</span></a>", page))


def test_each_filter_selects_and_stays_in_the_address(teller: Teller, visitor: Visitor) -> None:
    """
    An amount is meant as people read it: 2.50 is 250 of a resource with 2 decimals, and not 2.5 of another.
    """
    teller.open("cash", "balance", 1_000, unit="EUR", decimals=2)
    teller.open("points", "points", 1_000)
    body = {
        "resource": "cash",
        "account": "ada",
        "amount": 250,
        "metadata": {"order": {"no": "A-17"}, "n": 7},
    }
    euros = teller.client.post("/v1/withdrawals", body, key="order 17").json["id"]
    body = {"resource": "points", "account": "bob", "amount": 250}
    points = teller.other.post("/v1/withdrawals", body).json["id"]
    teller.drain()
    refused = teller.client.post("/v1/withdrawals", body | {"amount": 2_000}).json["id"]
    teller.drain()
    time = teller.admin.get(f"/v1/requests/{refused}").json["created_at"][:-1]
    begins = refused[:23]

    assert listed(visitor)[:3] == [refused, points, euros]
    for query, expected in {
        "kind=withdrawal": [refused, points, euros],
        "status=rejected": [refused],
        "resource=points&kind=withdrawal": [refused, points],
        "account=ada": [euros],
        f"account=bob&client={teller.other.id}": [points],
        "key=order+17": [euros],
        "amount=2.50": [euros],
        "amount=250": [points],
        "amount=2,000": [refused],
        "amount=0.25": [],
        "metadata=A-17": [euros],
        "metadata=7": [euros],
        "metadata=order": [],
        f"id={begins}": [refused],
        f"id={euros.replace('-', '')}": [euros],
        f"since={time}&kind=withdrawal": [refused],
        f"until={time}&kind=withdrawal": [points, euros],
        "kind=withdrawal&account=": [refused, points, euros],
    }.items():
        assert listed(visitor, f"?{query}") == expected, query
    for wrong in ("amount=1e3", "id=xyz", "status=lost", "kind=theft", "since=yesterday", "nothing=1"):
        assert visitor.get(f"/admin/requests?{wrong}").status == 422, wrong


def test_tabs_count_what_the_other_filters_leave(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where counting is not bounded by an index of the status, the count has a plus.
    """
    teller.open("shelf", "stock", 3)
    for account in "abcde":
        teller.client.post("/v1/redemptions", {"resource": "shelf", "account": account})
    teller.drain()
    teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "a"})

    assert counted(visitor) == {
        "Processing": "1", "Completed": "4", "Rejected": "2", "Refunded": "0", "Cancelled": "0", "Failed": "0",
    }  # fmt: skip
    assert counted(visitor, "?account=a&status=rejected") | {"Processing": "1", "Completed": "1"} == counted(
        visitor, "?account=a"
    )
    monkeypatch.setattr(request_lists, "COUNTED_MAX", 3)
    assert counted(visitor) == {
        "Processing": "1", "Completed": "0+", "Rejected": "2+", "Refunded": "0", "Cancelled": "0", "Failed": "0",
    }  # fmt: skip


def test_a_search_that_is_not_over_says_so_and_goes_on(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A page looks at a limited number of requests. The button Older continues, until all are seen.
    """
    monkeypatch.setattr(request_lists, "WALKED_MAX", 4)
    body = {"resource": "shelf", "account": "a"}
    first = teller.client.post("/v1/redemptions", body | {"metadata": {"order": "A-1"}}).json["id"]
    for _ in range(9):
        teller.client.post("/v1/redemptions", body)

    found: list[str] = []
    address = "/admin/requests?metadata=A-1"
    for _ in range(4):
        page = visitor.get(address).text
        found += re.findall(r'class="mono uuid" href="/admin/requests/([0-9a-f-]{36})"', page)
        later = re.search(r'name="cursor" value="([^"]+)"', page)
        if later is None:
            break
        assert "The search goes on with Older" in words(page)
        assert '<input type="hidden" name="metadata" value="A-1">' in page
        address = f"/admin/requests?metadata=A-1&cursor={quote(later[1])}"
    else:
        pytest.fail("the search does not end")
    assert found == [first]


def test_accounts_and_clients_lead_to_their_requests_and_a_search_to_all_hits(
    teller: Teller, visitor: Visitor
) -> None:
    """
    The search shows 20 hits and a link to all of them. It finds metadata and beginnings of ids, too.
    """
    asked = [
        teller.client.post("/v1/redemptions", {"resource": "shelf", "account": "ada~1"}).json["id"]
        for _ in range(24)
    ]
    tagged = teller.client.post(
        "/v1/redemptions", {"resource": "shelf", "account": "u", "metadata": {"order": "A-17"}}
    ).json["id"]

    page = visitor.get("/admin/search?q=ada~1").text
    assert "the newest 20. Show all" in words(page)
    assert '<a href="/admin/requests?account=ada~1">Show all</a>' in page
    assert len(listed(visitor, "?account=ada~1")) == 24
    assert visitor.get("/admin/search?q=A-17").location == f"/admin/requests/{tagged}"
    assert visitor.get(f"/admin/search?q={asked[0][:-1]}").location == f"/admin/requests/{asked[0]}"
    assert "Search the metadata of older requests" in words(visitor.get("/admin/search?q=nothing").text)
    own = visitor.get(f"/admin/requests/{asked[0]}").text
    assert f'href="/admin/requests?account=ada~1&amp;client={teller.client.id}">ada~1</a>' in own
    assert f'href="/admin/requests?client={teller.client.id}">{teller.client.id}</a>' in own
