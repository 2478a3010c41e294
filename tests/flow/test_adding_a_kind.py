"""
docs/adding-a-kind.md: a copy of the repository with the blocks of the page has the new kind everywhere.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import psycopg
import pytest

from processor.storage.migrations import SCHEMA_VERSION
from tests.stack import NO_CERTIFICATES, TELLER, TOP, Stack, bare_environment, environment_of, fetch
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from processor.settings import Settings
    from tests.servers import Clones

PAGE: Final = TOP / "docs" / "adding-a-kind.md"
#: Folders that a copy does not need.
LEFT_OUT: Final = (
    ".git",
    ".venv",
    ".lock-venv",
    ".*_cache",
    ".hypothesis",
    ".peers",
    "__pycache__",
    "build",
    "dist",
)
#: The commands of `make lint` that take at most a few seconds: all but mypy.
LINT: Final = [
    command
    for command in re.findall(
        r"^\t\$\(BIN\)/(.+)$",
        (TOP / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0],
        re.MULTILINE,
    )
    if command != "mypy"
]
#: A paragraph that begins with the name of a file, and the block after it.
BLOCK: Final = re.compile(r"^`([\w./-]+)` (?:(?!\n\n).)*\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The tests of the access matrix that compare it with the routes and with the answers.
MATRIX_TESTS: Final = [
    f"tests/http/test_access_matrix.py::{name}"
    for name in (
        "test_every_route_has_a_row_and_every_row_a_route",
        "test_each_role_gets_the_status_of_its_row",
    )
]
#: Seconds that a command may take.
COMMAND_SECONDS: Final = 60
#: Seconds that the lint or a test of the copy may take.
TEST_SECONDS: Final = 240
#: The amount that an account may give of the points.
LIMIT: Final = 7


@dataclass(frozen=True)
class Copy:
    """A copy of the repository, and a stack of its processes."""

    code: Path
    stack: Stack

    def teller(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run a command of the copy on the database of the stack.
        """
        return _teller(self.stack.environment, *arguments)

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """
        Run a program of the virtual environment in the copy.
        """
        program, *arguments = command.split()
        return subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=self.code,
            env={**bare_environment(), **environment},
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
        )


def _teller(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *TELLER, *arguments],
        env={**bare_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def apply(page: str, code: Path) -> list[str]:
    """
    Apply the blocks of a page to the code, as the page says. Returns the paths of the new files.
    """
    new = []
    blocks = BLOCK.findall(page)
    assert len(blocks) == page.count("\n```") / 2, "each block has a paragraph that names its file"
    for name, language, block in blocks:
        version = f"{SCHEMA_VERSION + 1:04}"
        path = code / name.replace("NNNN", version)
        if language != "diff":
            assert not path.exists(), f"{name} is there already"
            path.write_text(block.replace("NNNN", version))
            new.append(name)
            continue
        lines = block.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        text = path.read_text()
        assert text.count(before) == 1, f"{name} has these lines {text.count(before)} times:\n{before}"
        path.write_text(text.replace(before, after))
    return new


@pytest.fixture(scope="module")
def copy(
    servers: Settings, clones: Callable[[str], Clones], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Copy]:
    """
    A copy with the kind of the page, on a database that was made before the kind and is migrated.
    """
    home = tmp_path_factory.mktemp("copy")
    code = home / "code"
    shutil.copytree(TOP, code, ignore=shutil.ignore_patterns(*LEFT_OUT))
    new = apply(PAGE.read_text(), code)
    assert len(new) == 3
    with clones("embedded").clone() as database:
        environment = environment_of(servers, database, PYTHONPATH=str(code))
        migrated = _teller(environment, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        with Stack(environment, home) as stack:
            stack.start_api()
            stack.start("worker")
            yield Copy(code, stack)
            stack.stop()


@pytest.mark.parametrize("command", LINT)
def test_the_copy_passes_the_lint(copy: Copy, command: str) -> None:
    """
    The blocks of the page are formatted, documented and placed as `make lint` requires.
    """
    assert len(LINT) > 4
    done = copy.run(command)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_row_of_the_access_matrix_has_the_status_of_each_role(copy: Copy, servers: Settings) -> None:
    """
    The tests of the matrix pass in the copy: each route has a row, and each role gets the status of its row.
    """
    done = copy.run(
        f"python -m pytest -q -n 0 --show-capture=no {' '.join(MATRIX_TESTS)}",
        DATABASE_URL=servers.database_url,
        REDIS_URL=servers.redis_url,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_migrated_database_has_the_row_of_a_new_one(copy: Copy, clones: Callable[[str], Clones]) -> None:
    """
    `schema.sql` and the migration of the page add the same row.
    """
    row = "SELECT * FROM request_kinds WHERE kind = 'donation'"
    with clones("embedded").empty() as url:
        made = _teller({**copy.stack.environment, "DATABASE_URL": url}, "migrate")
        assert made.returncode == 0, made.stderr
        with psycopg.connect(url) as connection:
            expected = connection.execute(row).fetchall()

    assert len(expected) == 1
    assert copy.stack.owner.execute(row).fetchall() == expected


def test_the_new_kind_is_made_refunded_batched_verified_and_shown(copy: Copy) -> None:
    """
    A donation takes points within the limit of the account, alone and in a batch, and a refund gives it back.

    `verify` finds nothing, and the console, the command line and the OpenAPI document have it.
    """
    stack = copy.stack
    admin, client = stack.new_client("admin"), stack.new_client("client")
    opening = {"id": "points", "kind": "points", "available": 100, "per_account_limit": LIMIT}
    assert admin.post("/v1/resources", opening, 200, wait=20)["status"] == "completed"

    gift = {"resource": "points", "account": "ada", "amount": 5, "cause": "trees"}
    given = client.post("/v1/donations", gift, 200, wait=20)
    refused = client.post("/v1/donations", gift, 200, wait=20)
    item = {**gift, "kind": "donation", "amount": LIMIT, "idempotency_key": "batched"}
    reason = {"reason": "a mistake"}
    refund = admin.post(f"/v1/admin/requests/{given['id']}/refund", reason, 200, wait=20)
    [batched] = client.post("/v1/batches", {"requests": [item]}, 202)["results"]
    last = f"/v1/requests/{batched['request']['id']}"
    eventually(lambda: client.get(last)["status"] == "completed")
    listed = client.get("/v1/requests?kind=donation")["data"]

    assert (given["kind"], given["status"]) == ("donation", "completed")
    assert refused["error"]["code"] == "limit_reached"
    assert refund["status"] == "completed"
    assert client.get(f"/v1/requests/{given['id']}")["status"] == "refunded"
    assert batched["status"] == 202
    assert [one["id"] for one in listed] == [batched["request"]["id"], refused["id"], given["id"]]
    assert client.get("/v1/resources/points")["available"] == 100 - LIMIT
    verified = copy.teller("verify", "--json")
    assert verified.returncode == 0, verified.stdout
    shown = copy.teller("requests", "list", "--kind", "donation", "--json")
    assert given["id"] in shown.stdout, shown.stderr
    assert "Donation of 5" in _console(stack, admin.key.key, given["id"])
    document = fetch(f"{stack.url}/openapi.json").json()
    assert "/v1/donations" in document["paths"]
    schemas = document["components"]["schemas"]
    assert "donation" in schemas["RequestKind"]["enum"]
    assert "DonationItem" in json.dumps(schemas["Batch"])


def test_a_request_without_what_the_new_kind_requires_is_refused_by_postgresql(copy: Copy) -> None:
    """
    The row of the kind is enough for PostgreSQL to refuse a donation without an account, or of nothing.
    """
    insert = (
        "INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,"
        "                      account, amount)"
        " VALUES (gen_random_uuid(), 'c', gen_random_uuid(), 'k', sha256('x'), 'donation', 1, 'r', %s, %s)"
    )
    for account, amount in ((None, 1), ("ada", 0), ("ada", None)):
        with pytest.raises(psycopg.errors.CheckViolation):
            copy.stack.owner.execute(insert, (account, amount))


def _console(stack: Stack, key: str, request: str) -> str:
    """Return the page of a request in the console, for a session of this key."""
    with httpx.Client(base_url=stack.url, trust_env=False, verify=NO_CERTIFICATES) as browser:
        assert browser.post("/admin/sign-in", data={"key": key}).status_code == 303
        return browser.get(f"/admin/requests/{request}").raise_for_status().text
