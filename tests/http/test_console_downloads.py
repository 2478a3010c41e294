"""
Lists of the console as files, and what the console shows of the past.
"""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from api.console.downloads import as_csv
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from tests.http.teller import Teller


@pytest.fixture
def visitor(teller: Teller) -> Visitor:
    """
    An operator with a session.
    """
    return Visitor.signed_in(teller, teller.operator)


def rows_of(text: str) -> list[dict[str, str]]:
    """Read a CSV with a header line."""
    return list(csv.DictReader(io.StringIO(text)))


def test_each_list_is_a_file_with_its_filter(
    teller: Teller, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The link on the page leads to the rows of the filter, as CSV and as JSON. A file that is cut says so in its name.
    """
    teller.open("cash", "balance", 100_000, unit="EUR", decimals=2)
    for amount in (250, 300):
        teller.withdraw("cash", amount)
    teller.drain()
    page = visitor.get("/admin/requests?kind=withdrawal&amount=2.50").text
    links = re.findall(r'href="(/admin/requests\.(?:csv|json)\?[^"]*)" download', page)
    as_text, as_json = (visitor.get(link.replace("&amp;", "&")) for link in links)

    [row] = rows_of(as_text.text)
    assert (row["amount"], row["amount_written"], row["client"]) == ("250", "2.50 EUR", teller.client.id)
    document = json.loads(as_json.text)
    assert [one["id"] for one in document["data"]] == [row["id"]]
    assert document["is_complete"] is True
    assert as_text.headers["Content-Disposition"] == 'attachment; filename="requests.csv"'
    for name, least in (("resources", 1), ("audit", 0), ("failed", 0), ("webhooks", 0)):
        assert len(rows_of(visitor.get(f"/admin/{name}.csv").text)) >= least
    entries = rows_of(visitor.get("/admin/resources/cash/entries.csv").text)
    assert [one["available_written"] for one in entries] == ["994.50 EUR", "997.50 EUR", "1,000.00 EUR"]
    assert visitor.get("/admin/requests.xml").status == 404

    monkeypatch.setattr("api.console.downloads.ROWS_MAX", 2)
    cut = visitor.get("/admin/requests.csv")
    assert cut.headers["Content-Disposition"] == 'attachment; filename="requests-first-2.csv"'
    assert len(rows_of(cut.text)) == 2


def test_a_spreadsheet_runs_no_cell() -> None:
    """
    A text that begins like a formula gets an apostrophe. Numbers and other texts stay.
    """
    [row] = rows_of(as_csv([{"a": '=HYPERLINK("x")', "b": -5, "c": "plain", "d": None, "e": {"k": "=1"}}]))

    assert row == {"a": '\'=HYPERLINK("x")', "b": "-5", "c": "plain", "d": "", "e": '{"k": "=1"}'}


def test_a_resource_is_shown_as_of_a_time(teller: Teller, visitor: Visitor) -> None:
    """
    The balance of that time stands beside that of now. Before the opening there was none.
    """
    teller.open("cash", "balance", 100_000, unit="EUR", decimals=2)
    between = datetime.now(UTC)
    teller.withdraw("cash", 25_000)
    teller.drain()

    def as_of(moment: datetime) -> str:
        address = f"/admin/resources/cash?at={moment.replace(tzinfo=None).isoformat()}"
        return " ".join(re.sub(r"<[^>]+>", " ", visitor.get(address).text).split())

    assert "Available 1,000.00 EUR" in as_of(between).partition("As of (UTC)")[2]
    assert "Available 750.00 EUR" in as_of(between + timedelta(minutes=1)).partition("As of (UTC)")[2]
    assert "did not exist as of" in as_of(between - timedelta(days=1))


def test_an_approval_shows_what_a_verdict_needs(teller: Teller, visitor: Visitor) -> None:
    """
    The balance of the resource, the metadata, and the last requests of the account.
    """
    teller.open("cash", "balance", 100_000, unit="EUR", decimals=2, approve_above=50_000)
    for amount in (1_000, 60_000):
        body = {"resource": "cash", "account": "u", "amount": amount, "metadata": {"order": "A-17"}}
        teller.client.post("/v1/withdrawals", body)
        teller.drain()

    page = " ".join(re.sub(r"<[^>]+>", " ", visitor.get("/admin/approvals").text).split())

    assert "Balance 990.00 EUR available" in page
    assert "A-17" in page
    assert "Completed withdrawal of 10.00 EUR" in page.replace("completed", "Completed")
