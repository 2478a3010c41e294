"""
The formats of values on pages: quantities, times, ages, and the tone of each state.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from processor.domain.amounts import NO_UNIT, format_amount
from processor.reading.requests import GAUGE_MAX
from processor.visible import escaped_json, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.domain.amounts import Unit

#: The text in place of no value.
NONE: Final = "\N{EN DASH}"
#: The characters of a unit beside an amount. The page of the resource has the whole unit.
UNIT_CHARACTERS_MAX: Final = 16
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400

#: State → the class of its badge. Each class has its own colour and shape.
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
    """
    Return a number with separators, such as 1,234,567. Returns NONE for None.
    """
    return NONE if value is None else f"{value:,}".replace("-", "\N{MINUS SIGN}")


def amount(value: int | None, unit: Unit | None = None) -> str:
    """
    Return an amount with its unit, such as 250.00 EUR. Returns NONE for None.
    """
    if value is None:
        return NONE
    name = unit and unit.name
    if name:
        short = name if len(name) <= UNIT_CHARACTERS_MAX else f"{name[: UNIT_CHARACTERS_MAX - 1]}…"
        name = visible(short)  # by itself, so that it does not move the digits
    return escape(format_amount(value, (unit or NO_UNIT)._replace(name=name)))


def bare_amount(value: int, unit: Unit) -> str:
    """
    Return an amount without the name of its unit, where that stands beside it.
    """
    return format_amount(value, unit._replace(name=None))


def rate(value: float | None) -> str:
    """
    Return a rate per second, with one decimal below 10.
    """
    if value is None:
        return NONE
    return f"{value:,.1f}" if 0 < value < 10 else f"{value:,.0f}"  # noqa: PLR2004 - two digits are enough


def age(seconds: float | None) -> str:
    """
    Return a duration in its one or two largest units.
    """
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
    """
    Return a duration in its largest unit alone.
    """
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return age(seconds)


def ago(moment: datetime) -> str:
    """
    Return the distance of a time from now, such as "3.0 s ago" or "in 3.0 s".
    """
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {age(-seconds)}" if seconds < 0 else f"{age(seconds)} ago"


def clock(moment: datetime) -> str:
    """
    Return a time in UTC, with the day if it is not today, and with the year if it is not this year.
    """
    moment, now = moment.astimezone(UTC), datetime.now(UTC)
    if moment.date() == now.date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%d %b %H:%M:%S" if moment.year == now.year else "%d %b %Y %H:%M")


def exact(moment: datetime) -> str:
    """
    Return a time in UTC, with its date and microseconds.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def stamp(moment: datetime) -> str:
    """
    Return a time as RFC 3339, for machines.
    """
    return moment.astimezone(UTC).isoformat()


def words(code: str | None) -> str:
    """
    Return a code as words, such as "awaiting approval".
    """
    return (code or "").replace("_", " ")


def tone(state: str) -> str:
    """
    Return the class of a state's badge.
    """
    return TONES.get(state, "quiet")


def bounded(count: int, most: int = GAUGE_MAX) -> str:
    """
    Return a count, with a plus if it has reached the limit of counting, such as "10,000+".
    """
    return f"{number(most)}+" if count >= most else number(count)


def pretty(value: Any) -> str:
    """
    Return a value as indented JSON.
    """
    return escaped_json(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def shown(value: Any) -> Any:
    """
    Return a value as pages show it: text of clients and gateways with its invisible characters made visible.
    """
    return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def typed(value: Any) -> Markup:
    """
    Return a value as a field of a form holds it, unchanged, so that it is sent back as it was.
    """
    return escape(value)


FILTERS: Final[dict[str, Callable[..., str]]] = {
    "number": number,
    "amount": amount,
    "bare_amount": bare_amount,
    "rate": rate,
    "age": age,
    "ago": ago,
    "brief": brief,
    "clock": clock,
    "exact": exact,
    "stamp": stamp,
    "words": words,
    "tone": tone,
    "typed": typed,
    "bounded": bounded,
    "pretty": pretty,
}
