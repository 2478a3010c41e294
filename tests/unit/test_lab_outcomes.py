"""
What came of a race, and where it is drawn: verdicts, the moment of the race, lanes, marks.
"""

from __future__ import annotations

import asyncio

import pytest

from api.lab import timelines
from lab import endpoint
from lab.endpoint import Call, Reply, Verdict
from lab.outcomes import Outcome, Step, UserResult


def user(number: int, approved: bool, seen: int | None, *times: float) -> UserResult:
    """Who read, wrote and committed at these times."""
    read, wrote, done = times
    steps = [Step("read", 0.0, read), Step("write", read, wrote), Step("commit", wrote, done)]
    return UserResult(number, approved, seen, steps)


#: Three read "1": two of them before the first had written, as it looked from outside, and the third one, too.
RACE = Outcome(
    "naive",
    1,
    3,
    0,
    [
        user(1, True, 1, 2.0, 3.0, 4.0),
        user(2, True, 1, 1.0, 5.0, 6.0),
        user(3, False, 0, 7.0, 7.0, 8.0),
        user(4, True, 1, 4.5, 9.0, 10.0),
    ],
)


@pytest.mark.parametrize(
    ("stock", "approved", "final", "race", "verdict"),
    [
        (1, 1, 0, False, "holds: 1 approved, 0 left"),
        (1, 2, 0, True, "RACE: 2 approved, there was 1"),
        (2, 4, -2, True, "RACE: 4 approved, there were 2"),
        (10, 10, 9, True, "RACE: 10 approved of 10, yet 9 left"),
        (10, 3, 7, False, "holds: 3 approved, 7 left"),
        (10, 3, 6, True, "RACE: 3 approved of 10, yet 6 left"),
        (1, 0, 1, False, "holds: 0 approved, 1 left"),
    ],
)
def test_the_verdict_follows_from_the_books(
    stock: int, approved: int, final: int, race: bool, verdict: str
) -> None:
    """
    More than there were, or a quantity that does not fit: whatever the users were told.
    """
    outcome = Outcome("naive", stock, approved, final, [])

    assert (outcome.race, outcome.verdict()) == (race, verdict)


def test_the_moment_of_a_race() -> None:
    """
    Who read the same and took it, in the order in which they had read, and when the first of them had written.
    """
    moment = RACE.moment()

    assert moment is not None
    assert (moment.value, moment.readers, moment.written_ms) == (1, [2, 1, 4], 4.0)


def test_no_moment_without_a_race() -> None:
    """
    One who takes what it has read is how it should be.
    """
    one = Outcome("naive", 1, 1, 0, [user(1, True, 1, 1, 2, 3), user(2, False, 0, 4, 4, 5)])

    assert one.moment() is None


def test_a_result_survives_being_kept() -> None:
    """
    What the page reads back is what was saved, to the microsecond.
    """
    kept = Outcome.read(RACE.document())

    assert kept == RACE
    assert kept.document() == RACE.document()


def test_who_was_first_is_drawn_above() -> None:
    """
    A lane each, in the order of the first steps; the longest ends before the edge, and the shortest can be seen.
    """
    drawing = timelines.draw(RACE)

    assert [lane.result.user for lane in drawing.lanes] == [2, 1, 4, 3]
    assert [lane.raced for lane in drawing.lanes] == [True, True, True, False]
    assert max(lane.end for lane in drawing.lanes) == 100 - timelines.MARGIN_PERCENT
    assert min(bar.width for lane in drawing.lanes for bar in lane.bars) == timelines.WIDTH_PERCENT_MIN
    assert [(mark.left, mark.words) for mark in drawing.marks] == [(39.2, "the first has written")]
    assert drawing.danger == 39.2
    assert drawing.ticks[0] == (0.0, "0 ms")
    assert all(left <= 100 for left, _ in drawing.ticks)


def test_batches_are_marked_where_there_is_room() -> None:
    """
    Decisions at the same time are one batch; lanes are in the order of the decisions.
    """
    ends = [5.0, 5.1, 20.0, 20.0, 20.2, 21.0]
    results = [
        UserResult(n, False, steps=[Step("accept", 0, 1), Step("queue", 1, end)], sequence=100 - n)
        for n, end in enumerate(ends, 1)
    ]
    drawing = timelines.draw(Outcome("queue", 1, 0, 1, results))

    assert [mark.words for mark in drawing.marks] == ["batch of 2", "batch of 3", ""]
    assert [lane.result.user for lane in drawing.lanes] == [6, 5, 4, 3, 2, 1]


def test_a_race_in_which_nothing_happened_can_be_drawn() -> None:
    """
    Everybody failed at once: lanes without steps.
    """
    drawing = timelines.draw(Outcome("naive", 1, 0, 1, [UserResult(1, error="gone")]))

    assert [lane.bars for lane in drawing.lanes] == [[]]


@pytest.mark.parametrize(
    ("succeeded", "unanswered", "words"),
    [
        (4, 0, "RACE: 4 of 6 succeeded where 1 was expected"),
        (1, 0, "no race: 1 of 6 succeeded, 1 was expected at the most"),
        (1, 2, "no race: 1 of 6 succeeded, 1 was expected at the most; 2 got no answer"),
        (0, 0, "no race seen, but none of 6 succeeded either: this says little"),
    ],
)
def test_a_verdict_about_an_endpoint(succeeded: int, unanswered: int, words: str) -> None:
    """
    In one line; where none succeeded, it does not say that all is well.
    """
    replies = [
        Reply(n, 1.0, None if n > 6 - unanswered else 200 if n <= succeeded else 409, n <= succeeded)
        for n in range(1, 7)
    ]

    assert Verdict(replies, 1).words() == words


def test_each_user_has_its_own_number_and_uuids() -> None:
    """
    {n} and {uuid} in address, body and headers; other braces stay.
    """
    call = Call(
        "http://x/{n}", "POST", '{"n": {n}, "a": "{uuid}", "b": "{uuid}"}', {"Idempotency-Key": "{uuid}"}
    )
    first, second = call.of(1), call.of(2)

    assert (first.url, second.url) == ("http://x/1", "http://x/2")
    assert first.body is not None
    assert first.body.startswith('{"n": 1, "a": "')
    assert "{" not in first.body[1:]
    ids = {one.headers["Idempotency-Key"] for one in (first, second)}
    ids |= {part for part in first.body.split('"') if len(part) == 36}
    assert len(ids) == 4


def test_nobody_is_let_go_before_all_are_ready_or_have_failed() -> None:
    """
    Each waits for the others; one that fails is waited for no longer, and counts once.
    """

    async def story() -> list[bool]:
        gate = endpoint._Gate({1, 2, 3})
        waiting = [asyncio.create_task(gate.wait(user)) for user in (1, 2)]
        seen = []
        for failed in (1, 3):
            await asyncio.sleep(0)
            seen.append(gate.released.is_set())
            gate.count_out(failed)
        await asyncio.gather(*waiting)
        return [*seen, gate.released.is_set()]

    assert asyncio.run(story()) == [False, False, True]
