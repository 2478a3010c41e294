"""
The boundaries of the tests: shared code stands in modules of its own, and private names of the product stay private.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).resolve().parents[1]
#: The functions that take the name of an attribute as a text.
BY_NAME = ("setattr", "delattr", "getattr", "hasattr", "patch", "object")


def is_private(name: str) -> bool:
    """
    Say whether a dotted name has a part with one leading underscore.
    """
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def is_test_module(name: str) -> bool:
    """
    Say whether a dotted name is that of a test module or a conftest.
    """
    last = name.rpartition(".")[2]
    return name.startswith("tests.") and (last == "conftest" or last.startswith("test_"))


def imported(tree: ast.AST) -> Iterator[str]:
    """
    Yield the dotted name of each import.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_names(tree: ast.AST) -> Iterator[str]:
    """
    Yield each private name that a module imports, or that it reads or replaces by a text.
    """
    yield from (name for name in imported(tree) if is_private(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            if function in BY_NAME:
                yield from (text for text in texts if isinstance(text, str) and is_private(text))


def problems(source: str) -> list[str]:
    """
    Return what a module of the tests must not import, read or replace.
    """
    tree = ast.parse(source)
    return [*filter(is_test_module, imported(tree)), *private_names(tree)]


def test_no_module_imports_a_test_or_a_private_name() -> None:
    """
    Helpers that several tests use stand in a module beside them. `ruff` refuses private attributes (SLF001).
    """
    found = {str(path.relative_to(TESTS)): problems(path.read_text()) for path in TESTS.rglob("*.py")}

    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from tests.http.test_requests import helper",
        "from tests.http import test_requests",
        "import tests.http.conftest",
        "from workers.doorbell.ring import _marker",
        "import processor._internal",
        "monkeypatch.setattr(ring, '_marker', None)",
        "monkeypatch.setattr('workers.doorbell.ring._marker', None)",
        "patch.object(ring, '_marker')",
        "getattr(bell, '_busy')",
    ],
)
def test_the_check_finds_what_it_forbids(source: str) -> None:
    """
    Each way to a test module or to a private name is a finding.
    """
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "from tests.http.teller import Teller",
        "from __future__ import annotations",
        "monkeypatch.setattr(ring, 'TIMEOUT_SECONDS', 1)",
        "getattr(module, '__name__')",
    ],
)
def test_the_check_accepts_the_rest(source: str) -> None:
    """
    Shared modules and public names are fine.
    """
    assert problems(source) == []
