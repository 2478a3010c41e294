"""
Tellers as processes of their own, as root and as an ordinary user.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded.holding import Holder, stream_of
from tests.servers import temporary_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOP = Path(__file__).parents[2]
HOLDER = Path(__file__).with_name("holder.py")
#: Whom we become when we are root and a test wants an ordinary user.
ORDINARY_USER = "nobody"


@functools.cache
def ordinary() -> tuple[str, int, int] | None:
    """
    An interpreter of our version that the ordinary user may run, with our packages; None when there is none.
    """
    entry = pwd.getpwnam(ORDINARY_USER)
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            imports = subprocess.run(
                [python, "-c", "import teller.embedded.servers, psycopg"],
                check=False,
                capture_output=True,
                env=_environment(Path("/nowhere")),
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
            )
            if imports.returncode == 0:
                return python, entry.pw_uid, entry.pw_gid
    return None


@pytest.fixture(params=["ourselves", "ordinary user"])
def start(request: pytest.FixtureRequest, home: Path) -> Iterator[Callable[..., Holder]]:
    """
    `start(home, "up")` is a Teller, run by ourselves (CI: root) and, in a second round, by an ordinary user.

    It ends before the home does.
    """
    rights: dict[str, Any] = {}
    python = sys.executable
    if request.param == "ordinary user":
        if os.geteuid() != 0:
            pytest.skip("we are an ordinary user already")
        found = ordinary()
        if found is None:
            pytest.skip("the ordinary user can read neither our interpreter nor our packages")
        python, uid, gid = found
        rights = {"user": uid, "group": gid, "extra_groups": []}
    with contextlib.ExitStack() as running:

        def run(home: Path, *arguments: str) -> Holder:
            if rights and home.stat().st_uid != rights["user"]:
                shutil.chown(home, rights["user"], rights["group"])
            process = running.enter_context(
                subprocess.Popen(
                    [python, HOLDER, *arguments],
                    env=_environment(home),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    **rights,
                )
            )
            running.callback(process.kill)
            return Holder(process, json.loads(stream_of(process.stdout).readline()))

        yield run


@pytest.fixture
def home() -> Iterator[Path]:
    """
    A new TELLER_HOME.
    """
    with temporary_home() as path:
        yield path


def _environment(home: Path) -> dict[str, str]:
    packages = sysconfig.get_path("purelib")
    return {
        "TELLER_HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{TOP}:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
