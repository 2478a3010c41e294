"""
The time of checking input grows with its size, and not with the square of its size.

A test compares the CPU time of an input with that of one four times as large. Linear work takes 4 times as long, and
quadratic work 16 times. The bound of 8 is between them. Other processes cost no CPU time of this thread, and each
figure is the least of several runs.
"""

from __future__ import annotations

import contextlib
import gc
import time
from typing import TYPE_CHECKING

import pytest

from api.web import parsing
from processor.errors import TellerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def assert_linear(work: Callable[[bytes], object], make: Callable[[int], bytes], size: int) -> None:
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
    assert_linear(parsing.parse_json, make, 64 * 1024)
