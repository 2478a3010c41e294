"""
The console's figures and pictures: rates from counters, charts, and the format of values.
"""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.console import charts, formats
from api.console.rates import FRESH_SECONDS, GAP_SECONDS, WINDOW_SECONDS, Rates, Sample, rates_of
from processor.reading.overview import Badges, PartitionSummary, Pulse
from processor.reading.requests import Gauges

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 11, 22, 4, tzinfo=UTC)


def pulse(seconds: float, *, decided: int, undecided: int) -> Pulse:
    """Return a reading of one partition, `seconds` after the start."""
    partition = PartitionSummary(
        0, decided, "host", 1, True, undecided, undecided, 1.0 if undecided else None, False
    )
    return Pulse(
        START + timedelta(seconds=seconds), [partition], Gauges(0, 0, 0, {}), 0, Badges(0, 0), [], [], 0
    )


class Database:
    """Returns the pulse that the test has set, and counts the readings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = pulse(0, decided=0, undecided=0)
        self.read = 0
        monkeypatch.setattr("api.console.rates.overview_queries.read_pulse", self._read)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Any]:
        """Yield no connection, because none is used."""
        yield None

    def _read(self, _connection: object) -> Pulse:
        self.read += 1
        return self.next


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """
    A database with readings that the test sets.
    """
    return Database(monkeypatch)


def test_rates_are_differences_of_counters() -> None:
    """
    A rate is the difference per second between two readings. A counter that went back counts as zero.
    """
    samples = [
        Sample(0.0, 100, 90, 10, 1.0, 0, 0),
        Sample(2.0, 300, 250, 50, 1.0, 0, 0),
        Sample(6.0, 300, 300, 0, 0.0, 0, 0),
        Sample(7.0, 0, 0, 0, 0.0, 0, 0),
    ]
    assert [(rate.accepted, rate.decided) for rate in rates_of(samples)] == [(100, 80), (0, 12.5), (0, 0)]
    assert rates_of(samples[:1]) == []


def test_simultaneous_readers_share_one_query(database: Database) -> None:
    """
    Several readers at one moment share one query. A later reader gets a new one.
    """
    rates = Rates()
    for now in (0.0, 0.1, FRESH_SECONDS / 2):
        rates.look(database.lend, now)
    assert database.read == 1
    database.next = pulse(2, decided=5, undecided=1)
    _, samples = rates.look(database.lend, 2.0)

    assert database.read == 2
    assert [(one.accepted, one.decided, one.waiting) for one in samples] == [(0, 0, 0), (6, 5, 1)]


def test_after_a_gap_the_charts_start_again(database: Database) -> None:
    """
    Without readers there are no samples, so the charts draw no line across the gap.
    """
    rates = Rates()
    rates.look(database.lend, 0.0)
    database.next = pulse(GAP_SECONDS + 1, decided=5, undecided=0)
    _, samples = rates.look(database.lend, GAP_SECONDS + 1)

    assert [one.decided for one in samples] == [5]


def test_the_samples_have_a_limit(database: Database) -> None:
    """
    Only the window of the charts is remembered, however long a reader stays.
    """
    rates = Rates()
    samples: list[Sample] = []
    for second in range(0, WINDOW_SECONDS * 3, 2):
        database.next = pulse(second, decided=second, undecided=0)
        _, samples = rates.look(database.lend, float(second))

    assert samples[-1].at - samples[0].at == WINDOW_SECONDS
    assert len(samples) == WINDOW_SECONDS // 2 + 1


@pytest.mark.parametrize(
    "drawn",
    [
        charts.area("t", "d", [], (0, 10)),
        charts.area("t", "d", [(1, 5)], (0, 10)),
        charts.area("t", "d", [(1, 5), (9, 0)], (0, 10)),
        charts.steps("t", "d", [("first", [0])]),
        charts.steps("t", "d", [("first", [-5, -7]), ("second", [3, 2])]),
        charts.steps("t", "d", [("first", [2**53, 0])]),
        charts.bars("t", "d", []),
        charts.bars("t", "d", [1, 0, 7]),
    ],
)
def test_charts_are_pictures_with_words(drawn: str) -> None:
    """
    A chart is well-formed, named, described and within its frame, without a style of its own, even if it is
    empty.
    """
    picture = ET.fromstring(drawn)  # noqa: S314 - our own
    assert picture.attrib["role"] == "img"
    assert picture.attrib["aria-label"] == "t: d"
    assert [child.text for child in picture][:2] == ["t", "d"]
    numbers = [
        float(number)
        for shape in picture.iter()
        for name in ("points", "x", "y", "x1", "x2", "y1", "y2", "width", "height")
        for number in shape.attrib.get(name, "").replace(",", " ").split()
    ]
    assert all(0 <= number <= charts.WIDTH for number in numbers)
    assert "style" not in drawn


def test_titles_of_charts_are_text() -> None:
    """
    Titles are escaped, because a name may contain any character.
    """
    drawn = charts.bars('<b>"', "<script>", [1])
    assert "<b>" not in drawn
    assert "<script>" not in drawn


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0.034, "34 ms", "34 ms"),
        (0, "0 ms", "0 ms"),
        (-0.2, "0 ms", "0 ms"),
        (2.14, "2.1 s", "2.1 s"),
        (59.6, "60 s", "60 s"),
        (61, "1 min 01 s", "1 min"),
        (3_700, "1 h 01 min", "1 h"),
        (200_000, "2 d 7 h", "2 d"),
    ],
)
def test_ages_are_shown_in_their_largest_units(seconds: float, long: str, short: str) -> None:
    """
    An age has at most two units, or one where there is little room.
    """
    assert (formats.age(seconds), formats.brief(seconds)) == (long, short)


def test_counts_at_their_limit_are_marked() -> None:
    """
    The number ends with a plus at its limit, and without one below it.
    """
    assert formats.bounded(10_000) == "10,000+"
    assert formats.bounded(9_999) == "9,999"
    assert formats.bounded(100, 100) == "100+"
    assert formats.number(-1234567) == "\N{MINUS SIGN}1,234,567"
    assert formats.number(None) == formats.rate(None) == formats.age(None) == "\N{EN DASH}"
    assert [formats.rate(value) for value in (0, 0.5, 9.94, 10.4, 12345.6)] == [
        "0",
        "0.5",
        "9.9",
        "10",
        "12,346",
    ]
