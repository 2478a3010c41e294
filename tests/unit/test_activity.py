"""
Estimates of how many requests were accepted in a time, from a sample of each part of it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processor.ids import first_id_at
from processor.reading import activity

NOW = datetime(2026, 11, 22, 4, tzinfo=UTC)


class Connection:
    """Answers the sample as PostgreSQL does, from requests at these times, of which every fourth is rejected."""

    def __init__(self, times: list[datetime]) -> None:
        self.ids = [first_id_at(moment) for moment in sorted(times)]

    def execute(self, _statement: str, given: dict[str, Any]) -> Connection:
        """Read the first ids of each part."""
        self.rows = []
        for place, (lower, upper) in enumerate(zip(given["lowers"], given["uppers"], strict=True), 1):
            found = [(n, one) for n, one in enumerate(self.ids) if lower <= one < upper][: given["limit"]]
            for status, chosen in (
                ("rejected", [one for n, one in found if n % 4 == 0]),
                ("completed", [one for n, one in found if n % 4]),
            ):
                if chosen:
                    self.rows.append((place, status, len(chosen), str(max(chosen))))
        return self

    def fetchall(self) -> list[Any]:
        """Return the rows."""
        return self.rows


@pytest.mark.parametrize(("count", "is_estimated"), [(0, False), (40, False), (40_000, True)])
def test_few_requests_are_counted_and_many_are_estimated(count: int, is_estimated: bool) -> None:
    """
    An even stream of requests is estimated within 5 %, and its shares of the statuses within 5 %.
    """
    times = [NOW - timedelta(minutes=60) * (n + 0.5) / count for n in range(count)]

    hour = activity.read_activity(Connection(times), NOW)[0]  # type: ignore[arg-type]

    assert hour.is_estimated == is_estimated
    assert hour.accepted == pytest.approx(count, rel=0.05 if is_estimated else 0)
    assert hour.by_status.get("rejected", 0) == pytest.approx(count / 4, rel=0.05 if is_estimated else 0)
    assert hour.per_second == pytest.approx(count / 3_600, rel=0.05 if is_estimated else 0)
