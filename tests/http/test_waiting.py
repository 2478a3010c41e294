"""
`Prefer: wait=N`: answers that wait until a request is final.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from api.web import long_poll
from tests.waiting import Deadline, eventually
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.teller import Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}


@pytest.fixture
def worker(teller: Teller) -> Iterator[None]:
    """Somebody who decides what comes in, and announces it, until the test is over."""
    over = threading.Event()
    bell = Doorbell(teller.settings.redis_url)

    def work() -> None:
        while not over.wait(0.02):
            bell.announce(teller.drain())

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()
    bell.close()


def until_waiting(teller: Teller, count: int) -> None:
    """Until so many answers are held back."""
    eventually(lambda: teller.services.waiters.count() == count)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=5", 5),
        ("WAIT = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=5", 5),
        ("wait=5; foo=bar", 5),
        ("wait=21", 20),
        ("wait=0", 0),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=soon", None),
        ("waiting=5", None),
        ("wait=5, wait=7", 5),
    ],
)
def test_the_header_is_read_as_rfc_7240_says(header: str | None, seconds: int | None) -> None:
    """
    More than 20 counts as 20, the first one counts, and what is not understood is ignored.
    """
    assert long_poll.read_preference(header) == seconds


@pytest.mark.usefixtures("worker")
def test_a_post_that_waits_gets_the_final_state(teller: Teller) -> None:
    """
    200, the final state, Preference-Applied, and no Retry-After: there is nothing to come back for.
    """
    teller.open("sneaker")

    answer = teller.client.post("/v1/redemptions", REDEMPTION, Prefer="wait=10")

    assert answer.status_code == 200
    assert answer.json["status"] == "completed"
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert answer.headers["ETag"] == '"2"'
    assert "Retry-After" not in answer.headers


@pytest.mark.usefixtures("worker")
def test_an_opening_can_be_waited_for_like_anything_else(teller: Teller) -> None:
    """
    Also a rejection is final.
    """
    body = {"id": "a", "kind": "seat", "available": 1}

    opened = teller.admin.post("/v1/resources", body, Prefer="wait=20")
    again = teller.admin.post("/v1/resources", body, Prefer="wait=60")

    assert (opened.status_code, opened.json["status"]) == (200, "completed")
    assert (again.status_code, again.json["error"]) == (200, {"code": "resource_exists"})
    assert again.headers["Preference-Applied"] == "wait=20"


def test_who_waited_in_vain_gets_what_is_so_far(teller: Teller) -> None:
    """
    After N seconds: 202 for a POST, 200 for a GET, both still processing.
    """
    limit = Deadline(1.5)
    made = teller.client.post("/v1/redemptions", REDEMPTION, Prefer="wait=1")
    waited = limit.check()
    read = teller.client.get(f"/v1/requests/{made.json['id']}", Prefer="wait=0")

    assert waited >= 1
    for answer, status, applied in ((made, 202, "wait=1"), (read, 200, "wait=0")):
        assert answer.status_code == status
        assert answer.json["status"] == "processing"
        assert answer.headers["Preference-Applied"] == applied
    assert made.headers["Retry-After"] == "1"


def test_an_announcement_ends_the_wait_at_once(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ten wait for one request, and would not look again by themselves: the announcement makes them.
    """
    monkeypatch.setattr(long_poll, "LOOK_INTERVAL_SECONDS", long_poll.WAIT_SECONDS_MAX)
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    bell = Doorbell(teller.settings.redis_url)

    with ThreadPoolExecutor(10) as people:
        answers = [
            people.submit(teller.client.get, f"/v1/requests/{named}", Prefer="wait=20") for _ in range(10)
        ]
        until_waiting(teller, 10)
        decided = teller.drain()
        limit = Deadline(2)
        bell.announce(decided)
        statuses = [answer.result().json["status"] for answer in answers]
        limit.check()
    bell.close()

    assert statuses == ["completed"] * 10
    assert teller.services.waiters.count() == 0


def test_a_lost_announcement_is_noticed_within_half_a_second(teller: Teller) -> None:
    """
    Nobody announces; who waits looks for himself.
    """
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]

    with ThreadPoolExecutor(1) as people:
        answer = people.submit(teller.client.get, f"/v1/requests/{named}", Prefer="wait=20")
        until_waiting(teller, 1)
        teller.drain()
        limit = Deadline(2 * long_poll.LOOK_INTERVAL_SECONDS)
        assert answer.result().json["status"] == "completed"
        limit.check()


def test_when_too_many_wait_the_next_is_answered_at_once(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without Preference-Applied: it was not waited for.
    """
    monkeypatch.setattr(long_poll, "WAITERS_MAX", 1)
    with ThreadPoolExecutor(1) as people:
        first = people.submit(teller.client.post, "/v1/redemptions", REDEMPTION, Prefer="wait=1")
        until_waiting(teller, 1)
        second = teller.client.post("/v1/redemptions", REDEMPTION, Prefer="wait=1")
        assert not first.done()
        assert first.result().headers["Preference-Applied"] == "wait=1"

    assert second.status_code == 202
    assert "Preference-Applied" not in second.headers


def test_a_stop_answers_everybody_who_waits(teller: Teller) -> None:
    """
    At once, with what is so far.
    """
    with ThreadPoolExecutor(3) as people:
        answers = [
            people.submit(teller.client.post, "/v1/redemptions", REDEMPTION, Prefer="wait=20")
            for _ in range(3)
        ]
        until_waiting(teller, 3)
        limit = Deadline(1)
        teller.services.waiters.stop()
        statuses = [answer.result().status_code for answer in answers]
        limit.check()

    assert statuses == [202] * 3


def test_a_get_that_waits_compares_its_etag_afterwards(teller: Teller) -> None:
    """
    A long poll: 304 when the time is over and nothing has changed.
    """
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    tag = teller.client.get(f"/v1/requests/{named}").headers["ETag"]

    answer = teller.client.get(f"/v1/requests/{named}", Prefer="wait=1", If_None_Match=tag)

    assert answer.status_code == 304
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_an_announcement_that_came_before_the_wait_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A worker can be quicker than the way from the commit to the waiting: then there is something to see at once.
    """
    monkeypatch.setattr(long_poll, "LOOK_INTERVAL_SECONDS", long_poll.WAIT_SECONDS_MAX)
    waiters = long_poll.Waiters()
    named = uuid.uuid4()
    waiters.wake({named.bytes})

    limit = Deadline(10)
    answer = waiters.wait(named, 20, "queued", lambda: "completed", lambda seen: seen == "completed")

    assert answer == ("completed", True)
    limit.check()


def test_nobody_looks_before_there_is_something_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What was read just now is what is so far: a wait that nothing ends asks the database nothing.
    """
    monkeypatch.setattr(long_poll, "LOOK_INTERVAL_SECONDS", long_poll.WAIT_SECONDS_MAX)

    def look() -> str:
        pytest.fail("there was no announcement")

    waiters = long_poll.Waiters()
    waiters.wake({uuid.uuid4().bytes})

    assert waiters.wait(uuid.uuid4(), 0, "queued", look, lambda _: False) == ("queued", True)


def test_announcements_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A day of announcements that nobody waits for takes no memory.
    """
    monkeypatch.setattr(long_poll, "REMEMBERED_MAX", 10)
    waiters = long_poll.Waiters()

    for _ in range(100):
        waiters.wake({uuid.uuid4().bytes for _ in range(5)})

    assert waiters.remembered() <= 20
