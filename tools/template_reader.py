"""
Reads the visible text of Jinja templates.
"""

from __future__ import annotations

import html
import re
from typing import Final

from tools.passages import Content, Passage, Rows, is_message, paragraphs

_JINJA: Final = re.compile(r"\{#(?P<comment>.*?)#\}|\{%(?P<tag>.*?)%\}|\{\{(?P<value>.*?)\}\}", re.DOTALL)
_UNSEEN: Final = re.compile(
    r"<(script|style|pre|code|svg)\b.*?</\1\s*>|<!--.*?-->|<!doctype[^>]*>", re.DOTALL | re.IGNORECASE
)
_TAG: Final = re.compile(r"<(/?)([A-Za-z][\w-]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>")
_SPOKEN: Final = re.compile(
    r"\b(?:title|alt|placeholder|aria-label|content|data-confirm|hx-confirm)=\"([^\"]*)\""
)
_QUOTED: Final = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
_INLINE: Final = frozenset(
    {"a", "abbr", "b", "cite", "del", "em", "i", "ins", "kbd", "mark", "q", "s", "samp", "small", "span"}
    | {"strong", "sub", "sup", "time", "u", "var"}
)


#: Marks a tag that ends a passage, without adding a line.
_BLOCK: Final = "\0"


def _blank(text: str, mark: str = "") -> str:
    return mark + "\n" * text.count("\n")


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self.passages: list[Passage] = []

    def read(self) -> None:
        seen = _UNSEEN.sub(
            lambda match: _blank(match.group(), "``"), _JINJA.sub(self._read_jinja, self._source)
        )
        for tag in _TAG.finditer(seen):
            for attribute in _SPOKEN.finditer(tag.group(3)):
                if " " in attribute.group(1):
                    self._add(attribute.group(1), seen.count("\n", 0, tag.start(3) + attribute.start(1)) + 1)
        self._read_text(_TAG.sub(_mark_block, seen))

    def _add(self, text: str, first_line: int) -> None:
        self.passages += paragraphs(enumerate(html.unescape(text).split("\n"), first_line))

    def _read_jinja(self, match: re.Match[str]) -> str:
        """
        Take the comment or the messages of a Jinja tag. Returns a text of as many lines to stand in its place.
        """
        first_line = self._source.count("\n", 0, match.start()) + 1
        if match.group("comment") is not None:
            self._add(match.group("comment"), first_line)
            return _blank(match.group())
        for quoted in _QUOTED.finditer(match.group()):
            text = quoted.group(1) or quoted.group(2) or ""
            if is_message(text):
                self._add(text, first_line + match.group().count("\n", 0, quoted.start()))
        return _blank(match.group(), "``" if match.group("value") is not None else "")

    def _read_text(self, text: str) -> None:
        rows: Rows = []
        for number, line in enumerate(text.split("\n"), 1):
            for index, piece in enumerate(line.split(_BLOCK)):
                if index:
                    self.passages += paragraphs(rows)
                    rows = []
                if piece.strip():
                    rows.append((number, html.unescape(piece)))
        self.passages += paragraphs(rows)


def _mark_block(tag: re.Match[str]) -> str:
    return _blank(tag.group(), "" if tag.group(2).lower() in _INLINE else _BLOCK)


def read_template(source: str) -> Content:
    reader = _Reader(source)
    reader.read()
    return Content(reader.passages, [])
