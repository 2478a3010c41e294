"""
One reader for each type of file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.comments import read_hashed, read_script, read_shell
from tools.python_reader import read_python
from tools.template_reader import read_template
from tools.text_readers import read_markdown, read_sql

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import PurePath

    from tools.passages import Content

READERS: Final[dict[str, Callable[[str], Content]]] = {
    ".py": read_python,
    ".sql": read_sql,
    ".md": read_markdown,
    ".html": read_template,
    ".toml": read_hashed,
    ".yaml": read_hashed,
    ".yml": read_hashed,
    ".sh": read_shell,
    "Makefile": read_shell,
    "run": read_shell,
    ".js": read_script,
    ".mjs": read_script,
    ".css": read_script,
}


def read(path: PurePath, source: str) -> Content | None:
    """
    Read the prose and names of one file.

    Returns None if no reader exists for this type of file. Raises SyntaxError for Python that does not parse.
    """
    reader = READERS.get(path.suffix or path.name)
    return None if reader is None else reader(source)
