"""
The OpenAPI document as tools for clients read it: redocly, and a strict TypeScript program with openapi-typescript.

They are skipped without npm, and where npm cannot install them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from api import openapi_document
from api.docs.generators import ENUMERATIONS, TAGS

PROGRAM = Path(__file__).with_name("openapi_client.ts")
PACKAGES = (
    "openapi-typescript@7.9.1",
    "openapi-fetch@0.14.0",
    "typescript@5.9.3",
    "@redocly/cli@1.34.3",
)
#: The time to install the packages or to run one of them, in seconds.
TOOL_SECONDS = 120
STRICT = "--strict --noEmit --skipLibCheck --target es2022 --lib es2022,dom --module nodenext"
DOCUMENT = openapi_document()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tools, the document and the program."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    made = tmp_path_factory.mktemp("npm")
    (made / "package.json").write_text('{"private": true}')
    (made / "openapi.json").write_text(json.dumps(DOCUMENT))
    shutil.copy(PROGRAM, made)
    installed = run(made, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES)
    if installed.returncode != 0:
        pytest.skip("npm cannot install the tools")
    return made


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False
    )


def test_redocly_finds_no_error(folder: Path) -> None:
    """
    The recommended rules of redocly have no errors for the document.
    """
    done = run(folder, "node_modules/.bin/redocly", "lint", "openapi.json", "--extends=recommended")

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_strict_typescript_program_compiles(folder: Path) -> None:
    """
    It redeems with metadata and without fields that have defaults, distinguishes statuses, and receives a webhook. A
    program that reads a field that does not exist does not compile.
    """
    made = run(folder, "node_modules/.bin/openapi-typescript", "openapi.json", "-o", "api.d.ts")
    assert made.returncode == 0, made.stderr

    compiled = run(folder, "node_modules/.bin/tsc", *STRICT.split(), PROGRAM.name)

    assert (compiled.returncode, compiled.stdout) == (0, "")
    wrong = folder / "wrong.ts"
    wrong.write_text(PROGRAM.read_text().replace("received.data.kind", "received.data.kinds"))
    assert "kinds" in run(folder, "node_modules/.bin/tsc", *STRICT.split(), wrong.name).stdout


def test_schemas_have_names_and_no_surprises() -> None:
    """
    Enumerations are schemas, no field has a default, objects of any content say so, and tags are described.
    """
    schemas = DOCUMENT["components"]["schemas"]
    assert {"Error", "Event"}.isdisjoint(schemas)
    for name in ("RequestStatus", "RequestKind", "EventType"):
        assert name in schemas
    assert {tag["name"] for tag in DOCUMENT["tags"]} == TAGS.keys()
    assert set(DOCUMENT["webhooks"]) == set(schemas["EventType"]["enum"])
    assert schemas["Delivery"]["properties"]["request"]["format"] == "uuid"
    for name, schema in schemas.items():
        for node in nodes(schema.get("properties", {})):
            assert "enum" not in node, (name, node)
            assert not ("default" in node and "type" in node), (name, node)
            if node.get("type") == "object" and "properties" not in node:
                assert "additionalProperties" in node, (name, node)
    assert set(ENUMERATIONS.values()) <= schemas.keys()


def nodes(tree: Any) -> list[dict[str, Any]]:
    """Return all objects in a schema."""
    if isinstance(tree, list):
        return [node for one in tree for node in nodes(one)]
    if not isinstance(tree, dict):
        return []
    return [tree, *(node for one in tree.values() for node in nodes(one))]
