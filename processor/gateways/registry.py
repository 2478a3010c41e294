"""
Makes the gateways: those of TELLER_GATEWAYS, and those that installed packages bring along.
"""

import importlib.metadata
from typing import Final

from processor.errors import SettingsError
from processor.gateways import signatures
from processor.gateways.http import HttpGateway
from processor.gateways.names import ENTRY_POINTS, names
from processor.gateways.protocol import Gateway
from processor.settings import BUILTIN, Settings

#: Where the API serves the sandbox.
SANDBOX_PATH: Final = "/sandbox/gateway"

#: What stands for "all interfaces" where one listens → how to reach ourselves then.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only compared with


def load(settings: Settings) -> dict[str, Gateway]:
    """
    All gateways by name; inside the event loop. Raises SettingsError when one of an installed package does not load.
    """
    names(settings)
    key = signatures.gateway_key(settings.gateway_secret, settings.secret)
    gateways: dict[str, Gateway] = {
        name: HttpGateway(sandbox_url(settings) if url == BUILTIN else url, key)
        for name, url in settings.gateways.items()
    }
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            gateways[point.name] = point.load()()
        except Exception as fault:
            raise SettingsError(
                f"the gateway {point.name} of {point.value} cannot be loaded: {fault}"
            ) from fault
    return gateways


def sandbox_url(settings: Settings) -> str:
    """Where the courier reaches the sandbox of the API."""
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{SANDBOX_PATH}"
