"""
Named SQL statements, each file beside the module that runs it.
"""

import functools
import re
from pathlib import Path


@functools.cache
def beside(module_file: str) -> dict[str, str]:
    """
    Read the statements of the SQL file beside a module: `SQL = statements.beside(__file__)`.

    Returns the text of each statement by its name.
    """
    return split(Path(module_file).with_suffix(".sql").read_text())


def split(text: str) -> dict[str, str]:
    """
    Return the text of each statement by its name: a statement begins with a line `-- name --`.
    """
    parts = re.split(r"^-- (\w+) --\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
