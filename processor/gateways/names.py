"""
The names of all gateways. The API checks the `gateway` of a resource with them, and makes no gateway.
"""

import importlib.metadata
from typing import Final

from processor.errors import SettingsError
from processor.settings import Settings

#: The entry point group of the gateways that packages add (`protocol.Gateway`).
ENTRY_POINTS: Final = "teller.gateways"


def names(settings: Settings) -> frozenset[str]:
    """
    Return the names in TELLER_GATEWAYS and of the gateways in installed packages.

    Raises SettingsError if two have the same name.
    """
    plugged = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if both := plugged & settings.gateways.keys():
        raise SettingsError(
            f"TELLER_GATEWAYS names {min(both)}, but an installed package brings a gateway of that name"
        )
    return frozenset(plugged | settings.gateways.keys())
