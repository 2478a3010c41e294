"""
Amounts as people write them, and as programs read them.
"""

import re
from decimal import Decimal

import pytest

from processor.domain.amounts import Unit, format_amount, format_decimal, read_amount
from processor.domain.model import MAX_QUANTITY

EURO = Unit("EUR", 2)


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (25_000, EURO, "250.00 EUR"),
        (0, EURO, "0.00 EUR"),
        (1, EURO, "0.01 EUR"),
        (99, EURO, "0.99 EUR"),
        (100, EURO, "1.00 EUR"),
        (-5, EURO, "\N{MINUS SIGN}0.05 EUR"),
        (-123_456_789, EURO, "\N{MINUS SIGN}1,234,567.89 EUR"),
        (25_000, Unit("EUR"), "25,000 EUR"),
        (1_234_567, Unit(), "1,234,567"),
        (-1_234, Unit(), "\N{MINUS SIGN}1,234"),
        (1, Unit("BTC", 9), "0.000000001 BTC"),
        (1_500, Unit(None, 3), "1.500"),
        (MAX_QUANTITY, Unit("points"), "9,007,199,254,740,991 points"),
        (MAX_QUANTITY, EURO, "90,071,992,547,409.91 EUR"),
        (MAX_QUANTITY, Unit("BTC", 9), "9,007,199.254740991 BTC"),
        (-MAX_QUANTITY, Unit("x", 1), "\N{MINUS SIGN}900,719,925,474,099.1 x"),
    ],
)
def test_an_amount_is_written_with_its_point_groups_and_unit(amount: int, unit: Unit, text: str) -> None:
    """
    It is exact up to the largest amount.
    """
    assert format_amount(amount, unit) == text


@pytest.mark.parametrize("decimals", range(10))
@pytest.mark.parametrize("amount", [0, 1, 9, 10, 12_345, 10**9, MAX_QUANTITY - 1, MAX_QUANTITY])
def test_both_forms_have_the_exact_value_and_can_be_read_back(amount: int, decimals: int) -> None:
    """
    Decimal arithmetic is the judge.
    """
    written = format_amount(amount, Unit(None, decimals))
    exact = Decimal(amount).scaleb(-decimals)
    assert Decimal(format_decimal(amount, decimals)) == exact == -Decimal(format_decimal(-amount, decimals))
    assert Decimal(re.sub(",", "", written)) == exact
    assert read_amount(written, decimals) == amount


@pytest.mark.parametrize(
    ("text", "decimals", "amount"),
    [
        ("250", 2, 25_000),
        ("250.5", 2, 25_050),
        (" 1,234.50 ", 2, 123_450),
        ("1 234", 0, 1_234),
        ("0.01", 2, 1),
        ("0.001", 2, None),
        ("1.0", 0, None),
        ("-1", 0, None),
        ("", 0, None),
        (".5", 2, None),
        ("5.", 2, None),
        ("1e3", 0, None),
        ("٣", 0, None),
        ("1" * 40, 0, None),
    ],
)
def test_people_may_group_digits_and_leave_out_zeros(text: str, decimals: int, amount: int | None) -> None:
    """
    More digits than the unit has are refused, never rounded.
    """
    assert read_amount(text, decimals) == amount
