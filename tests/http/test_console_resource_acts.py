"""
Resources at the console: opened, topped up, changed and closed, each once and with its reason.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from api.console import requests as console_requests
from processor.storage import connections
from tests.http.visitor import Visitor, fields
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    import pytest

    from tests.http.teller import Teller


def acts(teller: Teller) -> list[tuple[str, str]]:
    """Return the acts on resources with their reasons, oldest first."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        return connection.execute(
            "SELECT action, reason FROM audit WHERE detail ? 'resource' AND reason IS NOT NULL ORDER BY id"
        ).fetchall()


def test_a_resource_is_opened_topped_up_changed_and_closed(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Amounts are as people write them. A form that is sent twice acts once, and the answer has its decision.
    """
    monkeypatch.setattr(console_requests, "DECISION_SECONDS", TIMEOUT_SECONDS)
    visitor = Visitor.signed_in(teller, teller.admin)

    def send(address: str, page: str, **sent: str) -> str:
        form = fields(visitor.get(page).text, address) | sent
        with ThreadPoolExecutor(1) as pool:
            deciding = pool.submit(lambda: eventually(lambda: len(teller.drain()) > 0))
            answer = visitor.send(address, form)
            deciding.result()
        again = visitor.send(address, form)
        assert (answer.status, again.status) == (303, 303)
        return str(answer.location)

    page = "/admin/resources/cash"
    opening = {"id": "cash", "kind": "balance", "unit": "EUR", "decimals": "2", "available": "1,000.00"}
    assert (
        send("/admin/resources-new", "/admin/resources-new", reason="new", approve_above="500", **opening)
        == page
    )
    assert send(f"{page}/deposit", page, reason="more", amount="250.50") == page
    assert send(f"{page}/amend", page, reason="safer", approve_above="100.00") == page
    found = teller.admin.get("/v1/resources/cash").json
    assert (found["available"], found["approve_above"], found["per_account_limit"]) == (125_050, 10_000, None)
    assert visitor.send(f"{page}/deposit", {"reason": "x", "amount": "1.005", "key": "0" * 36}).status == 422
    assert send(f"{page}/close", page, reason="over") == page
    assert teller.admin.get("/v1/resources/cash").json["closed_at"] is not None
    assert acts(teller) == [
        ("opening", "new"),
        ("deposit", "more"),
        ("amendment", "safer"),
        ("closing", "over"),
    ]
    assert not re.search(r'action="/admin/resources/cash/(deposit|amend|close)"', visitor.get(page).text)


def test_a_rejected_act_leads_to_its_request(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A resource that exists cannot be opened again, and its page says so.
    """
    teller.open("cash", "balance", 5)
    monkeypatch.setattr(console_requests, "DECISION_SECONDS", TIMEOUT_SECONDS)
    visitor = Visitor.signed_in(teller, teller.admin)
    form = fields(visitor.get("/admin/resources-new").text, "/admin/resources-new")
    form |= {"id": "cash", "kind": "stock", "available": "5", "reason": "again"}

    with ThreadPoolExecutor(1) as pool:
        deciding = pool.submit(lambda: eventually(lambda: len(teller.drain()) > 0))
        answer = visitor.send("/admin/resources-new", form)
        deciding.result()

    assert str(answer.location).startswith("/admin/requests/")
    assert "The opening was rejected: resource exists." in visitor.get(str(answer.location)).text
