"""
The parser of bodies gives the same verdicts as a plain walk over every value.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.web import parsing
from api.web.fields import METADATA_BYTES_MAX, TEXT_CHARACTERS_MAX
from api.web.parsing import DEPTH_MAX, DEPTH_PARSED_MAX, VALUES_MAX
from api.web.problems import Invalid, Malformed
from processor.gateways.addresses import URL_CHARACTERS_MAX

#: Parts of strings: NUL, surrogates alone and in pairs, escaped backslashes before them, brackets, quotes.
PIECES = st.sampled_from(
    [
        r"\u0000",
        r"\u000",
        r"\ud83d",
        r"\uD83D",
        r"\ude00",
        r"\uDE00",
        r"\udbff\udfff",
        r"\ud7ff",
        r"\ue000",
        r"\u00e9",
        r"\\",
        "\\",
        r"\"",
        r"\/",
        r"\n",
        "u0000",
        "ud800",
        "é",
        "😀",
        "[",
        "{",
        "]",
        "}",
        ",",
        "a",
    ]
)
STRINGS = st.lists(PIECES, max_size=6).map(lambda pieces: '"' + "".join(pieces) + '"')
SCALARS = st.one_of(
    STRINGS, st.sampled_from(["0", "-1.5", "true", "null", "NaN", "", "1e400", '"', "9" * 309])
)


def _lists(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda parts: "[" + ",".join(parts) + "]")


def _objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(STRINGS, inner).map(":".join)
    return st.lists(members, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")


TEXTS = st.recursive(SCALARS, lambda inner: st.one_of(_lists(inner), _objects(inner)), max_leaves=12)


class _StopError(Exception):
    """A name occurs twice, or a number is too large. The parser stops there, also before text that is not JSON."""


def _verdict_of_a_walk(text: str) -> tuple[str, str] | None:
    """Return the error code and the pointer for a text, or None for a good one, by a walk over every value."""

    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise _StopError
        return dict(pairs)

    def number(digits: str) -> float:
        if math.isinf(float(digits)):
            raise _StopError
        return float(digits)

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        parsed = json.loads(
            text, object_pairs_hook=once_each, parse_float=number, parse_int=number, parse_constant=constant
        )
    except ValueError:
        return "malformed", ""
    except _StopError:
        return "invalid", ""
    pointer = _walk(parsed, "", DEPTH_MAX)
    return None if pointer is None else ("invalid", pointer)


def _walk(value: Any, pointer: str, depth: int) -> str | None:
    """Return the pointer to the first fault."""
    if isinstance(value, str) and any(one == "\0" or "\ud800" <= one <= "\udfff" for one in value):
        return pointer
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return pointer
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        shown = "".join(
            "\N{REPLACEMENT CHARACTER}" if "\ud800" <= one <= "\udfff" else one for one in str(name)
        )
        shown = shown.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("~", "~0").replace("/", "~1")
        inside = f"{pointer}/{shown}"
        fault = _walk(name, inside, depth)
        fault = _walk(inner, inside, depth - 1) if fault is None else fault
        if fault is not None:
            return fault
    return None


def _verdict(text: str) -> tuple[str, str] | None:
    try:
        parsing.parse_json(text.encode())
    except Malformed:
        return "malformed", ""
    except Invalid as error:
        return "invalid", error.errors[0]["pointer"]
    return None


@given(TEXTS, st.integers(0, DEPTH_MAX + 3), st.booleans())
def test_the_scan_of_the_bytes_gives_the_verdict_of_a_walk(text: str, wraps: int, objects: bool) -> None:
    """
    Every body has the same error, at the same pointer, as if each of its values were looked at.
    """
    opening, closing = ('{"a":', "}") if objects else ("[", "]")
    body = opening * wraps + text + closing * wraps
    assert _verdict(body) == _verdict_of_a_walk(body)


@pytest.mark.parametrize("digits", [308, 309, 4300, 4301, 1_000_000])
@pytest.mark.parametrize("shape", ["{}", "-{}", "[{}]", '{{"a": {}}}'])
def test_a_whole_number_beyond_a_double_is_refused_by_name(shape: str, digits: int) -> None:
    """
    Python refuses to read more than 4,300 digits with an error of its own, which no client sees.
    """
    text = shape.format("9" * digits)

    if digits == 308:
        assert parsing.parse_json(text.encode()) == json.loads(text)
    else:
        with pytest.raises(Invalid, match="too large"):
            parsing.parse_json(text.encode())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("levels", [DEPTH_PARSED_MAX + 1, 1_000, 100_000])
@pytest.mark.parametrize("is_closed", [True, False])
def test_no_depth_exhausts_the_stack(opening: str, levels: int, is_closed: bool) -> None:
    """
    A body that nests deeper than the parser may recurse is refused before the parser sees it.
    """
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    text = opening * levels + "0" + (closing * levels if is_closed else "")

    with pytest.raises(Invalid, match="nests deeper than 32 levels"):
        parsing.parse_json(text.encode(), values_max=None)


def test_brackets_in_strings_are_no_depth() -> None:
    """
    A string may hold any number of brackets, quotes and backslashes.
    """
    text = "[{" * 1_000 + '\\"' * 1_000 + "\\" * 1_001

    assert parsing.parse_json(json.dumps([text]).encode()) == [text]


def test_no_body_of_one_request_has_too_many_values() -> None:
    """
    The largest metadata and texts have fewer commas and brackets than the limit, whatever they hold.
    """
    texts = dict.fromkeys(("destination", "unit", "reason", "purpose", "note"), "," * TEXT_CHARACTERS_MAX)
    body = {"metadata": {"x": "," * METADATA_BYTES_MAX}, "url": "," * URL_CHARACTERS_MAX, **texts}

    assert parsing.parse_json(json.dumps(body).encode()) == body


@pytest.mark.parametrize("value", ["1", "[]", "{}", '""', "null"])
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(value: str) -> None:
    """
    Values are counted in the bytes. A batch has no such limit.
    """
    text = "[" + f"{value}," * VALUES_MAX + "0]"

    with pytest.raises(Invalid, match="holds more than 16,384 values"):
        parsing.parse_json(text.encode())
    assert parsing.parse_json(text.encode(), values_max=None) == json.loads(text)
