"""
The documentation: its links resolve, its tables match the code, its paths exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest
from werkzeug.serving import make_server

from processor.errors import SettingsError
from processor.gateways import http, signatures
from processor.gateways.protocol import Answer, Order
from processor.settings import WORKERS_DEFAULT_MAX, Settings
from tests.faults import kinds as faults
from tests.faults import machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from flask import Flask

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "docs" / "configuration.md"
EXAMPLES = ROOT / "docs" / "examples"


class Row(NamedTuple):
    """One line of a table in docs/configuration.md."""

    variable: str
    meaning: str
    unit: str
    default: str
    range: str


def configuration_rows() -> list[Row]:
    """Return the rows of all tables whose first column is a variable."""
    rows = []
    for line in CONFIGURATION.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(Row._fields):
            rows.append(Row(cells[0].strip("`"), *cells[1:]))
    return rows


ROWS = configuration_rows()


class Recording(dict[str, str]):
    """An environment that remembers which variables were read."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value, as a dictionary does."""
        self.read.add(key)
        return super().get(key, default)


@pytest.fixture
def _ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


# ---------------------------------------------------------------- settings


@pytest.mark.usefixtures("_ordinary_user")
def test_every_setting_is_documented_and_nothing_else() -> None:
    """
    The tables name exactly the variables that the settings read, each once.
    """
    environment = Recording({"HOME": "/home/ada"})
    Settings.from_environment(environment)

    assert sorted(row.variable for row in ROWS) == sorted(environment.read)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable)
def test_a_documented_default_is_that_of_the_code(row: Row) -> None:
    """
    A default in backticks is the value that an unset variable has.
    """
    settings = Settings.from_environment({"HOME": "/home/ada", "TELLER_HOME": "/home/ada/teller"})
    field = row.variable.removeprefix("TELLER_").lower()
    match row.variable:
        case "HOME" | "XDG_DATA_HOME" | "TELLER_HOME":
            return  # test_the_documented_home_is_that_of_the_code
        case "TELLER_WORKERS":
            assert row.default == f"the number of cores, at most {WORKERS_DEFAULT_MAX}"
            assert settings.workers == min(os.cpu_count() or 1, WORKERS_DEFAULT_MAX)
        case "TELLER_LAB":
            outside = {"DATABASE_URL": "postgresql://db/teller", "TELLER_SECRET": "0123456789abcdef"}
            assert row.default == "`1` without `DATABASE_URL`, else `0`"
            assert (settings.lab, Settings.from_environment({"HOME": "/", **outside}).lab) == (True, False)
        case "TELLER_GATEWAYS":
            assert row.default == "`" + ",".join(f"{k}={v}" for k, v in settings.gateways.items()) + "`"
        case "TELLER_SECRET" | "TELLER_GATEWAY_SECRET":
            assert row.default == "generated if PostgreSQL is embedded"
            assert getattr(settings, field) == ""
        case _ if row.variable.endswith("_DATABASE_URL"):
            assert row.default == "as `DATABASE_URL`"
            assert getattr(settings, field) == settings.database_url
        case _ if row.default == "unset":
            assert not getattr(settings, field)
        case _:
            value = getattr(settings, field)
            shown = value if isinstance(value, str) else f"{value:.15g}"
            assert row.default == f"`{shown}`"


@pytest.mark.usefixtures("_ordinary_user")
def test_the_documented_home_is_that_of_the_code() -> None:
    """
    The data directory: TELLER_HOME, else XDG_DATA_HOME, else HOME.
    """
    defaults = {row.variable: row.default for row in ROWS}
    linux, _, macos = defaults["XDG_DATA_HOME"].partition(", on macOS ")
    own = Path(Settings.from_environment({"HOME": "/home/ada"}).home)

    assert str(own).replace("/home/ada", "~").removesuffix("/teller") in (linux.strip("`"), macos.strip("`"))
    assert Settings.from_environment({"XDG_DATA_HOME": "/data"}).home == Path("/data/teller")


def edges(row: Row) -> tuple[list[str], list[str]]:
    """Return the outermost values that the documented range allows, and the nearest that it does not."""
    if found := re.fullmatch(r"(\d+) to (\d+)", row.range):
        least, most = int(found[1]), int(found[2])
        return [str(least), str(most)], [str(least - 1), str(most + 1)]
    if found := re.fullmatch(r"above 0, at most (\d+)", row.range):
        return ["0.001", found[1]], ["0", f"{found[1]}.001"]
    if row.range == "`0` or `1`":
        return ["0", "1"], ["2", "yes"]
    schemes = re.findall(r"`(\w+://)`", row.range)
    return [f"{scheme}host/name" for scheme in schemes], ["ftp://host/name"] if schemes else []


@pytest.mark.parametrize("row", [row for row in ROWS if edges(row)[0]], ids=lambda row: row.variable)
def test_a_documented_range_is_that_of_the_code(row: Row) -> None:
    """
    The outermost values of the range are accepted, the next ones are refused.
    """
    inside, outside = edges(row)
    others = {
        "HOME": "/home/ada",
        "DATABASE_URL": "postgresql://db/teller",
        "TELLER_SECRET": "0123456789abcdef",
    }

    for value in inside:
        Settings.from_environment(others | {row.variable: value})
    for value in outside:
        with pytest.raises(SettingsError, match=row.variable):
            Settings.from_environment(others | {row.variable: value})


# ---------------------------------------------------------------- examples

SECRET = signatures.written(b"0123456789abcdef01234567")
KEY = "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4"


def load_example(name: str) -> ModuleType:
    """Import docs/examples/<name>.py, which compiles it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signed(message_id: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the headers with which a courier sends this body."""
    key = signatures.gateway_key(secret, "")
    headers = signatures.headers(message_id, int(time.time()), body, [key])
    return {"Content-Type": "application/json", "Idempotency-Key": message_id, **headers}


ORDER: dict[str, Any] = {
    "request": KEY,
    "kind": "withdrawal",
    "account": "u_42",
    "resource": "balance:eur",
    "amount": 500,
    "destination": "DE00",
    "metadata": {},
}


def order(**changes: Any) -> bytes:
    """Return the body of a gateway call."""
    return json.dumps(ORDER | changes).encode()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_can_be_imported(path: Path) -> None:
    """
    Each example compiles, and starts nothing by being imported.
    """
    assert load_example(path.stem).create_app


@contextlib.contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve the application at a free port of this host. Yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_example_gateway_pays_once_and_repeats_its_answer(tmp_path: Path) -> None:
    """
    Teller's own client calls it twice with one key: one payout, the same reference, also after a restart.
    """
    example, database = load_example("gateway"), str(tmp_path / "payouts.db")

    async def call(url: str) -> Answer:
        client = http.HttpGateway(url, signatures.gateway_key(SECRET, ""))
        try:
            return await client.perform(
                Order(UUID(KEY), "withdrawal", "u_42", "balance:eur", 500, "DE00", {})
            )
        finally:
            await client.close()

    answers = []
    for _ in range(2):
        with served(example.create_app(SECRET, database)) as address:
            answers.append(asyncio.run(call(f"{address}/pay")))

    assert answers == [Answer("done", 200, reference=f"payout-{KEY}")] * 2
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM payouts").fetchone() == (1,)


def test_the_example_gateway_declines_with_a_reason(tmp_path: Path) -> None:
    """
    Without a destination: a definite no, with its reason.
    """
    body = order(destination=None)
    client = load_example("gateway").create_app(SECRET, str(tmp_path / "payouts.db")).test_client()

    answer = client.post("/pay", data=body, headers=signed(KEY, body))

    assert (http.outcome_of(answer.status_code), answer.json) == ("declined", {"reason": "no destination"})


@pytest.mark.parametrize(("name", "path"), [("gateway", "/pay"), ("webhook_receiver", "/teller")])
def test_an_example_refuses_what_teller_did_not_sign(name: str, path: str, tmp_path: Path) -> None:
    """
    Another key, another body, no signature: 401, which is no answer about the money, and nothing is kept.
    """
    database = str(tmp_path / "kept.db")
    client = load_example(name).create_app(SECRET, database).test_client()
    body, forged = order(), order(amount=999_999)
    other = signatures.written(b"another key, another key")

    for headers, data in ((signed(KEY, body, other), body), (signed(KEY, body), forged), ({}, body)):
        answer = client.post(path, data=data, headers=headers)
        assert http.outcome_of(answer.status_code) == "misconfigured"

    table = {"gateway": "payouts", "webhook_receiver": "requests"}[name]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608


def test_the_example_receiver_keeps_the_newest_state(tmp_path: Path) -> None:
    """
    A repetition and an older state that comes late are answered 204, and change nothing.
    """
    database = str(tmp_path / "requests.db")
    client = load_example("webhook_receiver").create_app(SECRET, database).test_client()
    states = [(2, "failed"), (4, "completed"), (4, "completed"), (2, "failed")]

    for version, status in states:
        data = {"id": KEY, "version": version, "status": status}
        body = json.dumps(
            {"type": f"request.{status}", "timestamp": "2026-11-22T10:00:00Z", "data": data}
        ).encode()
        assert client.post("/teller", data=body, headers=signed(f"msg_{version}", body)).status_code == 204

    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT version, status FROM requests").fetchall()
    assert rows == [(4, "completed")]


# ---------------------------------------------------------------- pages

#: Pages that are linked already and not written yet.
STILL_TO_COME = {ROOT / "docs" / "adding-a-kind.md"}

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md")], key=str
)


def page_name(path: Path) -> str:
    """Return the path of a page below the root."""
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    """Return the text of a page without blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    outside_blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside_blocks, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_resolves(page: Path) -> None:
    """
    A link or picture names a file of this repository, and an anchor names a heading of it.
    """
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if file in STILL_TO_COME:
            continue
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)

    assert not broken


def test_the_readme_is_short() -> None:
    """
    The README has at most 150 lines; everything else is in docs/.
    """
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_glossary_defines_each_word_once() -> None:
    """
    No word has two rows, and no word is both used and given up.
    """
    lines = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ") and not line.startswith("| word |")
    ]
    words = [row[0] for row in rows]
    given_up = {word.strip(" `") for row in rows for word in row[2].split(",") if word.strip()}

    assert len(words) > 50
    assert len(set(words)) == len(words)
    assert not given_up & set(words)


def test_each_decision_has_a_number_of_its_own() -> None:
    """
    The number of a decision's file is that of its title, and no other file has it.
    """
    files = [path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md"]
    numbers = [path.name[:4] for path in files]

    assert len(set(numbers)) == len(numbers)
    for path, number in zip(files, numbers, strict=True):
        assert re.match(rf"# {number} \w", path.read_text()), path.name


def test_every_fault_is_documented() -> None:
    """
    docs/reliability.md lists the kinds of faults that `make faults` applies, and no others.
    """
    text = (ROOT / "docs" / "reliability.md").read_text()
    table = text[text.index("| fault | effect |") : text.index("After each fault")]
    kinds = [*faults.EVERYWHERE, *machine.ON_SMALL_DISKS, *machine.WITH_SECOND_HOST]

    assert sorted(re.findall(r"`([a-z_]+)`", table)) == sorted(kind.__name__ for kind in kinds)
    assert f"of {len(kinds)}\nkinds" in text


#: Paths that a page names: below one of these folders, or a test without `tests/` before it.
FOLDERS = "processor|api|workers|teller|lab|tests|bench|tools|docs|findings"
NAMED_PATH = re.compile(
    rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w/?|(?:unit|store|http|flow|faults)/test_\w+\.py)"
)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """
    A file or folder of this repository that a page names is there.
    """
    named = {
        name if re.match(FOLDERS, name) else f"tests/{name}" for name in NAMED_PATH.findall(page.read_text())
    }

    assert [
        name for name in sorted(named) if not (ROOT / name).exists() and ROOT / name not in STILL_TO_COME
    ] == []


def test_the_architecture_lists_every_folder() -> None:
    """
    The list of folders in docs/architecture.md is that of the repository, in `processor`, `api` and `workers` too.
    """
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed: dict[str, set[str]] = {}
    for line in text[text.index("\nschema.sql ") : text.index("### Arrows")].splitlines():
        if top := re.match(r"(\w+)/", line):
            listed[top[1]] = set()
        elif line.startswith("  "):
            names = re.match(r"(?: +\w+/)+", line)
            assert names is not None
            listed[list(listed)[-1]] |= set(re.findall(r"\w+", names[0]))

    assert set(listed) >= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    for name in ("processor", "api", "workers"):
        assert listed[name] == {path.parent.name for path in (ROOT / name).glob("*/__init__.py")}


def test_every_metric_and_event_to_watch_exists() -> None:
    """
    docs/operating.md names metrics that the API has, and events that a process logs.
    """
    text = (ROOT / "docs" / "operating.md").read_text()
    sources = "\n".join(
        path.read_text()
        for folder in ("api", "processor", "workers", "teller")
        for path in (ROOT / folder).rglob("*.py")
    )
    metrics = re.findall(r"^\| `(teller_[a-z_]+)` \|", text, flags=re.MULTILINE)
    log_table = text[text.index("## Logs") : text.index("## Failed requests")]
    events = re.findall(r"^\| `([a-z_]+)` \|", log_table, flags=re.MULTILINE)

    assert len(metrics) > 5
    assert len(events) > 5
    assert [name for name in [*metrics, *events] if f'"{name}"' not in sources] == []
