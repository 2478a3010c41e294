"""
The roles of keys, and the sets of roles that have the same rights.
"""

from typing import Final

CLIENTS: Final[frozenset[str]] = frozenset({"client", "admin"})
OPERATORS: Final[frozenset[str]] = frozenset({"operator", "admin"})
ADMINS: Final[frozenset[str]] = frozenset({"admin"})
ALL_ROLES: Final[frozenset[str]] = frozenset({"client", "operator", "admin"})

#: The client of the race lab. Lists and counts for people leave out what it makes, unless they are asked for it.
LAB_CLIENT: Final = "race-lab"
