"""
Reads comments of any language, given the pattern of its comments and strings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tools.passages import Content, Passage, Rows, paragraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTIVE: Final = re.compile(r"#\s*(?:noqa|type: ignore|pragma|fmt|ruff|mypy)\b.*|^#!.*")


def comments(source: str, token: re.Pattern[str], ignored: re.Pattern[str] = DIRECTIVE) -> Iterator[Passage]:
    """
    Yield the comments that `token` finds. Lines of comment that follow each other at one column are one passage.
    """
    rows: Rows = []
    column_before = -1
    line, position = 1, 0
    for match in token.finditer(source):
        text = match.group("comment")
        if text is None:
            continue
        line += source.count("\n", position, match.start())
        position = match.start()
        column = match.start() - (source.rfind("\n", 0, match.start()) + 1)
        is_alone = not source[match.start() - column : match.start()].strip()
        if rows and not (is_alone and column == column_before and line == rows[-1][0] + 1):
            yield from paragraphs(rows)
            rows = []
        column_before = column if is_alone else -1
        # A block comment has several lines; a line comment has one.
        rows += enumerate((_unmark(row) for row in ignored.sub("", text).split("\n")), line)
    yield from paragraphs(rows)


def _unmark(comment: str) -> str:
    return re.sub(r"^\s*(?:#:?|--|//+|/\*+|\*(?!/))|\*/\s*$", "", comment)


_HASH_TOKEN: Final = re.compile(
    r"\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|(?P<comment>(?:^|(?<=\s))\#[^\n]*)",
    re.DOTALL | re.MULTILINE,
)
_SHELL_TOKEN: Final = re.compile(r"(?P<comment>(?:^|(?<=\s\s))\#[^\n]*)", re.MULTILINE)
_SCRIPT_TOKEN: Final = re.compile(
    r"`(?:\\.|[^`\\])*`|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?P<comment>/\*.*?\*/|(?:^|(?<=\s))//[^\n]*)",
    re.DOTALL | re.MULTILINE,
)


def read_hashed(source: str) -> Content:
    return Content(list(comments(source, _HASH_TOKEN)), [])


def read_shell(source: str) -> Content:
    return Content(list(comments(source, _SHELL_TOKEN)), [])


def read_script(source: str) -> Content:
    return Content(list(comments(source, _SCRIPT_TOKEN)), [])
