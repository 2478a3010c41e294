"""
Reads docstrings, comments, messages and defined names of Python.
"""

from __future__ import annotations

import ast
import re
from typing import Final

from tools.comments import DIRECTIVE, comments
from tools.passages import Content, Name, Passage, Rows, is_message, paragraphs

# Fast and exact up to Python 3.11: from 3.12 on an f-string may contain its own quotes.
_PYTHON_TOKEN: Final = re.compile(
    r"'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\""
    r"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|(?P<comment>\#[^\n]*)",
    re.DOTALL,
)


def _docstring_rows(node: ast.Constant, text: str) -> Rows:
    """
    Number the lines of a docstring. Leaves out doctests and indented code.
    """
    rows = list(enumerate(text.split("\n"), node.lineno))
    margin = min((len(row) - len(row.lstrip()) for _, row in rows[1:] if row.strip()), default=0)
    return rows[:1] + [
        (line, "" if row[margin:].startswith("    ") or row.lstrip().startswith(">>>") else row)
        for line, row in rows[1:]
    ]


def _constant_text(node: ast.JoinedStr) -> str:
    texts = (part.value if isinstance(part, ast.Constant) else "``" for part in node.values)
    return "".join(text for text in texts if isinstance(text, str))


class _PythonReader(ast.NodeVisitor):
    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.names: list[Name] = []

    def _define(self, node: ast.stmt | ast.expr | ast.arg | ast.alias | ast.ExceptHandler, name: str) -> None:
        self.names.append(Name(node.lineno, name))

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            self.passages += paragraphs(_docstring_rows(node.value, node.value.value))
        else:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and is_message(node.value):
            self._message(node, node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = _constant_text(node)
        if is_message(text):
            self._message(node, text)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def _message(self, node: ast.expr, text: str) -> None:
        last = node.end_lineno or node.lineno
        self.passages += paragraphs(
            (min(node.lineno + index, last), row) for index, row in enumerate(text.split("\n"))
        )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._define(node, node.name)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._define(node, node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node, node.name)
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self._define(node, node.arg)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._define(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self._define(node, node.attr)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        if node.asname:
            self._define(node, node.asname)


def read_python(source: str) -> Content:
    reader = _PythonReader()
    reader.visit(ast.parse(source))
    reader.passages += comments(source, _PYTHON_TOKEN, DIRECTIVE)
    return Content(reader.passages, reader.names)
