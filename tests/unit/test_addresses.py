"""
Webhook addresses lead to the public internet, and never to a private network.
"""

from __future__ import annotations

import socket

import pytest

from processor.gateways import addresses
from processor.gateways.addresses import WebhookAddressRefused

PUBLIC = (
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.0",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82f::200e",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
)
PRIVATE = (
    "0.0.0.0",  # noqa: S104 - only looked at
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:101:101::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    """
    The neighbours of every private range are public, too.
    """
    assert addresses.is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_inside_address_is_not_public(address: str) -> None:
    """
    The address may be plain, inside an IPv6 address, or with a zone.
    """
    assert not addresses.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://api.localhost/",
        "https://metadata.google.internal/",
        "https://printer.local:8443/",
        "https://router.home.arpa/",
        "http://1.1.1.1/",
        "ftp://1.1.1.1/",
        "https:///path",
        "https://",
        "//1.1.1.1/",
        "https://1.1.1.1:0/",
        "https://1.1.1.1:99999/",
        "https://user:password@1.1.1.1/",
        "https://user@1.1.1.1/",
        "https://1.1.1.1\\@127.0.0.1/",
        "https://1.1.1.1/ 2",
        "https://1.1.1.1/\n",
        "https://[1.1.1.1/",
        "https://1.1.1.1/" + "a" * 2048,
        "",
    ],
)
def test_a_webhook_that_leads_inside_is_refused(url: str) -> None:
    """
    Registration refuses every URL that is not https to a public address.
    """
    with pytest.raises(WebhookAddressRefused):
        addresses.check_webhook(url, allow_private=False)


@pytest.mark.parametrize("url", ["https://1.1.1.1/hook", "https://[2606:4700::1111]:8443/hook?a=b"])
def test_a_webhook_that_leads_outside_is_taken(url: str) -> None:
    """
    Any port and any path are allowed.
    """
    addresses.check_webhook(url, allow_private=False)


@pytest.mark.parametrize("found", [["10.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["2606:4700::1111", "::1"]])
def test_a_name_with_any_inside_address_is_refused(found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One private address of a name is enough, whatever the others are.
    """
    _resolve_to(found, monkeypatch)

    with pytest.raises(WebhookAddressRefused):
        addresses.check_webhook("https://hooks.example.com/", allow_private=False)


def test_a_name_that_does_not_resolve_is_refused_like_one_of_this_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Both are refused in the same words, so that a registration does not show which names the network has.
    """

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(WebhookAddressRefused) as unknown:
        addresses.check_webhook("https://hooks.example.com/", allow_private=False)
    _resolve_to(["10.1.2.3"], monkeypatch)
    with pytest.raises(WebhookAddressRefused) as inside:
        addresses.check_webhook("https://hooks.example.com/", allow_private=False)

    assert str(unknown.value) == str(inside.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "https://10.0.0.1/", "http://localhost/hook"])
def test_private_webhooks_can_be_allowed(url: str) -> None:
    """
    TELLER_ALLOW_PRIVATE_WEBHOOKS allows private addresses and plain http. Other schemes stay refused.
    """
    addresses.check_webhook(url, allow_private=True)
    with pytest.raises(WebhookAddressRefused):
        addresses.check_webhook("gopher://127.0.0.1/", allow_private=True)


def _resolve_to(found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
