"""
Installs the peers into `bench/.peers`, once. A kind that cannot be installed is left out, with its reason.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import progress

HERE = Path(__file__).parent
PLACE = HERE.parent / ".peers"
#: Time limit of an installation, in seconds.
INSTALL_SECONDS = 300
#: The oldest Node.js that runs all peers.
NODE_MAJOR = 20


@dataclass
class Installed:
    """The interpreters of the peers, or the reasons why one is missing."""

    python: Path | None = None
    node: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)


def install() -> Installed:
    """Make both environments, unless they exist as pinned."""
    found = Installed()
    try:
        found.python = _python()
    except (OSError, subprocess.SubprocessError) as fault:
        found.missing["Python"] = _line(fault)
    try:
        found.node = _node()
    except (OSError, subprocess.SubprocessError) as fault:
        found.missing["Node.js"] = _line(fault)
    return found


def _python() -> Path:
    place = PLACE / "python"
    python = place / "bin" / "python"
    pinned = HERE / "requirements.txt"
    if not _is_as(place, pinned):
        progress("installing the Python peers into bench/.peers")
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        _run(
            python,
            "-m",
            "pip",
            "install",
            "-qq",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            pinned,
        )
        _note(place, pinned)
    return python


def _node() -> Path:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise FileNotFoundError("there is no Node.js here")
    version = _run(node, "--version").strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_MAJOR:
        raise FileNotFoundError(f"Node.js {version} is too old, {NODE_MAJOR} is needed")
    place = PLACE / "node"
    pinned = HERE / "package-lock.json"
    if not _is_as(place, pinned):
        progress("installing the Node.js peers into bench/.peers")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for file in (pinned, HERE / "package.json"):
            shutil.copy(file, place)
        # Not `npm ci`, which requires the optional packages of every platform in the lock.
        _run(npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", where=place)
        _note(place, pinned)
    for program in HERE.glob("*.mjs"):  # Node searches for packages from the program's folder
        shutil.copy(program, place)
    return Path(node)


def _run(*program: str | Path, where: Path | None = None) -> str:
    done = subprocess.run(
        program, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, cwd=where
    )
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise OSError(said[-1] if said else f"{program[0]} ended with status {done.returncode}")
    return done.stdout


def _is_as(place: Path, pinned: Path) -> bool:
    note = place / "pinned"
    return note.exists() and note.read_text() == _mark(pinned)


def _note(place: Path, pinned: Path) -> None:
    (place / "pinned").write_text(_mark(pinned))


def _mark(pinned: Path) -> str:
    return f"{sys.version_info[:2]} {hashlib.sha256(pinned.read_bytes()).hexdigest()}"


def _line(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0][:160]
