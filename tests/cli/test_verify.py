"""
`teller verify`: one line for a correct database, and one line for each discrepancy otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result
    from tests.store.store import Store


def test_a_correct_database_is_reported_in_one_line(teller: Callable[..., Result], store: Store) -> None:
    """
    Without a discrepancy the status is 0, and the line has the number of checked rows.
    """
    store.open("seat")

    text, document = teller("verify"), teller("verify", "--json").document

    assert (text.status, text.err) == (0, "")
    assert "1 resources, 1 entries, 1 requests" in text.out
    assert (document["ok"], document["discrepancies"], document["checked"]["entries"]) == (True, [], 1)


def test_each_discrepancy_is_a_line_and_the_status_is_1(teller: Callable[..., Result], store: Store) -> None:
    """
    Two balances that were changed in the database are named in the text and in the JSON document.
    """
    for name in ("pool-a", "pool-b", "pool-c"):
        store.open(name)
    store.owner.execute("UPDATE resources SET available = available + 1 WHERE id IN ('pool-a', 'pool-c')")

    text, programs = teller("verify"), teller("verify", "--json")

    lines = text.out.splitlines()
    assert (text.status, programs.status) == (1, 1)
    found = programs.document["discrepancies"]
    assert lines == [f"{one['code']} {one['id']}: {one['line']}" for one in found]
    assert {one["id"] for one in found} == {"pool-a", "pool-c"}
    assert programs.document["ok"] is False
