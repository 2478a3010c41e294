"""
`teller check`: one line for healthy servers, and one line for each problem otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.cli.result import Result
    from tests.store.store import Store


def test_healthy_servers_are_one_line(teller: Callable[..., Result]) -> None:
    """
    The status is 0. A warning does not change it.
    """
    document = teller("check", "--json").document

    assert document["ok"] is True
    assert not [problem for problem in document["problems"] if problem["breaks_a_promise"]]


def test_each_problem_is_a_line_with_its_remedy(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A sequence behind the data and an unreachable address break promises. An unavailable Redis does not.
    """
    store.open("sneaker")
    store.drain("sneaker")
    store.owner.execute("UPDATE partitions SET low_water = 1000")
    monkeypatch.setenv("TELLER_COURIER_DATABASE_URL", "postgresql://ada:secret@127.0.0.1:1/teller")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    text, programs = teller("check"), teller("check", "--json")

    problems = {problem["code"]: problem for problem in programs.document["problems"]}
    assert (text.status, programs.status, programs.document["ok"]) == (1, 1, False)
    assert "run `teller migrate`" in problems["schema_mismatch"]["detail"]
    assert problems["database_unavailable"]["detail"].startswith("TELLER_COURIER_DATABASE_URL: ")
    assert problems["redis_unavailable"]["breaks_a_promise"] is False
    assert "secret" not in text.out + text.err
    assert len(text.out.splitlines()) == len(programs.document["problems"])
