"""
The audit at the console: filters for actor, action, request and time, and links to the objects of each line.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from psycopg.types.json import Jsonb

from processor.storage import connections
from tests.http.visitor import Visitor

if TYPE_CHECKING:
    from tests.http.teller import Teller

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def admin(teller: Teller) -> Visitor:
    """
    An admin with a session.
    """
    return Visitor.signed_in(teller, teller.admin)


def write(teller: Teller, actor: str, action: str, **more: Any) -> None:
    """Write a line of the audit with the given `at`, `request`, `reason` and `detail`."""
    with connections.connect(teller.settings.database_url, application_name="test") as connection:
        connection.execute(
            "INSERT INTO audit (at, actor, action, request_id, reason, detail) "
            "VALUES (coalesce(%s, clock_timestamp()), %s, %s, %s, %s, %s)",
            (
                more.get("at"),
                actor,
                action,
                more.get("request"),
                more.get("reason"),
                Jsonb(more["detail"]) if "detail" in more else None,
            ),
        )


def reasons(admin: Visitor, **query: str) -> list[str]:
    """Return the reasons on a page, in its order."""
    text = admin.get(f"/admin/audit?{urlencode(query)}").text
    return re.findall(r'<span class="prose">([^<]*)</span>', text)


def test_lines_are_filtered_by_actor_action_request_and_time(teller: Teller, admin: Visitor) -> None:
    """
    Filters work alone and together. The list is newest first.
    """
    request = uuid.uuid4()
    write(teller, "ada", "replay", reason="1", at="2026-01-01T10:00Z", request=request)
    write(teller, "ada", "refund", reason="2", at="2026-01-01T11:00Z", request=request)
    write(teller, "bob", "replay", reason="3", at="2026-01-01T12:00Z")

    assert reasons(admin) == ["3", "2", "1"]
    assert reasons(admin, actor="ada") == ["2", "1"]
    assert reasons(admin, action="replay") == ["3", "1"]
    assert reasons(admin, request=str(request)) == ["2", "1"]
    assert reasons(admin, since="2026-01-01T11:00", until="2026-01-01T12:00") == ["2"]
    assert reasons(admin, since="2026-01-01T13:00+02:00") == ["3", "2"]
    assert reasons(admin, actor="ada", action="replay", request=str(request), until="2026-01-02T00:00") == [
        "1"
    ]
    assert "No action matches" in admin.get("/admin/audit?actor=carl").text
    assert [admin.get(f"/admin/audit?{wrong}").status for wrong in ("request=x", "since=soon", "x=1")] == [
        422
    ] * 3


def test_pages_follow_each_other_and_keep_the_filter(teller: Teller, admin: Visitor) -> None:
    """
    Lines with the same time are neither lost nor repeated between pages.
    """
    for number in range(60):
        write(teller, "ada", "replay", reason=str(number), at="2026-01-01T10:00Z")
    first = admin.get("/admin/audit?actor=ada&since=2026-01-01T09:00").text
    hidden = dict(
        re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', first.partition('class="pager"')[2])
    )

    assert reasons(admin, actor="ada") == [str(number) for number in reversed(range(10, 60))]
    assert hidden.keys() == {"actor", "since", "cursor"}
    assert reasons(admin, **hidden) == [str(number) for number in reversed(range(10))]
    assert admin.get("/admin/audit?cursor=nonsense").status == 422


def test_a_line_links_to_its_objects(teller: Teller, admin: Visitor) -> None:
    """
    A line links to its request, webhook, key and partition. Only admins get the link to a key.
    """
    request, webhook, key = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    detail = {"webhook": str(webhook), "key": str(key), "partition": 7, "deliveries": 3}
    write(teller, "ada", "everything", request=request, detail=detail)
    operator = Visitor.signed_in(teller, teller.operator)

    text = admin.get("/admin/audit").text
    for address in (f"requests/{request}", f"webhooks/{webhook}", f"keys/{key}", "partitions/7"):
        assert f'href="/admin/{address}"' in text
    assert f"/admin/keys/{key}" not in operator.get("/admin/audit").text


def test_markup_in_a_line_is_escaped(teller: Teller, admin: Visitor) -> None:
    """
    A script as actor, action, reason or detail is shown as text.
    """
    write(teller, SCRIPT, SCRIPT, reason=SCRIPT, detail={SCRIPT: SCRIPT, "list": [SCRIPT], "webhook": SCRIPT})

    text = admin.get(f"/admin/audit?{urlencode({'actor': SCRIPT, 'action': SCRIPT})}").text

    assert SCRIPT not in text
    assert "&lt;script&gt;alert(1)" in text
    assert 'href="/admin/webhooks/<' not in text
