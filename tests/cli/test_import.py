"""
`teller import`: the whole file is checked, then sent; the same file again does nothing twice.
"""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from processor.errors import DatabaseUnavailable
from processor.intake.intake import Intake
from teller.commands import imports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from processor.intake.intake import Receipt, Submission
    from tests.cli.result import Result
    from tests.store.store import Store

RESOURCES = """\
id,kind,available,per_account_limit,ends_at,metadata,gateway
seat:1,seat,1,1,2030-01-01T00:00:00Z,"{""row"": ""é"", ""n"": [1, 2]}",
seat:2,seat,0,,,,sandbox

wallet,balance,9007199254740991,,,,
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], str]:
    """Write a file, and return its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "file"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def made(store: Store) -> list[Any]:
    """Return the requests of the command line, in the order of their acceptance."""
    return store.owner.execute(
        "SELECT kind, resource_id, amount FROM requests r JOIN inbox i ON i.request_id = r.id ORDER BY i.seq"
    ).fetchall()


def test_resources_of_a_csv_are_opened_and_once(
    teller: Callable[..., Result], store: Store, written: Callable[[str | bytes], str]
) -> None:
    """
    Empty cells are left out, and blank lines skipped. Running the file again sends nothing new.
    """
    path = written("\ufeff" + RESOURCES)
    checked = teller("import", "resources", path, "--dry-run", "--json").document
    assert (checked["lines"], checked["sent"], made(store)) == (3, 0, [])
    first = teller("import", "resources", path, "--json")
    assert (first.status, first.document["sent"], first.document["repeated"]) == (0, 3, 0)
    assert first.err == ""  # no bar where it is no terminal

    again = teller("import", "resources", path, "--json").document
    assert (again["sent"], again["repeated"]) == (0, 3)
    assert made(store) == [
        ("opening", "seat:1", 1),
        ("opening", "seat:2", 0),
        ("opening", "wallet", 2**53 - 1),
    ]
    for resource in ("seat:1", "seat:2", "wallet"):
        store.drain(resource)
    row = store.owner.execute(
        "SELECT kind, per_account_limit, metadata, ends_at::date::text FROM resources WHERE id = 'seat:1'"
    ).fetchall()
    assert row == [("seat", 1, {"row": "é", "n": [1, 2]}, "2030-01-01")]
    assert store.one("SELECT count(*) FROM audit WHERE action = 'import'") == 2


def test_deposits_of_json_lines_come_from_standard_input(
    teller: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The same line twice in a file is two deposits. The same line of another file is another deposit.
    """
    store.open("wallet", "balance", 0)
    line = json.dumps({"resource": "wallet", "amount": 5, "metadata": {"note": "é"}})
    for text, available in ((f"{line}\n{line}\n", 10), (f"\n{line}", 15), (f"{line}\n{line}\n", 15)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert teller("import", "deposits", "-").status == 0
        store.drain("wallet")
        assert store.available("wallet") == available


@pytest.mark.parametrize(
    ("kind", "text", "lines"),
    [
        ("resources", "id,kind\nx,seat\n", {1: "lacks the column available"}),
        ("resources", "id,kind,available,colour\nx,seat,1,red\n", {1: "no field: colour"}),
        ("resources", "id,id,kind,available\n", {1: "id twice"}),
        ("resources", "", {1: "empty"}),
        ("resources", "id;kind;available\n", {1: "lacks the column"}),
        ("resources", RESOURCES.encode("utf-16"), {1: ""}),
        (
            "resources",
            b"id,kind,available\na,seat,1\n\xe9,seat,1\nb,chair,1\nc,seat,x\nd,seat\na,seat,2\ne,seat,-1\nf,seat,1\n",
            {
                3: "not UTF-8",
                4: "kind",
                5: "available",
                6: "has 2 cells",
                7: "id: is that of line 2",
                8: "available",
            },
        ),
        ("resources", 'id,kind,available\na,seat,1\n"b"x,seat,1\nc,seat,1\n', {3: "not CSV"}),
        ("resources", "id,kind,available,gateway\na,seat,1,nowhere\n", {2: "gateway: is not the name"}),
        (
            "deposits",
            (
                b'{"resource": "a", "amount": 1}\n{"resource": "a"}\n[1]\n{\n{"resource": "\xe9", "amount": 1}\n'
                b'{"resource": "a", "amount": "1"}\n{"resource": "a", "amount": 1, "x": 1}\n'
            ),
            {
                2: "amount",
                3: "no object",
                4: "not JSON",
                5: "not UTF-8",
                6: "amount",
                7: "x",
            },
        ),
        (
            "deposits",
            '{"resource": "a", "amount": 1}\n{"resource": "' + "a" * (1 << 20) + '"}\n',
            {2: "1 MiB"},
        ),
    ],
)
def test_bad_lines_are_named_and_nothing_is_sent(
    teller: Callable[..., Result],
    store: Store,
    written: Callable[[str | bytes], str],
    kind: str,
    text: str | bytes,
    lines: dict[int, str],
) -> None:
    """
    Each bad line has one line with its number and its first problem, and the exit status is 1.
    """
    result = teller("import", kind, written(text))

    assert result.status == 1
    *problems, last = result.err.splitlines()
    assert [int(one.split(":")[0].removeprefix("line ")) for one in problems] == list(lines)
    for problem, (number, part) in zip(problems, lines.items(), strict=True):
        assert problem.startswith(f"line {number}: ")
        assert part in problem
    assert "nothing was sent" in last
    assert made(store) == []
    assert store.one("SELECT count(*) FROM audit") == 0


def test_a_run_that_was_cut_off_is_continued(
    teller: Callable[..., Result],
    store: Store,
    written: Callable[[str | bytes], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    After the second group PostgreSQL is unavailable, and the command gives up. The next run sends the rest.
    """
    monkeypatch.setattr(imports, "SENT_AT_ONCE", 10)
    monkeypatch.setattr(imports, "UNAVAILABLE_SECONDS_MAX", 0.0)
    store.open("wallet", "balance", 0)
    path = written("resource,amount\n" + "wallet,1\n" * 35)
    accept = Intake.accept
    calls = iter([True, True, False])

    def fail(self: Intake, group: Sequence[Submission]) -> list[Receipt]:
        if not next(calls):
            raise DatabaseUnavailable("it is away")
        return accept(self, group)

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "accept", fail)
        assert "again to continue" in teller("import", "deposits", path).err
    done = teller("import", "deposits", path, "--json").document
    store.drain("wallet")

    assert (done["sent"], done["repeated"]) == (15, 20)
    assert store.available("wallet") == 35


def test_a_large_file_is_checked_in_little_memory(
    teller: Callable[..., Result], written: Callable[[str | bytes], str]
) -> None:
    """
    Memory does not grow with the number of lines.
    """
    path = written("id,kind,available\n" + "".join(f"seat:{number},seat,1\n" for number in range(20_000)))
    teller("import", "resources", path, "--dry-run")  # loads the models
    tracemalloc.start()
    result = teller("import", "resources", path, "--dry-run")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert result.status == 0
    assert peak < 4_000_000
