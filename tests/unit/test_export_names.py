"""
Names of resources, accounts and units in files of hledger and beancount.
"""

from __future__ import annotations

import itertools
import re
import string

import pytest

from teller.exports.names import (
    CARRIED_FORWARD,
    OUTSIDE,
    account_of,
    commodity,
    names_in,
    quantity_account,
    unit_of,
)

ALPHABET = string.ascii_letters + string.digits + "._:~@-"
#: All short ids of the characters that could be confused, and the longest.
IDS = ["".join(one) for size in (1, 2, 3) for one in itertools.product("aA2D-:.", repeat=size)]
IDS += [*ALPHABET, ALPHABET, "-" * 128, "a" * 128, "-2D", "-2-D", "wallet:ada", "Available", "R:Held"]


def test_names_of_accounts_are_distinct_valid_and_lead_back() -> None:
    """
    Each part has the form that beancount requires, which is the stricter of both tools.
    """
    named = {
        quantity_account(one, quantity): (one, quantity) for one in IDS for quantity in ("Available", "Held")
    }
    named |= {account_of(client, account): (client, account) for client in IDS[:60] for account in IDS[:60]}
    assert len(named) == 2 * len(set(IDS)) + 60 * 60
    for account, names in named.items():
        assert names_in(account) == names
        assert re.fullmatch(r"(Assets|Expenses)(:[A-Z0-9][A-Za-z0-9-]*)+", account)
    assert account_of("shop", None) == OUTSIDE
    assert names_in(OUTSIDE) == names_in(CARRIED_FORWARD) == ()


@pytest.mark.parametrize(
    ("unit", "symbol"),
    [
        ("EUR", "EUR"),
        ("X", "X"),
        ("points", "POINTS.L"),
        ("POINTS", "POINTS"),
        ("Points", "X.506F696E7473"),
        ("€", "X.E282AC"),
        ("m3", "M3.L"),
        ("L", "L"),
        ("NONE", "NONE"),
        ("NONE.N", "X.4E4F4E452E4E"),
        ("X.4E", "X.582E3445"),
        ('a"; b\n', "X.61223B20620A"),
        (None, "NONE.N"),
    ],
)
def test_symbols_of_units_are_distinct_valid_and_lead_back(unit: str | None, symbol: str) -> None:
    """
    A unit is free text, and may look like the symbol of another.
    """
    assert commodity(unit) == symbol
    assert unit_of(symbol) == unit
    assert re.fullmatch(r"[A-Z]([A-Z0-9.]*[A-Z0-9])?", symbol)
