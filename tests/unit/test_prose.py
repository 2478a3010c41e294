"""
The check of prose: it finds each rule's breach in each type of file, at the line of its sentence, and nothing else.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tools.prose import Rules, check, main, sentences

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check: TypeAlias = Callable[[str, str], list[tuple[int, str]]]

#: Folders that are not checked yet. The number only falls; at the end it is zero.
PENDING_MAX = 0

WORDS_26 = " ".join(["word"] * 26)


@pytest.fixture(scope="module")
def rules() -> Rules:
    """
    The rules of this repository.
    """
    return Rules.load()


@pytest.fixture
def found(rules: Rules) -> Check:
    """
    A function that returns the line and the rule of each finding in a text.
    """

    def of(path: str, source: str) -> list[tuple[int, str]]:
        return [(finding.line, finding.rule) for finding in check(path, textwrap.dedent(source), rules)]

    return of


def test_no_more_folders_are_pending_than_before(rules: Rules) -> None:
    """
    Folders that are checked stay checked.
    """
    assert len(rules.pending) <= PENDING_MAX


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The client is told.", "banned-word"),
        ("A wish goes to its partition.", "banned-word"),
        ("Nobody waits.", "banned-word"),
        ("At most so many rows.", "banned-word"),
        ("It does not run any more.", "banned-word"),
        ("PostgreSQL is away.", "banned-word"),
        ("The process lives.", "personified"),
        ("The worker no longer wants it.", "personified"),
        ("It never says so.", "personified"),
        ("What is decided stays decided.", "sentence-start"),
        ("It ends. Whose and which. Of the rows, one is left.", "sentence-start"),
        ("Two things: one: two.", "colons"),
        (f"{WORDS_26}.", "long-sentence"),
    ],
)
def test_each_rule_is_held(found: Check, text: str, rule: str) -> None:
    """
    A text with one breach has one finding, with the rule's name.
    """
    assert found("a.md", text) == [(1, rule)]


@pytest.mark.parametrize(
    "text",
    [
        "POST `/v1/requests` returns 202, and Teller keeps it in postgres.",
        "The `told_at` column and `wish` are code.",
        "It is sent right away.",
        "An account spends points.",
        "What does the client see?",
        "It stops at 10:30 or at ::1, and http://host:80/ is its address: no more.",
        f"{WORDS_26[5:]}. Then {WORDS_26[10:]}.",
        "```\nnobody told whoever\n```",
        "| what | who |\n|---|---|\n| a: b | c: d |",
        "- one: two\n- three: four",
    ],
)
def test_contexts_and_code_are_fine(found: Check, text: str) -> None:
    """
    Excepted contexts, code, questions and table cells are not findings.
    """
    assert found("a.md", text) == []


def test_python_is_read_in_docstrings_comments_messages_and_names(found: Check) -> None:
    """
    Each place has one finding; values, SQL and code in docstrings have none.
    """
    source = '''
        """Nobody reads."""
        import x as lanes

        #: The worker is told.
        LIMIT = 1  # so many


        class Wanted:
            """
            A class.

                nobody: in: code
            """

            def tell_all(self, parked: int) -> None:
                text = "nobody_known"
                raise ValueError(f"{parked} of them are parked.")
                self.execute("SELECT nobody FROM told WHERE told = away")
        '''
    assert found("a.py", source) == [
        (2, "banned-word"),
        (3, "banned-name"),
        (5, "banned-word"),
        (6, "banned-word"),
        (9, "banned-name"),
        (16, "banned-name"),
        (16, "banned-name"),
        (18, "banned-word"),
    ]


def test_names_are_judged_by_their_parts(found: Check) -> None:
    """
    A part counts, a longer word does not, and HTTP's method is fine.
    """
    assert found("a.py", "a_wish = KnownThing = POST_FOR = 1\n") == [(1, "banned-name")] * 3
    assert found("a.py", "wishful = unknown = postgres = floored = post = a_given = 1\n") == []
    assert found("workers/lanes.py", "") == [(1, "banned-name")]
    assert found("workers/wish/a.py", "") == [(1, "banned-name")]


def test_sql_is_read_in_comments_descriptions_and_names(found: Check) -> None:
    """
    Names of queries and columns count; values and built-in functions do not.
    """
    source = """
        -- read_wish --
        -- Nobody reads
        -- what is told.
        SELECT a AS told, floor(b), 'told' -- parked
          FROM t;
        COMMENT ON TABLE t IS 'It''s what
        nobody wants.';
        """
    assert found("a.sql", source) == [
        (2, "banned-name"),
        (3, "banned-word"),
        (3, "banned-word"),
        (5, "banned-name"),
        (5, "banned-word"),
        (7, "banned-word"),
    ]


def test_templates_are_read_as_a_browser_shows_them(found: Check) -> None:
    """
    Inline tags continue a sentence, blocks end it; attributes, macros' arguments and comments are text.
    """
    source = """
        {# nobody #}
        <p title="somebody reads">This <b>is
        told</b> to {{ client }}.</p>
        <script>nobody()</script> <code>told</code>
        {{ button("Replay all that are parked.", wish=told) }}
        <td>a: b</td><td>c: d</td>
        """
    assert found("a.html", source) == [
        (2, "banned-word"),
        (3, "banned-word"),
        (3, "banned-word"),
        (6, "banned-word"),
    ]


@pytest.mark.parametrize("path", ["Makefile", ".ci/run", "a.toml", "a.yml"])
def test_other_files_are_read_in_their_comments(found: Check, path: str) -> None:
    """
    Comments that follow each other are one text, and a sentence is found where it begins.
    """
    assert found(path, "# It runs\n# nobody.\nx = 'nobody'  # told\n") == [
        (1, "banned-word"),
        (3, "banned-word"),
    ]


def test_scripts_and_style_sheets_are_read_in_their_comments(found: Check) -> None:
    """
    A line, a block, and no string.
    """
    source = "// nobody\nx = 'http://nobody'; /* one\n * told */\n"
    assert found("a.js", source) == [(1, "banned-word"), (2, "banned-word")]


def test_sentences_end_at_full_stops_and_not_at_abbreviations() -> None:
    """
    Numbers, abbreviations and code do not end a sentence.
    """
    text = "It takes 1.5 s, e.g. Python. Then `x` ends (at once). (Or later?) `` begins"
    assert [sentence for _, sentence in sentences(text)] == [
        "It takes 1.5 s, e.g. Python.",
        "Then `x` ends (at once).",
        "(Or later?)",
        "`` begins",
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """
    A repository with two folders, one of which is pending, and one allowance.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("Nobody reads.\n\nThe desk is brown.\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/prose.toml").write_text(
        """
        sentence = {words_max = 25, colons_max = 1}
        word = [
            {not = "nobody", but = "no client", reason = "a subject"},
            {not = "desk", but = "stack", reason = "one word"},
        ]
        name = [{not = "desk", but = "stack", reason = "one word"}]
        allow = [{paths = ["*/a.md"], text = "The desk is", reason = "furniture"}]
        excluded = [{paths = "tools/prose.toml", reason = "the words themselves"}]
        pending = [{paths = "two/**"}]
        """
    )
    return tmp_path


def test_pending_folders_are_left_out_unless_all_is_asked_for(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    One line for each finding, and 1 as the exit code.
    """
    assert main([], repository) == 1
    assert capsys.readouterr().out == "one/a.md:1: banned-word: “Nobody” → no client: Nobody reads.\n"

    assert main(["--all", "--count", str(repository / "two")], repository) == 1
    assert capsys.readouterr().out == "     1 banned-word        two\n     1 in all\n"

    assert main([str(repository / "two")], repository) == 0
    assert capsys.readouterr().out == ""


def test_an_allowance_that_nothing_needs_is_a_finding(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Allowances go with the text that they allow, once no folder is pending.
    """
    rules = repository / "tools/prose.toml"
    rules.write_text(rules.read_text().replace("two/**", "one/**").replace("pending", "excluded_too"))
    for name in ("one", "two"):
        (repository / name / "a.md").write_text("It is brown.\n")

    assert main([], repository) == 1
    assert capsys.readouterr().out == "tools/prose.toml:1: unused-allowance: remove it: The desk is\n"


def test_a_rule_without_its_reason_is_an_error(repository: Path) -> None:
    """
    Each entry says why it is there.
    """
    rules = repository / "tools/prose.toml"
    rules.write_text(rules.read_text().replace(', reason = "furniture"', ""))

    with pytest.raises(KeyError, match="reason"):
        Rules.load(repository)
