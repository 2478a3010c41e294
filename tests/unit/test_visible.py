"""
Text of clients and gateways as people see it: in pages, mails, commands and logs.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor import log
from processor.visible import END_OF_ISOLATE, ISOLATE, escaped, escaped_json, visible
from teller import printing
from workers.courier.mailer import compose

#: Control characters, marks and embeddings of direction, isolates, line separators, fillers, a soft hyphen, a tag.
INVISIBLE = (
    "\x00\x07\x1b\x7f\x85\x9b\xad\u061c\u115f\u200b\u200e\u202a\u202e\u2028\u2066\u2069\u3164\ufeff\U000e0041"
)
HEBREW = "\u05d0\u05d1 12"


@pytest.mark.parametrize("character", INVISIBLE)
def test_each_invisible_character_becomes_an_escape(character: str) -> None:
    """
    The escape names its code, and the JSON of it means the same.
    """
    shown = visible(f"DE00 {character}1234")

    assert shown.isprintable()
    assert f"{ord(character):x}" in shown
    document = {f"a{character}": [f"{character}b"]}
    text = escaped_json(json.dumps(document, ensure_ascii=False))
    assert text.isprintable()
    assert json.loads(text) == document


@given(st.text(), st.booleans())
def test_ordinary_text_stays_and_the_rest_is_harmless(text: str, lines: bool) -> None:
    """
    Printable text is not changed but for isolates. JSON keeps its meaning whatever it has.
    """
    shown = visible(text, lines=lines).replace(ISOLATE, "").replace(END_OF_ISOLATE, "")

    assert shown == escaped(text, keep="\n\t" if lines else "")
    assert lines or "\n" not in shown
    assert json.loads(escaped_json(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("text", ["Zürich, 10\u202f000 €", "\U0001f4a1 你好", "a\u00a0b", ""])
def test_readable_text_is_not_changed(text: str) -> None:
    """
    Letters of all scripts and spaces have a shape or a width.
    """
    assert visible(text) == text


def test_text_from_right_to_left_is_isolated_line_by_line() -> None:
    """
    The order of the text around it is not changed, and an isolate of the text itself is an escape.
    """
    assert visible(HEBREW) == f"{ISOLATE}{HEBREW}{END_OF_ISOLATE}"
    assert visible(f"{HEBREW}\nx", lines=True) == f"{ISOLATE}{HEBREW}{END_OF_ISOLATE}\nx"
    assert visible(f"{END_OF_ISOLATE}{HEBREW}") == f"{ISOLATE}\\u2069{HEBREW}{END_OF_ISOLATE}"


def test_a_value_in_a_mail_begins_no_line_and_hides_none() -> None:
    """
    A gateway's reason with a line break, a terminal's escape and a direction mark is one line.
    """
    reason = "no\nAccount:   mallory\u202e\x9b2J"

    mail = compose("a@b", "c@d", f"Your {reason}", "m", datetime.now(UTC), [f"Reason {reason}", HEBREW])

    first, second = mail.get_content().splitlines()
    assert first == "Reason no\\u000aAccount:   mallory\\u202e\\u009b2J"
    assert second == f"{ISOLATE}{HEBREW}{END_OF_ISOLATE}"
    assert str(mail["Subject"]).isprintable()


@pytest.mark.parametrize("terminal", [True, False])
def test_no_output_of_a_command_controls_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    """
    Tables, single objects and JSON have escapes; the columns of a table stay aligned.
    """
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    nasty = "x\x9b31m\u202ey"

    @click.command(cls=printing.Command)
    def command() -> None:
        text = printing.table(["a", "b"], [[nasty, "end"], [HEBREW, "end"]]) + printing.fields([("c", nasty)])
        printing.show({"c": nasty}, lambda: text)

    for arguments in ([], ["--json"]):
        command.main(arguments, standalone_mode=False)
        shown = capsys.readouterr().out
        assert not {"\x9b", "\u202e"} & set(shown)
        assert "\\u009b" in shown
        if not arguments and terminal:
            plain = click.unstyle(shown).replace(ISOLATE, "").replace(END_OF_ISOLATE, "").splitlines()
            assert plain[1].index("end") == plain[2].index("end")


def test_a_log_line_on_a_terminal_has_escapes() -> None:
    """
    The text of a caller does not control the terminal that shows the log.
    """
    event: dict[str, Any] = {"event": "http_request", "route": "/\x9b2J", "trace": "a\n\x1bb", "status": 7}

    shown = log.show_invisible(None, "info", event)

    assert shown == {"event": "http_request", "route": "/\\u009b2J", "trace": "a\n\\u001bb", "status": 7}
