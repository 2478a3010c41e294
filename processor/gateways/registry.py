"""
The registry makes the gateways: those in TELLER_GATEWAYS, and those in installed packages.
"""

import importlib.metadata
from typing import Final

from processor.errors import SettingsError
from processor.gateways import signatures
from processor.gateways.http import HttpGateway
from processor.gateways.names import ENTRY_POINTS, names
from processor.gateways.protocol import Gateway
from processor.settings import BUILTIN, Settings

#: The path of the sandbox in the API.
SANDBOX_PATH: Final = "/sandbox/gateway"

#: The listening addresses that stand for all interfaces → the address under which the courier reaches the API.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared


def load(settings: Settings) -> dict[str, Gateway]:
    """
    Make all gateways. Returns them by name. Called inside the event loop.

    Raises SettingsError if a gateway of an installed package does not load.
    """
    names(settings)
    key = signatures.gateway_key(settings.gateway_secret, settings.secret)
    gateways: dict[str, Gateway] = {
        name: HttpGateway(
            sandbox_url(settings) if url == BUILTIN else url,
            key,
            settings.gateway_timeout_seconds,
            settings.calls_at_once(name),
        )
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
    """Return the URL under which the courier reaches the sandbox of the API."""
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{SANDBOX_PATH}"
