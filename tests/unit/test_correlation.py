"""
The headers X-Request-Id and traceparent: which are kept as they are, and what becomes of the others.
"""

from __future__ import annotations

import re

import pytest

from processor.tracing import correlation
from processor.tracing.correlation import Correlation

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ca902c7"
SOUND = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("sent", ["a", "r" * 128, "A0._:@/+=-", "7f0c"])
def test_a_sane_request_id_is_kept(sent: str) -> None:
    """Up to 128 characters that need no escape in a log or a header."""
    assert correlation.of_headers(sent, None).x_request_id == sent


@pytest.mark.parametrize("sent", [None, "", "r" * 129, "a b", "a,b", "a\n", "ä", "\u0661", 'a"b', "a\x00"])
def test_any_other_request_id_is_replaced(sent: str | None) -> None:
    """The call gets an id of 16 hexadecimal digits, another one each time."""
    made = {correlation.of_headers(sent, None).x_request_id for _ in range(2)}

    assert len(made) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", one or "") for one in made)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (SOUND, SOUND),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-03", f"00-{TRACE}-{PARENT}-03"),
        # A later version is read as far as it is known.
        (f"cc-{TRACE}-{PARENT}-09", SOUND),
        (f"01-{TRACE}-{PARENT}-02-what-the-future-will-be-like", f"00-{TRACE}-{PARENT}-00"),
    ],
)
def test_a_sound_traceparent_is_kept_in_version_00(sent: str, kept: str) -> None:
    """W3C Trace Context, 3.2 and 3.2.4."""
    called = correlation.of_headers("r", sent)

    assert (called.traceparent, called.trace_id) == (kept, TRACE)
    assert called.log_fields() == {"request_id": "r", "trace_id": TRACE}
    assert called.headers() == {"X-Request-Id": "r", "traceparent": kept}


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0g",
        f"{SOUND}-more",
        f"{SOUND}-",
        f"{SOUND}\n",
        f" {SOUND}",
        f"{SOUND},{SOUND}",
        f"01-{TRACE}-{PARENT}-01more",
        f"0\u0660-{TRACE}-{PARENT}-01",
    ],
)
def test_an_invalid_traceparent_is_ignored(sent: str) -> None:
    """The call goes on without a trace, and its X-Request-Id counts."""
    assert correlation.of_headers("r", sent) == Correlation("r")


@pytest.mark.parametrize("stored", [None, "-" * 55, "0" * 55])
def test_a_stored_value_of_another_form_has_no_trace(stored: str | None) -> None:
    """PostgreSQL checks its length and its characters alone, because a pattern costs as much as the whole row."""
    assert Correlation("r", stored).parsed() is None
    assert Correlation("r", SOUND).parsed() == (int(TRACE, 16), int(PARENT, 16), 1)


def test_without_a_call_there_are_no_fields_and_no_headers() -> None:
    """As for requests of the release before."""
    assert correlation.current() == correlation.NONE
    assert (correlation.NONE.log_fields(), correlation.NONE.headers()) == ({}, {})
