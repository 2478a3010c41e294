"""
Gateways without a network: the meaning of answers, signatures, and retries.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from processor.errors import SettingsError
from processor.gateways import names as gateway_names
from processor.gateways import registry, signatures
from processor.gateways.http import outcome_of
from processor.outbox import gateway_calls
from processor.settings import Settings


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ((200, 201, 202, 204, 299), "done"),
        ((400, 402, 422), "declined"),
        ((401, 403, 404, 405, 410, 301, 302, 303, 307, 308), "misconfigured"),
        ((100, 300, 304, 406, 408, 409, 411, 418, 425, 429, 451, 499, 500, 502, 503, 504, 599), "unknown"),
    ],
)
def test_each_status_has_its_outcome(statuses: tuple[int, ...], outcome: str) -> None:
    """
    Each status of the protocol has its outcome. Every other status is unknown.
    """
    assert {status: outcome_of(status) for status in statuses} == dict.fromkeys(statuses, outcome)


def test_a_signature_is_verified_by_the_library_of_the_standard() -> None:
    """
    The old and the new secret both verify during a change, and no other does.
    """
    old, new, other = (signatures.new_secret() for _ in range(3))
    body = '{"type":"request.completed","data":{"metadata":{"ü":"✓"}}}'.encode()

    headers = signatures.headers("msg_1_2", int(time.time()), body, [new, old])

    for secret in (old, new):
        assert Webhook(signatures.written(secret)).verify(body, headers)["type"] == "request.completed"
    with pytest.raises(WebhookVerificationError):
        Webhook(signatures.written(other)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(signatures.written(new)).verify(body + b" ", headers)


def test_a_gateway_secret_signs_as_it_is_written() -> None:
    """
    The gateway verifies with TELLER_GATEWAY_SECRET as it is written. Without it, API and courier derive the
    same key.
    """
    written = signatures.written(b"k" * 32)

    assert signatures.gateway_key(written, "anything") == base64.b64decode(written.removeprefix("whsec_"))
    assert signatures.gateway_key("", "one") == signatures.gateway_key("", "one")
    assert signatures.gateway_key("", "one") != signatures.gateway_key("", "two")


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_the_pause_before_a_retry_is_anything_up_to_a_limit_that_doubles(tries: int) -> None:
    """
    Full jitter: among many pauses, some are short and some are close to the limit.
    """
    limit = 2.0 * 2 ** (tries - 1)

    pauses = [gateway_calls.pause_before_retry(tries, 2.0) for _ in range(1_000)]

    assert all(0 <= pause <= limit for pause in pauses)
    assert min(pauses) < limit * 0.1
    assert max(pauses) > limit * 0.9


def test_a_pause_has_a_limit() -> None:
    """
    Even the hundredth try waits for at most PAUSE_SECONDS_MAX.
    """
    assert gateway_calls.pause_before_retry(100, 2.0) <= gateway_calls.PAUSE_SECONDS_MAX


def test_two_gateways_of_one_name_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A name in both TELLER_GATEWAYS and an installed package would send money to one of two places.
    """

    class Point:
        name = "bank"

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Point()])

    with pytest.raises(SettingsError, match="bank"):
        gateway_names.names(_settings(TELLER_GATEWAYS="bank=https://bank.example/pay"))
    assert gateway_names.names(_settings()) == {"bank", "sandbox"}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123/sandbox/gateway"),
        ("0.0.0.0", "http://127.0.0.1:8123/sandbox/gateway"),  # noqa: S104
        ("::", "http://[::1]:8123/sandbox/gateway"),
        ("teller.example", "http://teller.example:8123/sandbox/gateway"),
    ],
)
def test_the_sandbox_is_where_the_api_listens(host: str, url: str) -> None:
    """
    The API's own host leads to the sandbox, even if the API listens on all addresses.
    """
    assert registry.sandbox_url(_settings(TELLER_HOST=host, TELLER_PORT="8123")) == url


def _settings(**environ: str) -> Settings:
    return Settings.from_environment({"TELLER_HOME": str(Path("/nowhere")), **environ})
