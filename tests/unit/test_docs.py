"""
The documentation: its links resolve, and the paths, routes, commands, metrics and faults that it names exist.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from api import openapi_document
from processor.storage.migrations import SCHEMA_VERSION, files
from teller.root import teller
from tests.faults import kinds as faults
from tests.faults import machine
from tests.faults.crossings import crossing

ROOT = Path(__file__).resolve().parents[2]
#: The folders of this repository.
FOLDERS = "processor|api|workers|teller|lab|tests|bench|tools|docs|findings"

#: Its new files are those that a reader makes; tests/flow/test_adding_a_kind.py makes them.
PAGE_OF_NEW_FILES = ROOT / "docs" / "adding-a-kind.md"

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
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)

    assert not broken


def test_nothing_cites_a_document_that_is_not_here() -> None:
    """
    A name such as `SECURITY.md`, in a page or in code, is a file of this repository.
    """
    sources = [
        path
        for name in FOLDERS.split("|")
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".sql")
    ]
    missing = [
        (str(path.relative_to(ROOT)), name)
        for path in [*PAGES, *sources, ROOT / "schema.sql", ROOT / "Makefile"]
        for name in re.findall(r"\b[A-Z]{3,}\.md\b", path.read_text())
        if not (ROOT / name).exists() and not (path.parent / name).exists()
    ]

    assert missing == []


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


def test_the_page_on_upgrading_shows_every_migration() -> None:
    """
    docs/upgrading.md shows the lines that `teller migrate` prints for a database of the oldest version.
    """
    text = (ROOT / "docs" / "upgrading.md").read_text()
    [shown] = re.findall(r"^```\n\$ teller migrate\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    oldest = files.read()[0].version - 1

    assert shown.splitlines() == [
        *(f"applied {migration.name}" for migration in files.read()),
        f"migrated the schema from version {oldest} to {SCHEMA_VERSION}",
    ]


def test_every_fault_is_documented() -> None:
    """
    docs/reliability.md lists the kinds of faults that `make faults` applies, and no others.
    """
    text = (ROOT / "docs" / "reliability.md").read_text()
    table = text[text.index("| fault | effect |") : text.index("After each fault")]
    kinds = [*faults.EVERYWHERE, crossing, *machine.ON_SMALL_DISKS, *machine.WITH_SECOND_HOST]

    assert sorted(re.findall(r"`([a-z_]+)`", table)) == sorted(kind.__name__ for kind in kinds)
    assert f"of {len(kinds)}\nkinds" in text


#: A path that a page names: below one of the folders, or a test without `tests/` before it.
NAMED_PATH = re.compile(
    rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w/?|(?:unit|store|http|flow|faults)/test_\w+\.py)"
)


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE_OF_NEW_FILES], ids=page_name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """
    A file or folder of this repository that a page names is there.
    """
    named = {
        name if re.match(FOLDERS, name) else f"tests/{name}" for name in NAMED_PATH.findall(page.read_text())
    }

    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_route_that_a_page_names_exists() -> None:
    """
    A method with a path, such as `GET /v1/requests/{id}`, is a route of the API.
    """
    routes = {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}"
        for path, methods in openapi_document()["paths"].items()
        for method in methods
    }
    named = [
        (page.name, f"{method} {re.sub(r'{[^}]*}', '{}', path)}")
        for page in PAGES
        for line in page.read_text().splitlines()
        if "does not exist" not in line and "HTTP/1.1" not in line
        for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[\w/{}]+)", line)
    ]

    assert len(named) > 10
    assert [(page, route) for page, route in named if route not in routes] == []


def commands_of(text: str) -> list[str]:
    """Return the lines of a page's blocks that call `teller`, without the prompt and the path."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    shown = "\n".join(block for language, block in blocks if language in ("", "sh"))
    return re.findall(r"^(?:\$ )?(?:\.venv/bin/)?(teller (?!is ready)[a-z].*)$", shown, flags=re.MULTILINE)


COMMANDS = [(page.name, line) for page in PAGES for line in commands_of(page.read_text())]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_every_command_that_a_page_shows_is_understood(page: str, line: str) -> None:
    """
    The command, its arguments and its options exist; nothing is run.
    """
    assert page
    words = shlex.split(line.partition(" > ")[0])  # without the file that its output goes to
    command: click.Command = teller
    context = click.Context(command, info_name=words.pop(0))
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command = found
        words.pop(0)

    assert not isinstance(command, click.Group)
    command.make_context(command.name, words, context)  # raises UsageError for a wrong option or argument


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
    docs/operating.md names metrics as a scrape prints them: counters, and no others, end in `_total`. It names events
    that a process logs.
    """
    text = (ROOT / "docs" / "operating.md").read_text()
    sources = "\n".join(
        path.read_text()
        for folder in ("api", "processor", "workers", "teller")
        for path in (ROOT / folder).rglob("*.py")
    )
    declared = re.findall(r'\b(Counter|Gauge|Histogram)(?:MetricFamily)?\(\s*"(teller_[a-z_]+)"', sources)
    printed = {name + "_total" * (kind == "Counter") for kind, name in declared}
    metrics_section = text[text.index("Watch these metrics") : text.index("## Logs")]
    metrics = re.findall(r"\bteller_[a-z_]+\b(?!…)", metrics_section)
    log_table = text[text.index("## Logs") : text.index("## Failed requests")]
    events = re.findall(r"^\| `([a-z_]+)` \|", log_table, flags=re.MULTILINE)

    assert len(metrics) > 20
    assert len(events) > 5
    assert [name for name in metrics if name not in printed] == []
    assert [name for name in events if f'"{name}"' not in sources] == []
