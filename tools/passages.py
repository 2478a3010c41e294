"""
Prose and names, as every reader returns them.

A passage keeps the line of each of its parts, so that a finding names the line of its sentence.
Code inside backticks is replaced by an empty pair of them: it ends no sentence and is no word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A string with fewer words than this, and without a full stop at its end, is a value rather than a message.
MESSAGE_WORDS_MIN: Final = 5

Rows = list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Passage:
    """
    Text that belongs together, such as one paragraph, comment or table cell.

    `rows` are its lines, each with its number in the file.
    """

    rows: tuple[tuple[int, str], ...]

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.rows)

    def line_at(self, offset: int) -> int:
        """
        Return the line in the file of a character of `text`.
        """
        return self.rows[self.text.count("\n", 0, offset)][0]


@dataclass(frozen=True, slots=True)
class Name:
    """
    An identifier at the place that defines it.
    """

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """
    The prose and the names of one file.
    """

    passages: list[Passage]
    names: list[Name]


# ---------------------------------------------------------------- paragraphs

_CODE_SPAN: Final = re.compile(r"(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_LIST_ITEM: Final = re.compile(r"\s*(?:[-*+•]|\(?\d+[.)])\s+")
_RULER: Final = re.compile(r"^\s*[-=─]{3,}\s*|\s*[-=─]{3,}\s*$")
_TABLE_GAP: Final = re.compile(r"\s{3,}|\s*\|\s*")


def _without_code(text: str) -> str:
    return _CODE_SPAN.sub(lambda span: "``" + "\n" * span.group().count("\n"), text)


def paragraphs(rows: Iterable[tuple[int, str]]) -> Iterator[Passage]:
    """
    Split lines into paragraphs, list items and table cells.
    """
    numbered = list(rows)
    if not numbered:
        return
    numbers = [number for number, _ in numbered]
    lines = _without_code("\n".join(text for _, text in numbered)).split("\n")
    open_rows: Rows = []
    for number, raw in zip(numbers, lines, strict=True):
        text = _RULER.sub("", raw.rstrip()).rstrip()
        cells = [cell for cell in _TABLE_GAP.split(text.strip()) if cell]
        item = _LIST_ITEM.match(text)
        starts_anew = not cells or len(cells) > 1 or "|" in text or item
        if starts_anew and open_rows:
            yield Passage(tuple(open_rows))
            open_rows = []
        if len(cells) > 1 or "|" in text:
            yield from (Passage(((number, cell),)) for cell in cells)
        elif cells:
            open_rows.append((number, text[item.end() :].strip() if item else text.strip()))
    if open_rows:
        yield Passage(tuple(open_rows))


# ---------------------------------------------------------------- messages

_SQL: Final = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH|SET|GRANT|REVOKE|TRUNCATE|BEGIN|VACUUM|EXPLAIN|COPY"
    r"|CHECKPOINT|LOCK|ANALYZE|NOTIFY|LISTEN|DO)\s+[\w*(\"$]"
)
_QUERY: Final = re.compile(r"\bSELECT\b.+\bFROM\b", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z][\w'’-]*")


_BRACES: Final = re.compile(r"\{[^}]*[:;]")  # style sheets, JSON, formats


def is_message(text: str) -> bool:
    """
    Return whether a string is prose: it has spaces, and ends with a full stop or has at least five words.
    """
    if (
        " " not in text.strip()
        or _SQL.match(text)
        or _QUERY.search(text)
        or _BRACES.search(text)
        or text.lstrip()[:1] in "{<[/\\"
    ):
        return False
    return text.rstrip().endswith(".") or len(_WORD.findall(text)) >= MESSAGE_WORDS_MIN
