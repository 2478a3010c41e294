"""
The file descriptors of a courier.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from processor.settings import Settings
from workers.courier.files import OTHER_FILES, allow_connections
from workers.courier.webhook_client import CONNECTIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

#: Two gateways, with 1,024 and 64 calls at once.
SETTINGS = {
    "TELLER_GATEWAYS": "bank=https://bank.example/,shop=https://shop.example/",
    "TELLER_GATEWAY_CALLS": "64,bank=1024",
    "TELLER_GATEWAY_SECRET": "whsec_" + "A" * 32,
}
NEEDED = 2 * (CONNECTIONS_MAX + 1_024 + 64) + OTHER_FILES


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[tuple[int, int]]]:
    """Set the limits that the process finds. Returns those that it sets."""

    def given(files: int, most: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, most))
        monkeypatch.setattr(resource, "setrlimit", lambda _, limit: found.append(limit))
        return found

    return given


@pytest.mark.parametrize(
    ("files", "most", "found"),
    [
        (1_024, 500_000, [(NEEDED, 500_000)]),
        (1_024, resource.RLIM_INFINITY, [(NEEDED, resource.RLIM_INFINITY)]),
        (1_024, 2_000, [(2_000, 2_000)]),
        (NEEDED, NEEDED, []),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, []),
    ],
)
def test_a_courier_may_open_a_connection_for_each_call(
    limits: Callable[[int, int], list[tuple[int, int]]], files: int, most: int, found: list[tuple[int, int]]
) -> None:
    """
    The limit is raised as far as needed and allowed, and never lowered.
    """
    asked = limits(files, most)

    allow_connections(Settings.from_environment(SETTINGS))

    assert asked == found
