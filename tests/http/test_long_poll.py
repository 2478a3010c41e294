"""
`Prefer: wait=N`: calls that wait until a request is final.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from api.web import long_poll
from processor.errors import DatabaseUnavailable
from tests.servers import names_of
from tests.waiting import Deadline, eventually
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.http.teller import Teller

REDEMPTION = {"resource": "sneaker", "account": "u_42"}


@pytest.fixture
def worker(teller: Teller) -> Iterator[None]:
    """Run batches and announce their decisions until the test ends."""
    over = threading.Event()
    names = names_of(teller.settings.database_url)
    doorbell = Doorbell(teller.settings.redis_url, lambda: names)

    def work() -> None:
        while not over.wait(0.02):
            doorbell.announce(teller.drain())

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()
    doorbell.close()


def wait_for_waiters(teller: Teller, count: int) -> None:
    """Wait until this number of calls wait for a request."""
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
def test_the_header_follows_rfc_7240(header: str | None, seconds: int | None) -> None:
    """
    The maximum is 20. The first preference counts, and an invalid one is ignored.
    """
    assert long_poll.read_preference(header) == seconds


@pytest.mark.usefixtures("worker")
def test_a_post_that_waits_returns_the_final_state(teller: Teller) -> None:
    """
    The answer is 200 with Preference-Applied and without Retry-After, because no other call is needed.
    """
    teller.open("sneaker")

    answer = teller.client.post("/v1/redemptions", REDEMPTION, Prefer="wait=10")

    assert answer.status_code == 200
    assert answer.json["status"] == "completed"
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert answer.headers["ETag"] == '"2"'
    assert "Retry-After" not in answer.headers


@pytest.mark.usefixtures("worker")
def test_a_post_can_wait_for_an_opening(teller: Teller) -> None:
    """
    A rejection is final, too.
    """
    body = {"id": "a", "kind": "seat", "available": 1}

    opened = teller.admin.post("/v1/resources", body, Prefer="wait=20")
    again = teller.admin.post("/v1/resources", body, Prefer="wait=60")

    assert (opened.status_code, opened.json["status"]) == (200, "completed")
    assert (again.status_code, again.json["error"]) == (200, {"code": "resource_exists"})
    assert again.headers["Preference-Applied"] == "wait=20"


def test_a_wait_ends_after_its_seconds(teller: Teller) -> None:
    """
    After N seconds a POST returns 202 and a GET 200, both with the status processing.
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


def test_an_announcement_ends_a_wait_at_once(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ten calls wait for one request without polling. The announcement ends all waits.
    """
    monkeypatch.setattr(long_poll, "LOOK_INTERVAL_SECONDS", long_poll.WAIT_SECONDS_MAX)
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    names = names_of(teller.settings.database_url)
    doorbell = Doorbell(teller.settings.redis_url, lambda: names)

    with ThreadPoolExecutor(10) as callers:
        answers = [
            callers.submit(teller.client.get, f"/v1/requests/{named}", Prefer="wait=20") for _ in range(10)
        ]
        wait_for_waiters(teller, 10)
        decided = teller.drain()
        limit = Deadline(2)
        doorbell.announce(decided)
        statuses = [answer.result().json["status"] for answer in answers]
        limit.check()
    doorbell.close()

    assert statuses == ["completed"] * 10
    assert teller.services.waiters.count() == 0


def test_a_lost_announcement_is_replaced_by_polling(teller: Teller) -> None:
    """
    Without an announcement, a waiting call finds the decision within half a second.
    """
    teller.open("sneaker")
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]

    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(teller.client.get, f"/v1/requests/{named}", Prefer="wait=20")
        wait_for_waiters(teller, 1)
        teller.drain()
        limit = Deadline(2 * long_poll.LOOK_INTERVAL_SECONDS)
        assert answer.result().json["status"] == "completed"
        limit.check()


def test_a_call_above_the_limit_of_waiters_does_not_wait(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The call returns at once, without Preference-Applied.
    """
    monkeypatch.setattr(long_poll, "WAITERS_MAX", 1)
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(teller.client.post, "/v1/redemptions", REDEMPTION, Prefer="wait=1")
        wait_for_waiters(teller, 1)
        second = teller.client.post("/v1/redemptions", REDEMPTION, Prefer="wait=1")
        assert not first.done()
        assert first.result().headers["Preference-Applied"] == "wait=1"

    assert second.status_code == 202
    assert "Preference-Applied" not in second.headers


def test_a_client_leaves_as_many_waits_as_it_has(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A client with many endless waits has half of them, and another client still waits for its decision.
    """
    monkeypatch.setattr(long_poll, "WAITERS_MAX", 8)
    teller.open("sneaker")
    endless = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    with ThreadPoolExecutor(10) as callers:
        flood = [
            callers.submit(teller.client.get, f"/v1/requests/{endless}", Prefer="wait=20") for _ in range(9)
        ]
        wait_for_waiters(teller, 4)
        eventually(lambda: sum(one.done() for one in flood) == 5)
        waited = callers.submit(teller.other.post, "/v1/redemptions", REDEMPTION, Prefer="wait=20")
        wait_for_waiters(teller, 5)
        teller.drain()

    granted = [one for one in flood if "Preference-Applied" in one.result().headers]
    assert len(granted) == 4
    assert waited.result().json["status"] == "completed"


def test_a_stop_ends_all_waits(teller: Teller) -> None:
    """
    All waiting calls return at once with the present state.
    """
    with ThreadPoolExecutor(3) as callers:
        answers = [
            callers.submit(teller.client.post, "/v1/redemptions", REDEMPTION, Prefer="wait=20")
            for _ in range(3)
        ]
        wait_for_waiters(teller, 3)
        limit = Deadline(1)
        teller.services.waiters.end_all()
        statuses = [answer.result().status_code for answer in answers]
        limit.check()

    assert statuses == [202] * 3


def test_a_get_that_waits_compares_its_etag_at_the_end(teller: Teller) -> None:
    """
    A long poll returns 304 if nothing changed until its end.
    """
    named = teller.client.post("/v1/redemptions", REDEMPTION).json["id"]
    tag = teller.client.get(f"/v1/requests/{named}").headers["ETag"]

    answer = teller.client.get(f"/v1/requests/{named}", Prefer="wait=1", If_None_Match=tag)

    assert answer.status_code == 304
    assert answer.headers["Preference-Applied"] == "wait=1"


class Reads:
    """The states of requests, and the groups in which they were read."""

    def __init__(self) -> None:
        self.states: dict[uuid.UUID, str] = {}
        self.groups: list[set[uuid.UUID]] = []
        #: A read waits for it.
        self.may_read = threading.Event()
        self.may_read.set()
        self.fault: Exception | None = None

    def __call__(self, request_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
        found = {one: self.states[one] for one in request_ids if one in self.states}
        self.groups.append(set(request_ids))
        self.may_read.wait()
        if self.fault is not None:
            raise self.fault
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """States that are read only after an announcement."""
    monkeypatch.setattr(long_poll, "LOOK_INTERVAL_SECONDS", long_poll.WAIT_SECONDS_MAX)
    return Reads()


@pytest.fixture
def waiters(reads: Reads) -> Iterator[long_poll.Waiters[str]]:
    """Waits that end at the state completed."""
    waiters = long_poll.Waiters(reads, lambda seen: seen == "completed")
    waiters.start()
    yield waiters
    waiters.stop()


def test_an_announcement_before_the_wait_is_not_lost(reads: Reads, waiters: long_poll.Waiters[str]) -> None:
    """
    A worker may decide a request before its call begins to wait. Then the request is read at once.
    """
    named = uuid.uuid4()
    reads.states[named] = "completed"
    waiters.wake({named.bytes})

    limit = Deadline(10)
    answer = waiters.wait(named, "ada", 20, "queued")

    assert answer == ("completed", True)
    limit.check()


def test_a_wait_without_an_announcement_reads_nothing(reads: Reads, waiters: long_poll.Waiters[str]) -> None:
    """
    The call has read the present state already, so a wait without an announcement makes no query.
    """
    waiters.wake({uuid.uuid4().bytes})

    assert waiters.wait(uuid.uuid4(), "ada", 0, "queued") == ("queued", True)
    assert reads.groups == []


def test_requests_that_are_announced_together_are_read_together(
    reads: Reads, waiters: long_poll.Waiters[str]
) -> None:
    """
    Announcements that come during a read are read by one query after it. Each call gets its own request.
    """
    ids = [uuid.uuid4() for _ in range(20)]
    reads.states = dict.fromkeys(ids, "queued")
    with ThreadPoolExecutor(len(ids)) as callers:
        answers = [callers.submit(waiters.wait, named, "ada", 20, "queued") for named in ids]
        eventually(lambda: waiters.count() == len(ids))
        reads.may_read.clear()
        waiters.wake({ids[0].bytes})
        eventually(lambda: len(reads.groups) == 1)
        reads.states = dict.fromkeys(ids, "completed")
        for named in ids:
            waiters.wake({named.bytes, uuid.uuid4().bytes})
        reads.may_read.set()
        limit = Deadline(10)
        assert [answer.result() for answer in answers] == [("completed", True)] * len(ids)
        limit.check()

    assert reads.groups == [{ids[0]}, set(ids) - {ids[0]}] or reads.groups == [{ids[0]}, set(ids)]
    assert waiters.count() == 0


def test_a_state_that_ends_no_wait_wakes_no_call(reads: Reads, waiters: long_poll.Waiters[str]) -> None:
    """
    The call waits on, and returns the last state that was read when its time is up.
    """
    named = uuid.uuid4()
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(waiters.wait, named, "ada", 1, "queued")
        eventually(lambda: waiters.count() == 1)
        reads.states[named] = "held"
        waiters.wake({named.bytes})

        assert answer.result() == ("held", True)


def test_an_unavailable_database_ends_the_waits_that_were_read_for(
    reads: Reads, waiters: long_poll.Waiters[str]
) -> None:
    """
    Their calls raise the fault. Other waits and later reads go on.
    """
    first, second = uuid.uuid4(), uuid.uuid4()
    with ThreadPoolExecutor(2) as callers:
        failing, other = (
            callers.submit(waiters.wait, named, "ada", 20, "queued") for named in (first, second)
        )
        eventually(lambda: waiters.count() == 2)
        reads.fault = DatabaseUnavailable("the server is gone")
        waiters.wake({first.bytes})
        with pytest.raises(DatabaseUnavailable):
            failing.result()
        reads.fault = None
        reads.states[second] = "completed"
        waiters.wake({second.bytes})

        assert other.result() == ("completed", True)


def test_a_state_read_before_a_wait_began_does_not_end_it(
    reads: Reads, waiters: long_poll.Waiters[str]
) -> None:
    """
    A call that begins to wait during a read may have seen a later state, so it gets the next one.
    """
    named = uuid.uuid4()
    reads.states[named] = "completed"
    reads.may_read.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(waiters.wait, named, "ada", 20, "queued")
        eventually(lambda: waiters.count() == 1)
        waiters.wake({named.bytes})
        eventually(lambda: len(reads.groups) == 1)
        reads.states[named] = "replayed"
        second = callers.submit(waiters.wait, named, "ada", 1, "replayed")
        eventually(lambda: waiters.count() == 2)
        reads.may_read.set()

        assert first.result() == ("completed", True)
        assert second.result() == ("replayed", True)


def test_the_memory_for_announcements_is_limited(
    waiters: long_poll.Waiters[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Announcements that no call waits for use a limited amount of memory.
    """
    monkeypatch.setattr(long_poll, "REMEMBERED_MAX", 10)

    for _ in range(100):
        waiters.wake({uuid.uuid4().bytes for _ in range(5)})

    assert waiters.remembered() <= 20
