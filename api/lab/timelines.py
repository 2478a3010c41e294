"""
The places of the steps in the drawing of a race: a row for each user, with time from left to right.

Pure. Widths are percentages of the available width. Heights are pixels, so that text keeps its size on any screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.outcomes import Outcome, Step, UserResult

#: The space above the rows for labels, and below them for times.
HEAD_PIXELS: Final = 22
FOOT_PIXELS: Final = 22
#: The height of a row, and of a row when there are few users.
ROW_PIXELS: Final = 13
ROW_PIXELS_FEW: Final = 26
FEW: Final = 12
#: The free space to the right of the last step.
MARGIN_PERCENT: Final = 2.0
#: The width of a step, so that it is visible.
WIDTH_PERCENT_MIN: Final = 0.7
#: The distance of two ticks of the axis.
TICK_PERCENT_MIN: Final = 18.0
#: Decisions that are further apart belong to different batches.
BATCH_GAP_MS: Final = 0.5
#: The marked batches. More marks would cover the drawing.
BATCHES_MAX: Final = 6
#: The width of a label.
LABEL_PERCENT: Final = 30.0

#: Steps in which a user only waits. They are lines instead of bars.
WAITING: Final = frozenset({"wait", "queue", "pause"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A step."""

    name: str
    left: float
    width: float
    waiting: bool
    #: The tooltip.
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """The row of one user."""

    result: UserResult
    top: int
    bars: list[Bar]
    end: float
    #: Whether it read the same quantity as others, and took a piece, too.
    raced: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A line through all rows at one moment."""

    left: float
    label: str
    #: The side of the label: `start` is to the right of the line, `end` to the left.
    anchor: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The drawing of a race, for the template."""

    rows: list[Row]
    row_pixels: int
    height: int
    ticks: list[tuple[float, str]]
    #: The moment of the race in percent. Until then all users in the race had read.
    danger: float | None
    marks: list[Mark]


def draw(outcome: Outcome) -> Drawing:
    """Draw a race, with the first users at the top."""
    longest = max(outcome.duration_ms, 0.001)
    moment = outcome.moment()
    raced = set(moment.readers) if moment else set()
    pixels = ROW_PIXELS_FEW if outcome.users <= FEW else ROW_PIXELS

    def at(ms: float) -> float:
        return round(ms / longest * (100 - MARGIN_PERCENT), 2)

    rows = [
        Row(
            result,
            HEAD_PIXELS + number * pixels,
            [_bar(step, result, at(step.start_ms), at(step.end_ms)) for step in result.steps],
            at(result.steps[-1].end_ms) if result.steps else 0.0,
            result.user in raced,
        )
        for number, result in enumerate(sorted(outcome.results, key=_turn))
    ]
    marks = []
    if moment:
        marks.append(_mark(at(moment.written_ms), "the first has written"))
    labelled_at = -LABEL_PERCENT
    for ms, decided in _batches(outcome):
        has_room = decided > 1 and at(ms) - labelled_at >= LABEL_PERCENT
        labelled_at = at(ms) if has_room else labelled_at
        marks.append(_mark(at(ms), f"batch of {decided}" if has_room else ""))
    return Drawing(
        rows,
        pixels,
        HEAD_PIXELS + len(rows) * pixels + FOOT_PIXELS,
        [(at(ms), f"{ms:g} ms") for ms in _ticks(longest)],
        at(moment.written_ms) if moment else None,
        marks,
    )


def _turn(result: UserResult) -> tuple[float, float]:
    """Return the sort key of a user: the number of its decision, or the end of its first step."""
    if result.sequence is not None:
        return result.sequence, 0.0
    return 0.0, result.steps[0].end_ms if result.steps else float("inf")


def _bar(step: Step, result: UserResult, left: float, right: float) -> Bar:
    seen = f", saw {result.seen}" if step.name == "read" and result.seen is not None else ""
    title = f"user {result.user}: {step.name}{seen}, {step.start_ms:.1f} to {step.end_ms:.1f} ms"
    return Bar(step.name, left, max(round(right - left, 2), WIDTH_PERCENT_MIN), step.name in WAITING, title)


def _mark(left: float, label: str) -> Mark:
    return Mark(left, label, "start" if left < 50 else "end")  # noqa: PLR2004 - where there is more room


def _batches(outcome: Outcome) -> Sequence[tuple[float, int]]:
    """Return the times and sizes of Teller's batches, or nothing if they are too many to be drawn."""
    ends = sorted(step.end_ms for result in outcome.results if (step := result.step("queue")))
    batches: list[list[float]] = []
    for end in ends:
        if batches and end - batches[-1][-1] <= BATCH_GAP_MS:
            batches[-1].append(end)
        else:
            batches.append([end])
    return [(batch[-1], len(batch)) for batch in batches] if len(batches) <= BATCHES_MAX else []


def _ticks(longest: float) -> list[float]:
    """Return round times that are far enough apart."""
    step = 0.1
    while step / longest * 100 < TICK_PERCENT_MIN:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    return [round(number * step, 3) for number in range(int(longest / step) + 1)]
