"""
`teller check`: one line for healthy servers, and one line for each problem otherwise.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from processor import disk
from processor.storage import connections, server_checks

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


def test_outside_servers_are_connected_to_and_asked_nothing(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A gateway that accepts a connection is no problem. Each other one is named.
    """
    store.open("sneaker", gateway="elsewhere")
    store.drain("sneaker")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setenv(
            "TELLER_GATEWAYS", f"alive=http://127.0.0.1:{port}/pay,dead=http://127.0.0.1:1/pay"
        )
        monkeypatch.setenv("TELLER_SMTP_URL", "smtp://ada:secret@127.0.0.1:1")
        monkeypatch.setenv("TELLER_MAIL_FROM", "shop@example.com")

        found = teller("check")

        lines = [line for line in found.out.splitlines() if "roles" not in line]
        accepted, _ = listening.accept()
        with contextlib.closing(accepted):
            assert accepted.recv(100) == b""
    assert found.status == 0
    assert sum("elsewhere, which is not configured here" in line for line in lines) == 1
    assert sum("the gateway dead of TELLER_GATEWAYS cannot be connected to" in line for line in lines) == 1
    assert sum("no mail can be sent to TELLER_SMTP_URL" in line for line in lines) == 1
    assert not [line for line in lines if "alive" in line or "secret" in line]


def test_a_transaction_left_open_is_named(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its session, and how long it has been open.
    """
    monkeypatch.setattr(server_checks, "OPEN_SECONDS", 0)
    with (
        contextlib.closing(connections.connect(store.database.url, application_name="forgotten")) as other,
        other.transaction(),
    ):
        other.execute("SELECT")

        problems = teller("check", "--json").document["problems"]

    assert [problem["code"] for problem in problems if "forgotten" in problem["detail"]] == [
        "transaction_open"
    ]


def test_few_connections_and_a_full_disk_are_warnings(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A limit of the database that is below the need of one process, and a disk with less room than it must have.
    """
    [(name,)] = store.owner.execute("SELECT current_database()").fetchall()
    store.owner.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 5')
    monkeypatch.setattr(disk, "FREE_SHARE", 1.0)

    document = teller("check", "--json").document

    codes = {problem["code"] for problem in document["problems"]}
    assert "connections_few" in codes
    assert document["ok"] is True


def test_a_published_table_without_an_identity_is_named(store: Store) -> None:
    """
    A subscriber could not apply its changes. All tables of Teller have one.
    """
    store.owner.execute("CREATE PUBLICATION everything FOR ALL TABLES")

    before = [problem for problem in server_checks.problems(store.owner) if "identity" in problem.code]
    store.owner.execute("CREATE TABLE keyless (n int)")
    after = [problem for problem in server_checks.problems(store.owner) if "keyless" in problem.detail]

    assert before == []
    assert [problem.code for problem in after] == ["no_replica_identity"]
