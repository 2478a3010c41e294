"""
Reads SQL and Markdown.
"""

from __future__ import annotations

import re
from typing import Final

from tools.comments import comments
from tools.passages import Content, Name, Rows, paragraphs

# ---------------------------------------------------------------- SQL

_SQL_TOKEN: Final = re.compile(
    r"'(?:''|[^'])*'|\"[^\"\n]*\"|\$\$|(?P<comment>--[^\n]*|/\*.*?\*/)",
    re.DOTALL,
)
_SQL_QUERY_NAME: Final = re.compile(r"^-- (\w+) --\s*$")
_SQL_TEXT: Final = re.compile(r"\b(?:IS|MESSAGE\s*=|HINT\s*=|EXCEPTION)\s+'((?:''|[^'])*)'", re.IGNORECASE)
_SQL_NAME: Final = re.compile(r"[A-Za-z_]\w*(?!\w|\s*\()")


def read_sql(source: str) -> Content:
    passages = list(comments(source, _SQL_TOKEN, _SQL_QUERY_NAME))
    for match in _SQL_TEXT.finditer(source):
        first = source.count("\n", 0, match.start(1)) + 1
        passages += paragraphs(enumerate(match.group(1).replace("''", "'").split("\n"), first))
    names = {
        match.group(1): source.count("\n", 0, match.start()) + 1
        for match in re.finditer(r"^-- (\w+) --\s*$", source, re.MULTILINE)
    }
    bare = _SQL_TOKEN.sub(lambda match: "\n" * match.group().count("\n"), source)
    for match in _SQL_NAME.finditer(bare):
        if match.group() not in names:
            names[match.group()] = bare.count("\n", 0, match.start()) + 1
    return Content(passages, [Name(line, name) for name, line in names.items()])


# ---------------------------------------------------------------- Markdown

_FENCE: Final = re.compile(r"^ {0,3}(```+|~~~+)")
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)\s]*(?:\s\"[^\"]*\")?\)")
_HTML_TAG: Final = re.compile(r"<!--.*?-->|</?[A-Za-z][^>]*>", re.DOTALL)
_BLOCK_MARK: Final = re.compile(r"^\s*(?:#{1,6}\s|>\s?)")


def read_markdown(source: str) -> Content:
    text = _HTML_TAG.sub(lambda tag: "\n" * tag.group().count("\n"), source)
    text = _LINK.sub(r"\1", text)
    rows: Rows = []
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        opening = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
            rows.append((number, ""))
        elif opening:
            fence = opening.group(1)
            rows.append((number, ""))
        elif re.match(r"^\s*#{1,6}\s", line):  # a heading is a passage of its own
            rows += [(number, ""), (number, _BLOCK_MARK.sub("", line)), (number, "")]
        else:
            rows.append((number, _BLOCK_MARK.sub("", line).replace("**", "").replace(r"\|", "/")))
    return Content(list(paragraphs(rows)), [])
