"""
The time of checking input grows with its size, and not with the square of its size.

A test compares the CPU time of an input with that of one four times as large. Linear work takes 4 times as long, and
quadratic work 16 times. The bound of 8 is between them. Other processes cost no CPU time of this thread, and each
figure is the least of several runs.
"""

from __future__ import annotations

import contextlib
import gc
import io
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from api.app import ROUTES
from api.console import security
from api.console.pages import local_path, read_fields
from api.web import fields, forms, idempotency, long_poll, parsing
from processor.clients import keys
from processor.errors import TellerError
from processor.gateways import addresses, signatures
from processor.intake import intake
from processor.records import pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Sent = TypeVar("Sent")

#: The ratio of the two times that is still accepted.
GROWTH_MAX = 8
RUNS = 3
ATTEMPTS = 5


@pytest.fixture(autouse=True)
def _no_garbage_collector() -> Iterator[None]:
    """Keep the collector out of the figures, because its time depends on all objects of the process."""
    gc.disable()
    yield
    gc.enable()


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of several runs. An error of Teller is a result like any other."""
    seconds = []
    for _ in range(RUNS):
        began = time.thread_time()
        with contextlib.suppress(TellerError):
            work()
        seconds.append(time.thread_time() - began)
    return min(seconds)


def assert_linear(work: Callable[[Sent], object], make: Callable[[int], Sent], size: int) -> None:
    """Assert that an input of four times the size takes less than GROWTH_MAX times as long."""
    small, large = make(size), make(4 * size)
    growths = []
    for _ in range(ATTEMPTS):
        growths.append(_cpu_seconds(lambda: work(large)) / _cpu_seconds(lambda: work(small)))
        if growths[-1] < GROWTH_MAX:
            return
    pytest.fail(f"four times the size takes {min(growths):.1f} times as long")


def _names(size: int) -> bytes:
    return b",".join(b'"%07x":0' % number for number in range(size // 12))


def _filled(unit: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: before + unit * (size // len(unit)) + after


BODIES = {
    "many names": lambda size: b"{" + _names(size) + b"}",
    "the last name twice": lambda size: b"{" + _names(size) + b',"x":1,"x":2}',
    "all names twice": lambda size: b"{" + _names(size // 2) + b"," + _names(size // 2) + b"}",
    "a name twice in each object": _filled(b'{"a":0,"a":0},', b"[", b"0]"),
    "numbers and one escape": _filled(b"1,", b'["\\u00e9",', b"1]"),
    "numbers and a lone surrogate": _filled(b"1,", b"[", b'"\\ud800"]'),
    "escapes": _filled(b"\\u00e9", b'["', b'"]'),
    "high surrogates": _filled(b"\\ud800", b'["', b'"]'),
    "pairs": _filled(b"\\ud83d\\ude00", b'["', b'"]'),
    "backslashes": _filled(b"\\\\", b'["\\u00e9', b'"]'),
    "quotes in a string without an end": _filled(b'\\"', b"[" * 40 + b'"'),
    "strings": _filled(b'"",', b'["\\u00e9",' + b"[]," * 40, b'""]'),
    "lists": _filled(b"[],", b"[", b"[]]"),
    "deep lists": _filled(b"[" * 31 + b"]" * 31 + b",", b"[", b"[]]"),
    "lists that are too deep": _filled(b"[" * 33 + b"]" * 33 + b",", b"[", b"[]]"),
    "opening brackets": _filled(b"["),
    "brackets": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "digits": _filled(b"9"),
    "digits of a fraction": _filled(b"9", b"0."),
    "digits of an exponent": _filled(b"9", b"1e-"),
    "long whole numbers": _filled(b"9" * 308 + b",", b"[", b"9]"),
    "spaces": _filled(b" "),
    "lines": _filled(b"\n"),
}


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_a_body_is_parsed_in_linear_time(make: Callable[[int], bytes]) -> None:
    """
    No body of a mebibyte costs more than its size, whatever it holds.
    """
    assert_linear(lambda raw: parsing.parse_json(raw, values_max=None), make, 64 * 1024)


#: The bodies of routes, with a part that grows. The part of an object that is checked first is right.
REDEMPTION = {"resource": "sneaker", "account": "u_42"}
DOCUMENTS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "unknown names": ("/v1/redemptions", lambda size: {f"{number:x}": 0 for number in range(size // 8)}),
    "a long id": ("/v1/redemptions", lambda size: REDEMPTION | {"resource": "a" * size}),
    "large metadata": ("/v1/redemptions", lambda size: REDEMPTION | {"metadata": {"x": [1] * (size // 2)}}),
    "a time of many digits": (
        "/v1/redemptions",
        lambda size: REDEMPTION | {"apply_before": "2026-11-21T23:15:00." + "1" * size},
    ),
    "many events": ("/v1/webhooks", lambda size: {"url": "https://a.example", "events": ["x"] * (size // 4)}),
    "a long address": ("/v1/webhooks", lambda size: {"url": "https://" + "a." * (size // 2)}),
    "a long mailbox": ("/v1/accounts/<account>", lambda size: {"email": "a." * (size // 2) + "@"}),
    "a long destination": ("/v1/codes", lambda size: {"destination": "a." * (size // 2) + "@"}),
    "many items": ("/v1/batches", lambda size: {"requests": [1] * (size // 2)}),
    "an order of many names": ("/sandbox/gateway", lambda size: {f"{n:x}": 0 for n in range(size // 8)}),
}


@pytest.mark.parametrize(("path", "make"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_body_is_checked_in_linear_time(path: str, make: Callable[[int], Any]) -> None:
    """
    The models name at most a few mistakes, and stop at the limit of each field.
    """
    [model] = [route.body for route in ROUTES if route.path == path and route.body is not None]
    assert_linear(lambda sent: parsing.validate(model, sent), make, 64 * 1024)


#: The readers of headers, queries and forms, with a text that fits none of them.
TEXTS: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "a key": (keys.looks_like_key, lambda size: "teller_" + "a" * size),
    "an idempotency key": (idempotency.read_key, lambda size: "a" * size),
    "a quoted idempotency key": (idempotency.read_key, lambda size: '"' + '\\"' * (size // 2)),
    "preferences": (long_poll.read_preference, lambda size: "wait=," * (size // 6)),
    "a preference of spaces": (long_poll.read_preference, lambda size: "wait" + " " * size),
    "a preference of quotes": (long_poll.read_preference, lambda size: "wait=1" + ' "' * (size // 2)),
    "query parameters": (parsing.split_query, lambda size: "a=1&" * (size // 4)),
    "an escaped query parameter": (parsing.split_query, lambda size: "a=" + "%c3%a9" * (size // 6)),
    "a field of surrogates": (
        lambda text: read_fields(fields.NoQuery, {"a": [text]}),
        lambda size: "a" * size + "\ud800",
    ),
    "a form": (
        lambda text: forms.read_form(
            {"CONTENT_TYPE": "application/x-www-form-urlencoded", "wsgi.input": io.BytesIO(text.encode())}
        ),
        lambda size: "a=" + "%41" * (size // 3),
    ),
    "an origin": (lambda text: forms.refuse_foreign({"HTTP_ORIGIN": text}), lambda size: "://" * (size // 3)),
    "cookies": (lambda text: security.read_notice({"HTTP_COOKIE": text}, "x"), lambda size: ";" * size),
    "a cookie of spaces": (
        lambda text: security.read_notice({"HTTP_COOKIE": text}, "x"),
        lambda size: ";" + " " * size,
    ),
    "a path": (local_path, lambda size: "/admin" + "/" * size),
    "a cursor": (lambda text: pages.read_cursor(text, str), lambda size: "W1tb" * (size // 4)),
    "a cursor of digits": (lambda text: pages.read_cursor(text, int), lambda size: "OTk5" * (size // 4)),
    "a web address": (
        lambda text: addresses.check_form(text, allow_private=False),
        lambda size: "https://" + "[" * size,
    ),
    "a network address": (addresses.is_public, lambda size: "1." * (size // 2)),
}


@pytest.mark.parametrize(("read", "make"), TEXTS.values(), ids=TEXTS)
def test_a_text_is_read_in_linear_time(read: Callable[[str], object], make: Callable[[int], str]) -> None:
    """
    No header, query, form, cookie or cursor costs more than its size, even beyond the size that the server takes.
    """
    assert_linear(read, make, 256 * 1024)


def test_a_signature_is_checked_in_linear_time() -> None:
    """
    Neither a long body nor many signatures cost more than their size.
    """

    def check(text: str) -> bool:
        return signatures.is_signed("id", "1000", text.encode(), text, b"key", 1000)

    assert_linear(check, lambda size: "v1,a " * (size // 5), 256 * 1024)


def test_a_fingerprint_is_made_in_linear_time() -> None:
    """
    The canonical form sorts the names, and is otherwise a copy.
    """
    assert_linear(
        lambda body: intake.fingerprint("redemption", body),
        lambda size: {f"{(number * 7919) % size:x}": [0] for number in range(size // 8)},
        256 * 1024,
    )


def test_every_list_and_text_of_a_body_has_a_limit() -> None:
    """
    Each list of a body has a greatest length. Each text has a greatest length, a pattern or a set of values.
    """
    checked = 0
    for route in ROUTES:
        if route.body is None or route.path == "/sandbox/gateway":  # its orders are signed
            continue
        for schema in _schemas(route.body.model_json_schema()):
            if schema.get("type") == "array":
                assert "maxItems" in schema, (route.path, schema)
                checked += 1
            if schema.get("type") == "string":
                limits = {"maxLength", "pattern", "format", "enum", "const"}
                assert limits & set(schema), (route.path, schema)
                checked += 1
    assert checked > 30


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Return every schema inside a schema."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _schemas(inner)
