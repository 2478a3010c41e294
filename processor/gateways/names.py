"""
Which gateways there are, by name, without making any: for whoever checks the `gateway` of a resource.
"""

import importlib.metadata
from typing import Final

from processor.errors import SettingsError
from processor.settings import Settings

#: The entry point group of gateways of one's own (`protocol.Gateway`).
ENTRY_POINTS: Final = "teller.gateways"


def names(settings: Settings) -> frozenset[str]:
    """Those of TELLER_GATEWAYS and of installed packages. Raises SettingsError when two have the same name."""
    plugged = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if both := plugged & settings.gateways.keys():
        raise SettingsError(
            f"TELLER_GATEWAYS names {min(both)}, but an installed package brings a gateway of that name"
        )
    return frozenset(plugged | settings.gateways.keys())
