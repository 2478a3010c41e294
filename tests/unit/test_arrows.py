"""
The arrows between packages hold: `lint-imports` fails for a module without a place and for an import upwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("teller", "api", "lab", "workers", "processor")
#: The folders with code that no process runs. `docs` has examples.
OUTSIDE: Final = frozenset({"tests", "tools", "bench", "docs"})
#: The program that `make lint` runs.
LINT_IMPORTS: Final = Path(sys.executable).with_name("lint-imports")

STRAYS: Final = (
    "processor/strays.py",
    "api/strays.py",
    "api/web/strays.py",
    "processor/batch/strays.py",
    "workers/courier/strays.py",
)
#: A module that imports another one above it or beside it, or a pure one that imports the database.
ARROWS: Final = (
    ("processor.domain.ledger", "processor.intake.intake"),
    ("processor.domain.partitioning", "psycopg"),
    ("processor.batch.snapshot", "processor.storage.connections"),
    ("processor.storage.statements", "processor.domain.ledger"),
    ("processor.clients.keys", "processor.intake.intake"),
    ("processor.intake.intake", "processor.operations.approvals"),
    ("processor.batch.worksheet", "processor.batch.store"),
    ("processor.ids", "workers.doorbell.ring"),
    ("workers.doorbell.ring", "api.services"),
    ("workers.doorbell.ring", "workers.courier.main"),
    ("workers.worker.drain", "workers.courier.main"),
    ("workers.courier.deliveries", "workers.courier.gateway_calls"),
    ("lab.arena", "workers.worker.main"),
    ("api.lab.runs", "workers.courier.main"),
    ("api.web.fields", "api.v1.requests"),
    ("api.web.fields", "api.web.routing"),
    ("api.web.problems", "processor.clients.codes"),
    ("api.v1.accounts", "api.console.pages"),
    ("api.services", "api.app"),
    ("api.docs.pages", "teller.root"),
    ("processor.verify.checks", "tests"),
    ("teller.reach", "tools"),
    ("lab.endpoint", "bench"),
)


class Check(NamedTuple):
    """The exit status and the report of one run."""

    status: int
    report: str


def check(tree: Path) -> Check:
    """Run the check of `make lint` in a copy of the tree."""
    done = subprocess.run([LINT_IMPORTS], cwd=tree, capture_output=True, text=True, check=False)
    return Check(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the packages and the contracts."""
    copy = tmp_path_factory.mktemp("arrows")
    shutil.copy2(ROOT / "pyproject.toml", copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def untouched(tree: Path) -> Check:
    """Check the copy as it is."""
    return check(tree)


@pytest.fixture(scope="module")
def broken(tree: Path, untouched: Check) -> Check:
    """Check the copy with all strays and all forbidden imports."""
    for stray in STRAYS:
        (tree / stray).write_text('"""A module without a place."""\n')
    for importer, imported in ARROWS:
        path = tree / f"{importer.replace('.', '/')}.py"
        path.write_text(f"{path.read_text()}\nimport {imported}\n")
    return check(tree)


def test_make_lint_runs_this_check() -> None:
    """
    The target `lint` of the Makefile has the program that these tests run.
    """
    _, _, recipe = (ROOT / "Makefile").read_text().partition("\nlint:")
    assert f"$(BIN)/{LINT_IMPORTS.name}\n" in recipe.partition("\n\n")[0]


def test_the_tree_holds_its_arrows(untouched: Check) -> None:
    """
    An untouched copy passes.
    """
    assert untouched.status == 0, untouched.report


def unchecked(top: Path) -> set[str]:
    """Return the folders and modules at the top that have code and are neither a root package nor OUTSIDE."""
    document = tomllib.loads((top / "pyproject.toml").read_text())
    found = {path.relative_to(top).parts[0] for path in top.glob("[!.]*/**/*.py")}
    found |= {path.name for path in top.glob("*.py")}
    return found - OUTSIDE - set(document["tool"]["importlinter"]["root_packages"])


def test_the_check_covers_every_package_at_the_top() -> None:
    """
    A folder with code is a root package, or has no code of the processes.
    """
    assert unchecked(ROOT) == set()


@pytest.mark.parametrize("stray", ["strays/__init__.py", "strays/below/module.py", "strays.py"])
def test_a_new_package_at_the_top_is_found(tmp_path: Path, stray: str) -> None:
    """
    A package, a folder with code, and a module are found.
    """
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for name in (*PACKAGES, *OUTSIDE):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").touch()
    assert unchecked(tmp_path) == set()

    (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stray).touch()

    assert unchecked(tmp_path) == {stray.split("/", 1)[0]}


@pytest.mark.parametrize("stray", STRAYS)
def test_a_module_without_a_place_fails(untouched: Check, broken: Check, stray: str) -> None:
    """
    Every module of a container has a place in its layers.
    """
    module = stray.removesuffix(".py").replace("/", ".")
    assert broken.status == 1
    assert f"- {module}\n" in broken.report
    assert module not in untouched.report


@pytest.mark.parametrize(("importer", "imported"), ARROWS)
def test_an_import_upwards_or_sideways_fails(
    untouched: Check, broken: Check, importer: str, imported: str
) -> None:
    """
    Layers import only lower layers, and siblings do not import each other.
    """
    assert broken.status == 1
    assert f"{importer} -> {imported} (l." in broken.report
    assert importer not in untouched.report
