"""
Holds the words and sentences of this repository to the rules in `prose.toml`.

Reads docstrings, comments, SQL, Markdown, templates, messages, and the names that code defines. Prints one line
for each finding and exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tools import readers
from tools.passages import Name, Passage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
RULES_PATH: Final = "tools/prose.toml"
#: Folders without prose of ours. Folders that begin with a dot are left out too, except `.ci`.
_SKIPPED_FOLDERS: Final = frozenset({"build", "dist", "__pycache__", "node_modules"})
#: A finding shows at most this many characters of its sentence.
_EXCERPT_LENGTH: Final = 160


class Finding(NamedTuple):
    """
    One breach of a rule. `text` is the whole sentence or name, on which allowances are matched.
    """

    path: str
    line: int
    rule: str
    text: str
    advice: str

    def __str__(self) -> str:
        excerpt = self.text if len(self.text) <= _EXCERPT_LENGTH else self.text[: _EXCERPT_LENGTH - 1] + "…"
        return f"{self.path}:{self.line}: {self.rule}: {self.advice}: {excerpt}"


class _Ban(NamedTuple):
    pattern: re.Pattern[str]
    rule: str
    advice: str
    contexts: tuple[re.Pattern[str], ...]

    def matches(self, text: str) -> Iterator[str]:
        """
        Yield the banned words of a text, except those inside an allowed context.
        """
        for match in self.pattern.finditer(text):
            if not any(
                span.start() <= match.start() and match.end() <= span.end()
                for context in self.contexts
                for span in context.finditer(text)
            ):
                yield match.group()


@dataclass(slots=True)
class _Allowance:
    paths: re.Pattern[str]
    text: str
    is_used: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The content of `prose.toml`.
    """

    words_max: int
    colons_max: int
    words: tuple[_Ban, ...]
    names: tuple[_Ban, ...]
    any_word: re.Pattern[str]
    any_name: re.Pattern[str]
    pending: tuple[str, ...]
    excluded: tuple[str, ...]
    allowances: list[_Allowance] = field(default_factory=list)

    @classmethod
    def load(cls, root: Path = ROOT) -> Rules:
        """
        Read the rules. Raises KeyError for an entry without its reason.
        """
        document = tomllib.loads((root / RULES_PATH).read_text("utf-8"))
        words = tuple(_ban(entry) for entry in document["word"])
        names = tuple(_ban(entry) for entry in document["name"])
        return cls(
            words_max=document["sentence"]["words_max"],
            colons_max=document["sentence"]["colons_max"],
            words=words,
            names=names,
            any_word=_any(words),
            any_name=_any(names),
            pending=tuple(entry["paths"] for entry in document.get("pending", ())),
            excluded=tuple(entry["paths"] for entry in document.get("excluded", ()) if entry["reason"]),
            allowances=[
                _Allowance(_globs(entry["paths"]), entry["text"])
                for entry in document.get("allow", ())
                if entry["reason"]
            ],
        )

    def allows(self, finding: Finding) -> bool:
        """
        Return whether an allowance covers a finding, and mark that allowance as used.
        """
        for allowance in self.allowances:
            if allowance.text in finding.text and allowance.paths.fullmatch(finding.path):
                allowance.is_used = True
                return True
        return False


def _ban(entry: dict[str, Any]) -> _Ban:
    flags = re.NOFLAG if entry.get("case") else re.IGNORECASE
    return _Ban(
        re.compile(rf"\b(?:{entry['not']})\b", flags),
        entry.get("rule", "banned-word"),
        entry["but"] if entry["reason"] else "",
        tuple(re.compile(context, flags) for context in entry.get("except", ())),
    )


def _any(bans: Iterable[_Ban]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{ban.pattern.pattern})" for ban in bans), re.IGNORECASE)


def _globs(paths: str | Sequence[str]) -> re.Pattern[str]:
    """
    Compile path globs: `*` stays within a folder, `**` crosses folders.
    """
    every = [paths] if isinstance(paths, str) else paths
    return re.compile("|".join(_glob(path) for path in every) or "(?!)")


def _glob(path: str) -> str:
    parts = [translate(part)[4:-3].replace(".*", "[^/]*") for part in path.split("**")]
    return ".*".join(parts)


# ---------------------------------------------------------------- sentences

_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])[\"'’”)\]]*\s+(?=[\"'“(\[*]*(?:[A-Z0-9]|``|_))")
_NO_END: Final = re.compile(r"\b(?:e\.g|i\.e|cf|vs|etc|No|[A-Z])\.$")
_WORD: Final = re.compile(r"[A-Za-z0-9](?:[\w'’./@-]*\w)?")
_COLON: Final = re.compile(r"(?<!:):(?=\s|$)")


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """
    Yield the offset and the text of each sentence.
    """
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        if _NO_END.search(text, begin, match.start()):
            continue
        yield begin, text[begin : match.end()].rstrip()
        begin = match.end()
    if text[begin:].strip():
        yield begin, text[begin:].rstrip()


_BAD_START: Final = re.compile(r"[\"'“(\s]*(what|who|whoever|of)\b(?!.*\?\W*$)", re.IGNORECASE | re.DOTALL)


def _of_passage(path: str, passage: Passage, rules: Rules) -> Iterator[Finding]:
    for begin, raw in sentences(passage.text):
        text = " ".join(raw.split())

        def found(rule: str, advice: str, offset: int = begin, text: str = text) -> Finding:
            return Finding(path, passage.line_at(offset), rule, text, advice)

        count = len(_WORD.findall(text))
        if count > rules.words_max:
            yield found("long-sentence", f"{count} words, at most {rules.words_max}")
        colons = len(_COLON.findall(text))
        if colons > rules.colons_max:
            yield found("colons", f"{colons} colons, at most {rules.colons_max}")
        start = _BAD_START.match(text)
        if start and count > 2:  # noqa: PLR2004 - a table's heading may be one word
            yield found("sentence-start", f"begins with “{start.group(1)}”: name the subject")
        if rules.any_word.search(text):
            for ban in rules.words:
                for match in ban.matches(text):
                    yield found(ban.rule, f"“{match}” → {ban.advice}")


_NAME_PART: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _of_names(path: str, names: Iterable[Name], rules: Rules) -> Iterator[Finding]:
    """
    Yield findings in the parts of names, once for each name of a file.
    """
    seen: set[str] = set()
    for line, name in [(name.line, name.text) for name in names]:
        if name in seen:
            continue
        seen.add(name)
        parts = " ".join(_NAME_PART.findall(name))
        if rules.any_name.search(parts):
            for ban in rules.names:
                for match in ban.matches(parts):
                    yield Finding(path, line, "banned-name", name, f"“{match}” → {ban.advice}")


def check(path: str, source: str, rules: Rules) -> list[Finding]:
    """
    Return the findings in one file, in the order of its lines.

    `path` is relative to the root of the repository.
    """
    pure = PurePosixPath(path)
    found = list(_of_names(path, [Name(1, pure.stem), Name(1, pure.parent.name)], rules))
    content = readers.read(pure, source)
    if content is not None:
        found += _of_names(path, content.names, rules)
        for passage in content.passages:
            found += _of_passage(path, passage, rules)
    return sorted(finding for finding in found if not rules.allows(finding))


# ---------------------------------------------------------------- command line


def files(root: Path, paths: Sequence[Path]) -> list[str]:
    """
    Return the files with prose below these paths, relative to the root.
    """
    found: set[str] = set()
    for top in paths:
        if top.is_file():
            found.add(os.path.relpath(top, root))
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = [
                name
                for name in subfolders
                if name not in _SKIPPED_FOLDERS and (name == ".ci" or not name.startswith("."))
            ]
            found |= {os.path.relpath(Path(folder, name), root) for name in names}
    return sorted(
        path for path in found if (PurePosixPath(path).suffix or PurePosixPath(path).name) in readers.READERS
    )


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """
    Check the given paths. Returns the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.prose", description="Check words and sentences.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--all", action="store_true", help="check folders that are still pending, too")
    parser.add_argument(
        "--count", action="store_true", help="print the number of findings by folder and rule"
    )
    options = parser.parse_args(arguments)

    rules = Rules.load(root)
    skipped = _globs([*rules.excluded, *(() if options.all else rules.pending)])
    found: list[Finding] = []
    for path in files(root, [path.resolve() for path in options.paths] or [root]):
        if not skipped.fullmatch(path):
            found += check(path, (root / path).read_text("utf-8"), rules)
    if not options.paths and not rules.pending:
        found += [
            Finding(RULES_PATH, 1, "unused-allowance", allowance.text, "remove it")
            for allowance in rules.allowances
            if not allowance.is_used
        ]
    if options.count:
        counts = Counter((str(PurePosixPath(finding.path).parent), finding.rule) for finding in found)
        for (folder, rule), count in sorted(counts.items()):
            print(f"{count:6} {rule:18} {folder}")
        print(f"{len(found):6} in all")
    else:
        for finding in found:
            print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
