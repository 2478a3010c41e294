"""
Addresses of webhooks: public ones over https, unless private ones are allowed.

A client chooses the URL, and the courier connects from inside the network, so the URL must not lead inside. The check
runs when a webhook is registered. It runs again for each address that a delivery connects to
(`workers/courier/webhook_client.py`).
"""

import ipaddress
import socket
from typing import Final
from urllib.parse import SplitResult, urlsplit

from processor.errors import TellerError

#: The longest URL of a webhook, in characters.
URL_CHARACTERS_MAX: Final = 2048

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's special-purpose registries. They are listed because `is_global` differs between versions of Python.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a carrier's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: leads to any IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_MASK = 0xFFFF_FFFF

# Names that are private by convention (RFC 6761, 6762, 8375, and ICANN's `.internal`).
_INSIDE = frozenset({"localhost", "local", "internal", "home.arpa", "localdomain"})


class WebhookAddressRefused(TellerError):
    """The URL is not allowed for a webhook."""

    code = "webhook_address_refused"


class AddressRefused(OSError):
    """The address that a connection would be made to is not public."""


def is_public(address: str) -> bool:
    """
    Return whether this IP address belongs to the public internet.

    An IPv4 address inside an IPv6 address (mapped, or through NAT64) counts as the IPv4 address. Text that is no
    address counts as not public.
    """
    try:
        parsed: _Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None and parsed not in _NAT64:
            return parsed in _UNICAST_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = ipaddress.IPv4Address(int(parsed) & _IPV4_MASK)
    return not any(parsed in network for network in _NOT_PUBLIC_4)


def check_webhook(url: str, *, allow_private: bool) -> None:
    """
    Check the URL of a webhook that is registered, by its form and by the addresses that its name resolves to.

    A name that does not resolve is refused in the same words as a name of this network. So the answer does not
    show which names this network has. Raises WebhookAddressRefused.
    """
    parts = check_form(url, allow_private=allow_private)
    if allow_private:
        return
    host = parts.hostname or ""
    labels = host.rstrip(".").split(".")
    if any(".".join(labels[-length:]) in _INSIDE for length in (1, 2)):
        raise WebhookAddressRefused(f"{host} does not lead to a public address")
    try:
        found = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    if not found or not all(is_public(str(address[0])) for *_, address in found):
        raise WebhookAddressRefused(f"{host} does not lead to a public address")


def check_form(url: str, *, allow_private: bool) -> SplitResult:
    """Check the form of a URL, without the name service. Returns its parts. Raises WebhookAddressRefused."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as fault:
        raise WebhookAddressRefused("this is not a URL") from fault
    if len(url) > URL_CHARACTERS_MAX or not url.isprintable() or " " in url or "\\" in url:
        raise WebhookAddressRefused("this is not a URL")
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise WebhookAddressRefused("a webhook's URL begins with https://")
    if parts.scheme == "http" and not allow_private:
        raise WebhookAddressRefused(
            "a webhook's URL begins with https://, because deliveries are confidential"
        )
    if parts.username is not None or parts.password is not None:
        raise WebhookAddressRefused("a webhook's URL holds no user or password: deliveries are signed")
    return parts
