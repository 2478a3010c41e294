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
from processor.gateways.http import answer_of, outcome_of
from processor.gateways.protocol import TEXT_CHARACTERS_MAX, Answer, storable
from processor.outbox import gateway_calls
from processor.settings import Settings


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ((200, 201, 202, 204, 299), "done"),
        ((400, 402, 422), "declined"),
        ((401, 403, 404, 405, 410, *range(300, 400)), "misconfigured"),
        (
            (100, 101, 199, 406, 408, 409, 411, 418, 425, 429, 451, 499, 500, 502, 503, 504, 599, 600, 999),
            "unknown",
        ),
    ],
)
def test_each_status_has_its_outcome(statuses: tuple[int, ...], outcome: str) -> None:
    """
    Each status of the protocol has its outcome. Every other status is unknown.
    """
    assert {status: outcome_of(status) for status in statuses} == dict.fromkeys(statuses, outcome)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b'"T-1"', "T-1"),
        (b"12345", "12345"),
        (b"-0", "-0"),
        (b"1.50", "1.50"),
        (b"1e400", "1e400"),
        (b"9007199254740993", "9007199254740993"),
        (b"1" * 5_000, "1" * TEXT_CHARACTERS_MAX),
        (b'"' + b"x" * 60_000 + b'"', "x" * TEXT_CHARACTERS_MAX),
        (b'"  a\\n\\u0000\\u001b[31mb\\ud800  "', "a[31mb"),
        (b'"T-\xfc"', "T-\N{REPLACEMENT CHARACTER}"),
        ('"über ✓"'.encode(), "über ✓"),
        ('"über"'.encode("utf-16-le"), None),  # the object around it is in another encoding
        (b'""', None),
        (b'" \\t "', None),
        (b"true", None),
        (b"null", None),
        (b"NaN", None),
        (b"-Infinity", None),
        (b'{"a": 1}', None),
        (b"[1]", None),
        (b'"broken', None),
        (b"[" * 60_000, None),
    ],
)
def test_a_reference_or_reason_is_the_text_or_number_that_was_sent(value: bytes, kept: str | None) -> None:
    """
    Text loses what is not printable, numbers keep their digits, and any other value counts as none.
    """
    assert answer_of(201, b'{"reference": %b}' % value) == Answer("done", 201, reference=kept)
    assert answer_of(422, b'{"reason": %b}' % value) == Answer("declined", 422, reason=kept)
    assert answer_of(503, b'{"reason": %b}' % value) == Answer("unknown", 503, reason="answered 503")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"T-1"', b"12", b"OK", b"\xff\xfe", b"\xef\xbb\xbf"])
def test_a_body_that_is_no_object_has_neither(body: bytes) -> None:
    """
    The status alone counts.
    """
    assert answer_of(200, body) == Answer("done", 200)
    assert answer_of(400, body) == Answer("declined", 400)


def test_a_body_may_be_in_each_encoding_of_json() -> None:
    """
    A mark of the byte order is no part of the JSON.
    """
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-be"):
        assert answer_of(200, '{"reference": "ü"}'.encode(encoding)).reference == "ü"


def test_what_a_gateway_of_ones_own_returns_can_be_stored() -> None:
    """
    Values of other types and text that PostgreSQL refuses would cost the results of other calls.
    """
    answer = Answer("done", 99_999, 12_345, "a\0b\ud800", "x" * 1_000)  # type: ignore[arg-type]

    assert storable(answer) == Answer("done", None, "12345", "ab", "x" * TEXT_CHARACTERS_MAX)
    assert storable(Answer("unknown", reference=10**5_000)) == Answer("unknown")  # type: ignore[arg-type]
    for wrong in (None, "done", Answer("paid")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="known outcome"):
            storable(wrong)


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
