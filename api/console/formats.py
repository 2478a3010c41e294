"""
How values look: quantities, times, ages, and the shape that goes with each state.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from processor.reading.requests import GAUGE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

#: What stands where there is no value.
NONE: Final = "\N{EN DASH}"
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400

#: State → the class of its badge; each class has a colour and a shape of its own.
TONES: Final = {
    "processing": "busy",
    "completed": "good",
    "delivered": "good",
    "done": "good",
    "alive": "good",
    "open": "good",
    "active": "good",
    "rejected": "quiet",
    "cancelled": "quiet",
    "refunded": "quiet",
    "closed": "quiet",
    "revoked": "quiet",
    "expired": "quiet",
    "declined": "quiet",
    "disabled": "quiet",
    "pending": "busy",
    "queued": "busy",
    "held": "busy",
    "settling": "busy",
    "awaiting_confirmation": "wait",
    "awaiting_approval": "wait",
    "paused": "wait",
    "unknown": "wait",
    "failed": "bad",
    "misconfigured": "bad",
    "silent": "bad",
}


def number(value: float | None) -> str:
    """1234567 as 1,234,567; None as a dash."""
    return NONE if value is None else f"{value:,}".replace("-", "\N{MINUS SIGN}")


def rate(value: float | None) -> str:
    """So many a second: exact enough to be read."""
    if value is None:
        return NONE
    return f"{value:,.1f}" if 0 < value < 10 else f"{value:,.0f}"  # noqa: PLR2004 - two digits are enough


def age(seconds: float | None) -> str:
    """How long that is, in its largest unit or two."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - as above
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def brief(seconds: float) -> str:
    """How long that is, in its largest unit alone: for where there is little room."""
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return age(seconds)


def ago(moment: datetime) -> str:
    """How long ago, or in how long."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {age(-seconds)}" if seconds < 0 else f"{age(seconds)} ago"


def clock(moment: datetime) -> str:
    """The time of today; of other days, with the day; of other years, with the year. In UTC."""
    moment, now = moment.astimezone(UTC), datetime.now(UTC)
    if moment.date() == now.date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%d %b %H:%M:%S" if moment.year == now.year else "%d %b %Y %H:%M")


def exact(moment: datetime) -> str:
    """All of it, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def stamp(moment: datetime) -> str:
    """RFC 3339, for machines."""
    return moment.astimezone(UTC).isoformat()


def words(code: str | None) -> str:
    """`awaiting_approval` as words."""
    return (code or "").replace("_", " ")


def tone(state: str) -> str:
    """The class of a badge."""
    return TONES.get(state, "quiet")


def bounded(count: int, most: int = GAUGE_MAX) -> str:
    """A count that was made up to a limit, as such: 10,000+."""
    return f"{number(most)}+" if count >= most else number(count)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


FILTERS: Final[dict[str, Callable[..., str]]] = {
    "number": number,
    "rate": rate,
    "age": age,
    "ago": ago,
    "brief": brief,
    "clock": clock,
    "exact": exact,
    "stamp": stamp,
    "words": words,
    "tone": tone,
    "bounded": bounded,
    "pretty": pretty,
}
