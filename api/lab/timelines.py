"""
Where each step of a race is drawn: a lane for each user, time from left to right.

Pure. Widths are percentages of the place that there is, heights are pixels: text keeps its size on any screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.outcomes import Outcome, Step, UserResult

#: Above the lanes, for what is said about a moment; below them, for the times. In pixels.
HEAD_PIXELS: Final = 22
FOOT_PIXELS: Final = 22
#: Few users have higher lanes.
LANE_PIXELS: Final = 13
LANE_PIXELS_FEW: Final = 26
FEW: Final = 12
#: What is left free to the right of the last step, in percent.
MARGIN_PERCENT: Final = 2.0
#: A step is at least so wide, in percent, or it would not be seen.
WIDTH_PERCENT_MIN: Final = 0.7
#: Between two ticks of the axis there are at least so many percent.
TICK_PERCENT_MIN: Final = 18.0
#: Decisions that lie further apart were made by different batches, in milliseconds.
BATCH_GAP_MS: Final = 0.5
#: Not more batches than this are marked: they would hide what they are about.
BATCHES_MAX: Final = 6

#: What is said about a moment needs so much room, in percent.
WORDS_PERCENT: Final = 30.0

#: What is drawn as a line instead of a bar: nothing is done, somebody waits.
WAITING: Final = frozenset({"wait", "queue", "pause"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A step."""

    name: str
    left: float
    width: float
    waiting: bool
    #: For whoever points at it.
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One user's."""

    result: UserResult
    top: int
    bars: list[Bar]
    end: float
    #: Whether it read what the others read, and took it, too.
    raced: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that matters, as a line through all lanes."""

    left: float
    words: str
    #: Where the words stand: `start` to the right of the line, `end` to the left of it.
    anchor: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """All that the template needs to draw a race."""

    lanes: list[Lane]
    lane_pixels: int
    height: int
    ticks: list[tuple[float, str]]
    #: Until here everybody who raced had read: the moment of the race, in percent.
    danger: float | None
    marks: list[Mark]


def draw(outcome: Outcome) -> Drawing:
    """A race as it is drawn; those who got on first are above."""
    longest = max(outcome.duration_ms, 0.001)
    moment = outcome.moment()
    raced = set(moment.readers) if moment else set()
    pixels = LANE_PIXELS_FEW if outcome.users <= FEW else LANE_PIXELS

    def at(ms: float) -> float:
        return round(ms / longest * (100 - MARGIN_PERCENT), 2)

    lanes = [
        Lane(
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
    said_at = -WORDS_PERCENT
    for ms, decided in _batches(outcome):
        has_room = decided > 1 and at(ms) - said_at >= WORDS_PERCENT
        said_at = at(ms) if has_room else said_at
        marks.append(_mark(at(ms), f"batch of {decided}" if has_room else ""))
    return Drawing(
        lanes,
        pixels,
        HEAD_PIXELS + len(lanes) * pixels + FOOT_PIXELS,
        [(at(ms), f"{ms:g} ms") for ms in _ticks(longest)],
        at(moment.written_ms) if moment else None,
        marks,
    )


def _turn(result: UserResult) -> tuple[float, float]:
    """Whose turn it was: by the number of the decision, else by the end of the first step."""
    if result.sequence is not None:
        return result.sequence, 0.0
    return 0.0, result.steps[0].end_ms if result.steps else float("inf")


def _bar(step: Step, result: UserResult, left: float, right: float) -> Bar:
    seen = f", saw {result.seen}" if step.name == "read" and result.seen is not None else ""
    title = f"user {result.user}: {step.name}{seen}, {step.start_ms:.1f} to {step.end_ms:.1f} ms"
    return Bar(step.name, left, max(round(right - left, 2), WIDTH_PERCENT_MIN), step.name in WAITING, title)


def _mark(left: float, words: str) -> Mark:
    return Mark(left, words, "start" if left < 50 else "end")  # noqa: PLR2004 - where there is more room


def _batches(outcome: Outcome) -> Sequence[tuple[float, int]]:
    """When Teller decided, and how many at once; nothing when that was too often to be drawn."""
    ends = sorted(step.end_ms for result in outcome.results if (step := result.step("queue")))
    batches: list[list[float]] = []
    for end in ends:
        if batches and end - batches[-1][-1] <= BATCH_GAP_MS:
            batches[-1].append(end)
        else:
            batches.append([end])
    return [(batch[-1], len(batch)) for batch in batches] if len(batches) <= BATCHES_MAX else []


def _ticks(longest: float) -> list[float]:
    """Round times, not too close together."""
    step = 0.1
    while step / longest * 100 < TICK_PERCENT_MIN:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    return [round(number * step, 3) for number in range(int(longest / step) + 1)]
