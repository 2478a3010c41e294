"""
The files of the archive: JSON lines in gzip, with a header first and a manifest last.

Each line is a list of two: the name of a table, and one of its rows with every column. `chains` is no table of the
database: it has both ends of each unbroken run of entries. A file has all of a request, so it can be read alone.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from typing import TYPE_CHECKING, Any, Final

from processor.archive.content import TABLES, ArchiveDamaged, Content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: The version of the format, in the header.
FORMAT: Final = 1
#: Level 6 takes three times as long.
COMPRESSION_LEVEL: Final = 3
SUFFIX: Final = ".jsonl.gz"
#: The suffix of a file that is not complete.
PARTIAL_SUFFIX: Final = ".partial"
#: Hexadecimal digits of a file's digest that its name has.
DIGEST_CHARACTERS: Final = 12
#: The bytes that are read at once.
PIECE_BYTES: Final = 1 << 20
#: The longest line of a file. A row of ours is far smaller.
LINE_BYTES_MAX: Final = 1 << 26


def write(path: Path, header: dict[str, Any], lines: Mapping[str, Iterable[str]]) -> Content:
    """
    Write a file and sync it to the disk. `lines` has the rows of each table as JSON. Returns its content.

    Raises OSError; ArchiveDamaged if the rows do not belong together.
    """
    content = Content(header)
    # The file has what the database has, so only its owner reads it.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with gzip.GzipFile(
            filename="", fileobj=file, mode="wb", compresslevel=COMPRESSION_LEVEL, mtime=0
        ) as packed:
            packed.write(_line("header", json.dumps(header)))
            for table in TABLES:
                digest = hashlib.sha256()
                for text in lines.get(table, ()):
                    line = _line(table, text)
                    digest.update(line)
                    packed.write(line)
                    content.add(table, json.loads(text))
                content.digests[table] = digest.hexdigest()
            content.finish()
            packed.write(_line("manifest", json.dumps(content.manifest())))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that it is read back from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return content


def sync_directory(path: Path) -> None:
    """Sync the names in a directory to the disk. Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def digest_of(path: Path) -> bytes:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read(path: Path) -> Content:
    """
    Read a whole file, and check each line against the others and against the manifest.

    Raises OSError; ArchiveDamaged with the first fault.
    """
    content: Content | None = None
    digests = {table: hashlib.sha256() for table in TABLES}
    manifest: dict[str, Any] | None = None
    place = 0
    try:
        with gzip.open(path) as packed:
            while line := packed.readline(LINE_BYTES_MAX):
                place += 1
                table, document = json.loads(line)
                if manifest is not None:
                    raise ArchiveDamaged("it goes on after its manifest")
                if content is None:
                    content = Content(_header(table, document))
                elif table == "manifest":
                    manifest = document
                else:
                    digests[table].update(line)
                    content.add(table, document)
        if content is None or manifest is None:
            raise ArchiveDamaged("it ends before its manifest")
        content.finish()
        content.digests = {table: digest.hexdigest() for table, digest in digests.items()}
        if content.manifest() != manifest:
            wrong = [name for name, value in content.manifest().items() if manifest.get(name) != value]
            raise ArchiveDamaged(f"its manifest has other {' and '.join(wrong) or 'fields'} than its lines")
    except ArchiveDamaged as fault:
        raise ArchiveDamaged(f"{path.name}, line {place}: {fault}") from fault
    except (zlib.error, gzip.BadGzipFile, EOFError) as fault:
        raise ArchiveDamaged(f"{path.name} cannot be decompressed after line {place}: {fault}") from fault
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as fault:
        raise ArchiveDamaged(f"{path.name}, line {place}: it cannot be read") from fault
    return content


def _header(table: str, document: dict[str, Any]) -> dict[str, Any]:
    if table != "header":
        raise ArchiveDamaged("it has no header")
    if document["format"] != FORMAT:
        raise ArchiveDamaged(f"its format is {document['format']}, and this Teller reads {FORMAT}")
    return document


def _line(table: str, text: str) -> bytes:
    return f'["{table}", {text}]\n'.encode()
