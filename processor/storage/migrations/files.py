"""
Migration files: `NNNN_name.sql`, one for each schema version.

A file runs in one transaction, unless its header has the line `-- transactional: no`. Such a file consists of named
statements, each of which runs alone. An interrupted run starts again with the first one, so all must be repeatable.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from processor.storage import statements

FOLDER: Final = Path(__file__).parent

_FILE_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_NOT_TRANSACTIONAL: Final = re.compile(r"^-- transactional: no$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """
    One migration file; it brings a database from the version before to `version`.
    """

    version: int
    #: The file's name without its suffix.
    name: str
    text: str

    @property
    def is_transactional(self) -> bool:
        """
        Whether the whole file runs in one transaction.
        """
        return _NOT_TRANSACTIONAL.search(self.text) is None

    def statements(self) -> dict[str, str]:
        """
        Return the statements of a file that is not transactional, by name, in order.
        """
        return statements.split(self.text)


def read(folder: Path = FOLDER) -> list[Migration]:
    """
    Return the migrations of a folder, oldest first. Raises ValueError for a file that is not named `NNNN_name.sql`.
    """
    return [
        Migration(_version_of(path), path.stem, path.read_text()) for path in sorted(folder.glob("*.sql"))
    ]


def newest_version() -> int:
    """
    Return the schema version of the newest migration.
    """
    return max(map(_version_of, FOLDER.glob("*.sql")))


def _version_of(path: Path) -> int:
    name = _FILE_NAME.fullmatch(path.name)
    if name is None:
        raise ValueError(f"{path.name} is not named NNNN_name.sql")
    return int(name[1])
