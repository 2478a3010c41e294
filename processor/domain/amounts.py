"""
Amounts as people write them: `250.00 EUR` for 25000 with the unit `EUR` and 2 decimals.

Pure and exact: an amount is an integer, and no step uses floating point.
"""

import re
from typing import Final, NamedTuple

#: The greatest number of decimals of a resource.
DECIMALS_MAX: Final = 9

#: Digits, which people may group with commas or spaces, and digits behind the point.
_WRITTEN: Final = re.compile(r"([0-9][0-9, ]{0,30})(?:\.([0-9]{1,9}))?", re.ASCII)


class Unit(NamedTuple):
    """The unit of a resource, such as EUR, and how many digits of an amount stand behind the point."""

    name: str | None = None
    decimals: int = 0


#: The unit of an amount whose resource is unknown.
NO_UNIT: Final = Unit()


def format_amount(amount: int, unit: Unit = NO_UNIT) -> str:
    """
    Return an amount as people write it, such as `1,234.50 EUR`. `amount` counts the smallest kind of the unit.
    """
    digits = format_decimal(abs(amount), unit.decimals)
    whole, point, fraction = digits.partition(".")
    sign = "\N{MINUS SIGN}" if amount < 0 else ""
    name = "" if unit.name is None else f" {unit.name}"
    return f"{sign}{int(whole):,}{point}{fraction}{name}"


def format_decimal(amount: int, decimals: int) -> str:
    """Return an amount as a decimal number for programs, such as `-1234.50`: without groups and without a unit."""
    sign = "-" if amount < 0 else ""
    digits = str(abs(amount)).rjust(decimals + 1, "0")
    return sign + (f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits)


def read_amount(text: str, decimals: int) -> int | None:
    """
    Return the amount that people wrote, such as `1,234.5`, in the smallest kind of its unit.

    Returns None if it is no number, or if it has more digits behind the point than the unit.
    """
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        return None
    whole, fraction = written[1].replace(",", "").replace(" ", ""), written[2] or ""
    return int(whole + fraction.ljust(decimals, "0")) if len(fraction) <= decimals else None
