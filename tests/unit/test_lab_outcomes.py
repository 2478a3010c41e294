"""
Races in the lab and their drawing: verdicts, the moment of the race, rows, marks.
"""

from __future__ import annotations

import asyncio

import pytest

from api.lab import timelines
from lab import endpoint
from lab.endpoint_results import Call, Reply, Verdict
from lab.outcomes import Outcome, Step, UserResult


def user(number: int, approved: bool, seen: int | None, *times: float) -> UserResult:
    """Return the result of a user that read, wrote and committed at these times."""
    read, wrote, done = times
    steps = [Step("read", 0.0, read), Step("write", read, wrote), Step("commit", wrote, done)]
    return UserResult(number, approved, seen, steps)


#: Users 1, 2 and 4 read "1". Users 1 and 2 read it before the first write, and user 4 after it, as seen from
#: outside.
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
def test_the_verdict_follows_from_the_quantities(
    stock: int, approved: int, final: int, race: bool, verdict: str
) -> None:
    """
    It is a race if more were approved than there were, or if the quantity does not fit. The answers do not
    count.
    """
    outcome = Outcome("naive", stock, approved, final, [])

    assert (outcome.race, outcome.verdict()) == (race, verdict)


def test_the_moment_of_a_race() -> None:
    """
    The moment names the users that read the same value and took it, in the order of their reads, and the
    first write.
    """
    moment = RACE.moment()

    assert moment is not None
    assert (moment.value, moment.readers, moment.written_ms) == (1, [2, 1, 4], 4.0)


def test_no_moment_without_a_race() -> None:
    """
    A single user that takes the value it read is correct.
    """
    one = Outcome("naive", 1, 1, 0, [user(1, True, 1, 1, 2, 3), user(2, False, 0, 4, 4, 5)])

    assert one.moment() is None


def test_a_stored_result_reads_back() -> None:
    """
    A stored result reads back exactly, to the microsecond.
    """
    kept = Outcome.read(RACE.document())

    assert kept == RACE
    assert kept.document() == RACE.document()


def test_rows_are_drawn_in_the_order_of_first_steps() -> None:
    """
    Each user has a row, in the order of first steps. The longest ends before the edge, and the shortest is
    visible.
    """
    drawing = timelines.draw(RACE)

    assert [row.result.user for row in drawing.rows] == [2, 1, 4, 3]
    assert [row.raced for row in drawing.rows] == [True, True, True, False]
    assert max(row.end for row in drawing.rows) == 100 - timelines.MARGIN_PERCENT
    assert min(bar.width for row in drawing.rows for bar in row.bars) == timelines.WIDTH_PERCENT_MIN
    assert [(mark.left, mark.label) for mark in drawing.marks] == [(39.2, "the first has written")]
    assert drawing.danger == 39.2
    assert drawing.ticks[0] == (0.0, "0 ms")
    assert all(left <= 100 for left, _ in drawing.ticks)


def test_batches_are_marked_where_there_is_room() -> None:
    """
    Decisions at the same time are one batch. Rows are in the order of the decisions.
    """
    ends = [5.0, 5.1, 20.0, 20.0, 20.2, 21.0]
    results = [
        UserResult(n, False, steps=[Step("accept", 0, 1), Step("queue", 1, end)], sequence=100 - n)
        for n, end in enumerate(ends, 1)
    ]
    drawing = timelines.draw(Outcome("queue", 1, 0, 1, results))

    assert [mark.label for mark in drawing.marks] == ["batch of 2", "batch of 3", ""]
    assert [row.result.user for row in drawing.rows] == [6, 5, 4, 3, 2, 1]


def test_a_race_in_which_nothing_happened_can_be_drawn() -> None:
    """
    All users failed at once, so their rows have no steps.
    """
    drawing = timelines.draw(Outcome("naive", 1, 0, 1, [UserResult(1, error="gone")]))

    assert [row.bars for row in drawing.rows] == [[]]


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
    The verdict is one line. If no request succeeded, it does not claim that there is no race.
    """
    replies = [
        Reply(n, 1.0, None if n > 6 - unanswered else 200 if n <= succeeded else 409, n <= succeeded)
        for n in range(1, 7)
    ]

    assert Verdict(replies, 1).words() == words


def test_each_user_has_its_own_number_and_uuids() -> None:
    """
    {n} and {uuid} are replaced in address, body and headers. Other braces stay.
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


def test_users_are_released_when_all_are_ready_or_have_failed() -> None:
    """
    Each user waits for the others. A user that fails is no longer waited for, and counts once.
    """

    async def story() -> list[bool]:
        gate = endpoint.Gate({1, 2, 3})
        waiting = [asyncio.create_task(gate.wait(user)) for user in (1, 2)]
        seen = []
        for failed in (1, 3):
            await asyncio.sleep(0)
            seen.append(gate.released.is_set())
            gate.count_out(failed)
        await asyncio.gather(*waiting)
        return [*seen, gate.released.is_set()]

    assert asyncio.run(story()) == [False, False, True]
