"""
JSON for `jsonb`: what PostgreSQL returns is the value that was stored.
"""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.storage import json_text

VALUES = st.recursive(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.text()
    | st.sampled_from(["1e+20", '"1e+20', "\\", '\\"5e+30\\'])
    | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def from_jsonb(text: str) -> object:
    """Return what a client reads that gets this text from a jsonb: numbers without exponent, and scale kept."""
    return json.loads(text, parse_float=lambda digits: float(f"{Decimal(digits):f}"), parse_int=int)


@settings(max_examples=300)
@given(VALUES)
def test_a_value_comes_back_with_its_types(value: object) -> None:
    """
    A double comes back as a double, and a whole number as a whole number. Texts with numbers in them stay.
    """
    text = json_text.dumps(value)

    assert json.dumps(from_jsonb(text)) == json.dumps(value)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1e16, "10000000000000000.0"),
        (-1.5e300, f"-15{'0' * 299}.0"),
        (1e300, f"1{'0' * 300}.0"),
        (1.0, "1.0"),
        (1e-300, "1e-300"),
        (10**20, f"1{'0' * 20}"),
        (["1e+300", 1e20], f'["1e+300",1{"0" * 20}.0]'),
    ],
)
def test_a_number_has_a_point_in_place_of_an_exponent(value: object, stored: str) -> None:
    """
    `jsonb` writes a number with an exponent as all its digits, but keeps a digit behind the point.
    """
    assert json_text.dumps(value) == stored
