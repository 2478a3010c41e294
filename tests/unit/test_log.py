"""
The log: one JSON object a line without a terminal, and no secrets in it.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from processor import log

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Configure the log for one test. Yields a function that returns the lines on standard error."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log.configure()
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)


def test_a_line_has_its_event_its_facts_and_the_time_in_utc(lines: Lines) -> None:
    """
    One unit of work is one line, together with the values bound around it.
    """
    with structlog.contextvars.bound_contextvars(request="r1"):
        structlog.get_logger().info("batch_applied", partition=7, taken=412)

    [line] = lines()
    assert (line["event"], line["partition"], line["taken"], line["request"]) == (
        "batch_applied",
        7,
        412,
        "r1",
    )
    assert line["timestamp"].endswith("Z")


def test_libraries_log_the_same_way(lines: Lines) -> None:
    """
    Lines of the standard logging module become JSON lines, too.
    """
    logging.getLogger("granian").warning("%s workers", 2)

    [line] = lines()
    assert (line["event"], line["logger"], line["level"]) == ("2 workers", "granian", "warning")


@pytest.mark.parametrize(
    "facts",
    [
        {"password": "hidden"},
        {"gateway_secret": "hidden"},
        {"authorization": "hidden"},
        {"url": "postgresql://teller:hidden@db/teller"},
        {"header": "Bearer hidden"},
        {"note": "rotated to whsec_hidden"},
        {"note": "made teller_hidden" + "x" * 37},
    ],
)
def test_secrets_are_masked(facts: dict[str, str], lines: Lines) -> None:
    """
    Secrets are found by their name or by their form, also in exceptions.
    """
    try:
        raise ValueError(next(iter(facts.values())) if "url" in facts else "postgresql://teller:hidden@db")
    except ValueError:
        structlog.get_logger().exception("failed", **facts)

    [line] = lines()
    assert "hidden" not in json.dumps(line)
    assert log.MASK in json.dumps(line)


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    """
    Debug lines are not written.
    """
    structlog.get_logger().debug("detail")

    assert lines() == []
