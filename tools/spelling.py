"""
Runs the spell checker `typos` from the environment that holds it.

A virtual environment that shares its packages with another one lacks the scripts of those packages.
The package's own record names the program's file. `[tool.typos]` in `pyproject.toml` has the settings.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path


def program() -> Path:
    """
    Return the path of the checker. Raises PackageNotFoundError if it is not installed.
    """
    record = distribution("typos").files or []
    [found] = [file for file in record if file.stem == "typos"]
    return Path(str(found.locate())).resolve()


if __name__ == "__main__":
    sys.exit(subprocess.run([program(), "--format=brief", *sys.argv[1:]], check=False).returncode)
