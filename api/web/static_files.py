"""
Styles and scripts, served from memory.

An address has the digest of the content, so a browser may cache the file for ever.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.web.routing import RawResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Response

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: The address below which they are served.
ADDRESS: Final = "/admin/static"
#: The length of the digest in an address.
DIGEST_CHARACTERS: Final = 12


@dataclass(frozen=True, slots=True)
class _File:
    digest: str
    content: bytes
    content_type: str


class Files:
    """The files of `api/static/console/` that are served."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {
            name: _File(
                hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS],
                content,
                _TYPES[name.rpartition(".")[2]],
            )
            for name, content in files.items()
        }

    @classmethod
    @functools.cache
    def load(cls) -> Files:
        """Return the installed files, which the first call loads."""
        folder = importlib.resources.files("api").joinpath("static", "console")
        found = [file for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES]
        return cls({file.name: file.read_bytes() for file in found})

    def address(self, name: str) -> str:
        """Return the address of the present version of a file."""
        return f"{ADDRESS}/{self._files[name].digest}/{name}"

    def answer(self, digest: str, name: str) -> Response | None:
        """
        Return a file, or None if there is none of this name.

        The digest may be that of another version, because two versions of Teller may serve one page during an
        upgrade. Browsers must not cache that answer.
        """
        file = self._files.get(name)
        if file is None:
            return None
        keep = "public, max-age=31536000, immutable" if digest == file.digest else "no-store"
        headers = [
            ("Content-Type", file.content_type),
            ("Content-Length", str(len(file.content))),
            ("Cache-Control", keep),
        ]
        return RawResponse(file.content, 200, headers)
