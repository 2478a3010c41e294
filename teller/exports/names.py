"""
Names of resources, accounts and units as hledger and beancount accept them, and back.

Two different names never become one. A part of an account begins with a capital letter, and has letters, digits and
hyphens. Any other character is a hyphen and its two hexadecimal digits: `wallet:ada` is `Rwallet-3Aada`.
"""

from __future__ import annotations

import re
from typing import Final

#: The account of entries without an account: openings and deposits.
OUTSIDE: Final = "Equity:Teller:Outside"
#: The account of the quantities from before the period of an export.
CARRIED_FORWARD: Final = "Equity:Teller:CarriedForward"

_OTHER: Final = re.compile(r"[^A-Za-z0-9]")
_ESCAPE: Final = re.compile(r"-([0-9A-F]{2})")
_CAPITALS: Final = re.compile(r"[A-Z][A-Z0-9]*")
_SMALL: Final = re.compile(r"[a-z][a-z0-9]*")


def escaped(name: str) -> str:
    """Return an id with an escape for each character that is neither a letter nor a digit of ASCII."""
    return _OTHER.sub(lambda one: f"-{ord(one[0]):02X}", name)


def unescaped(text: str) -> str:
    """Return the id of an escaped text."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)


def quantity_account(resource: str, quantity: str) -> str:
    """Return the account of a quantity of a resource, `Available` or `Held`."""
    return f"Assets:Teller:R{escaped(resource)}:{quantity}"


def account_of(client: str, account: str | None) -> str:
    """Return the account from which an entry takes, or to which it gives."""
    return OUTSIDE if account is None else f"Expenses:Teller:C{escaped(client)}:A{escaped(account)}"


def names_in(account: str) -> tuple[str, ...]:
    """
    Return what an account of an export names: a resource and its quantity, or a client and its account.

    Returns an empty tuple for OUTSIDE and CARRIED_FORWARD.
    """
    root, _, *parts = account.split(":")
    if root == "Assets":
        return unescaped(parts[0][1:]), parts[1]
    return tuple(unescaped(part[1:]) for part in parts) if root == "Expenses" else ()


def commodity(unit: str | None) -> str:
    """
    Return the symbol of a unit, in capital letters, digits and points.

    A unit such as `EUR` is its own symbol, `points` is `POINTS.L`, and `€` is `X.E282AC`. No unit is `NONE.N`.
    """
    if unit is None:
        return "NONE.N"
    if _CAPITALS.fullmatch(unit):
        return unit
    if _SMALL.fullmatch(unit):
        return f"{unit.upper()}.L"
    return f"X.{unit.encode().hex().upper()}"


def unit_of(symbol: str) -> str | None:
    """Return the unit of a symbol."""
    name, point, form = symbol.partition(".")
    if not point:
        return name
    if form in ("N", "L"):
        return None if form == "N" else name.lower()
    return bytes.fromhex(form).decode()
