"""
Turns: clients share the places of a process, and wait for them in turns and within a limit.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from api.web import deadline, share
from api.web.turns import TooManyAtOnce, Turns
from processor.intake import turns as intake_turns
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class Crowd:
    """Clients on threads of their own, who take turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        #: The clients in the order of their turns, and those that were refused.
        self.served: list[str] = []
        self.refused: list[str] = []
        self.at_once_max = 0
        self._at_once = 0
        self._threads: list[threading.Thread] = []

    def come(self, client: str) -> None:
        """Let a client ask for a turn, and return when it waits, has it, or is refused."""
        before = self._settled()
        thread = threading.Thread(target=self._take, args=(client,))
        self._threads.append(thread)
        thread.start()
        eventually(lambda: self._settled() > before)

    def join(self) -> None:
        """Wait until all are served or refused."""
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _settled(self) -> int:
        return self.turns.waiting() + len(self.served) + len(self.refused)

    def _take(self, client: str) -> None:
        try:
            with self.turns.take(client):
                self._at_once += 1
                self.at_once_max = max(self.at_once_max, self._at_once)
                self.served.append(client)
                self._at_once -= 1
        except TooManyAtOnce:
            self.refused.append(client)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A crowd for one place, whose turns do not time out."""
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    crowd = Crowd(Turns(1, 1, waiting_max=9, waiting_of_one_client_max=4))
    yield crowd
    crowd.join()


def test_clients_take_turns(crowd: Crowd) -> None:
    """
    A client that asks for many turns has one, and then every other client has one.
    """
    with crowd.turns.take("first"):
        for client in ("flood", "flood", "flood", "flood", "ada", "bob", "ada"):
            crowd.come(client)
        assert crowd.served == []
    crowd.join()

    assert crowd.served == ["flood", "ada", "bob", "flood", "ada", "flood", "flood"]
    assert (crowd.at_once_max, crowd.turns.waiting()) == (1, 0)


def test_a_client_has_its_share_of_the_queue(crowd: Crowd) -> None:
    """
    A turn beyond the share of its client is refused at once, and another client's turn is still waited for.
    """
    with crowd.turns.take("first"):
        for _ in range(6):
            crowd.come("flood")
        crowd.come("ada")
        assert crowd.refused == ["flood", "flood"]
    crowd.join()

    assert crowd.served.count("flood") == 4
    assert "ada" in crowd.served


def test_the_queue_has_a_limit(crowd: Crowd) -> None:
    """
    When the queue is full, the next turn is refused at once, whichever client asks for it.
    """
    with crowd.turns.take("first"):
        for client in "abcdefghij":
            crowd.come(client)
        assert crowd.refused == ["j"]
    crowd.join()

    assert crowd.served == list("abcdefghi")


def test_a_turn_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The wait ends with the deadline of the request. The turn is not lost to the others.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.05)
    crowd = Crowd(Turns(1, 1))
    with crowd.turns.take("first"):
        crowd.come("ada")
        eventually(lambda: crowd.refused == ["ada"])
        assert crowd.turns.waiting() == 0
    crowd.come("bob")
    crowd.join()

    assert crowd.served == ["bob"]


def test_work_that_breaks_passes_its_turn_on() -> None:
    """
    The turn of work that is refused or fails is free again.
    """
    turns = Turns(1, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), turns.take("ada"):
            raise ValueError("broken")


def test_a_client_has_its_share_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A client that holds its share waits although places are free, and others take them without waiting.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    turns = Turns(4, 2)
    crowd = Crowd(turns)
    with turns.take("flood"), turns.take("flood"):
        crowd.come("flood")
        assert crowd.served == []
        crowd.come("ada")
        crowd.come("bob")
        assert crowd.served == ["ada", "bob"]
    crowd.join()

    assert crowd.served == ["ada", "bob", "flood"]
    assert (turns.taken("flood"), turns.taken("ada")) == (0, 0)


def test_a_client_alone_has_more_until_another_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Places that a client took while it was alone stay its own, and the next ones are limited by its share.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    turns = Turns(9, 1, share_alone=3)
    crowd = Crowd(turns)
    with turns.take("flood"), turns.take("/healthz", is_company=False):
        with turns.take("flood"), turns.take("ada"):
            crowd.come("flood")
            assert crowd.served == []
        assert turns.taken("flood") == 1
        assert crowd.served == []
    crowd.join()
    assert crowd.served == ["flood"]

    monkeypatch.setattr(intake_turns, "ALONE_AFTER_SECONDS", 0.0)
    with turns.take("ada"), turns.take("flood"), turns.take("flood"), turns.take("flood"):
        assert turns.taken("flood") == 3


def test_a_share_grows_slowly_and_shrinks_quickly() -> None:
    """
    Each mean of short waits adds one place, and a mean of long ones takes a quarter. Both bounds hold.
    """
    places = share.Share(3, 10)

    def wait(seconds: float) -> int:
        for _ in range(share.WAITS):
            places.note(seconds)
        return places.places

    assert [wait(share.WAIT_SECONDS / 2) for _ in range(9)] == [4, 5, 6, 7, 8, 9, 10, 10, 10]
    assert [wait(share.WAIT_SECONDS * 2) for _ in range(5)] == [7, 5, 3, 3, 3]
    for _ in range(share.WAITS - 1):
        places.note(0.0)
    places.note(share.WAIT_SECONDS * share.WAITS * 2)
    assert places.places == 3


@pytest.mark.parametrize(("limit_seconds", "at_once"), [(TIMEOUT_SECONDS, 2), (-1.0, 1)])
def test_a_client_beside_others_has_more_while_turns_come_quickly(
    monkeypatch: pytest.MonkeyPatch, limit_seconds: float, at_once: int
) -> None:
    """
    After enough quick turns, a client beside others has a place more. After slow ones it has its least share.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(share, "WAIT_SECONDS", limit_seconds)
    turns = Turns(9, 1, share_alone=2)
    with turns.take("ada"):
        for _ in range(share.WAITS):
            crowd = Crowd(turns)
            with turns.take("flood"):
                crowd.come("flood")
            crowd.join()
        with turns.take("flood"):
            crowd = Crowd(turns)
            crowd.come("flood")
            assert len(crowd.served) == at_once - 1
        crowd.join()


def test_a_wait_aside_leaves_the_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A second request of the client runs while the first waits. The first goes on when a place is free again.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    turns = Turns(1, 1)
    crowd = Crowd(turns)
    with turns.take("ada"):
        crowd.come("bob")
        with turns.aside():
            crowd.join()
            assert crowd.served == ["bob"]
        assert turns.taken("ada") == 1
    with turns.aside():
        assert turns.taken("ada") == 0


def test_work_goes_on_if_no_place_is_free_after_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its effect is there already, so it is not refused. The places are right again when all are done.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.05)
    turns = Turns(1, 1)
    crowd = Crowd(turns)
    with contextlib.ExitStack() as others, turns.take("ada"), turns.aside():
        others.enter_context(turns.take("bob"))
        # The place of this thread is now that of "bob"; "ada" finds none free.
    crowd.come("ada")
    crowd.join()

    assert crowd.served == ["ada"]


def test_small_calls_of_others_wait_for_one_large_group() -> None:
    """
    At intake, a flood of large calls has every second group, with a limited number of requests.
    """
    turns: intake_turns.Turns[str] = intake_turns.Turns()
    for number in range(4):
        turns.add("flood", 250, f"flood {number}")
    turns.add("ada", 1, "ada 0")
    turns.add("bob", 1, "bob 0")
    turns.add("ada", 1, "ada 1")

    assert turns.next_group() == ["ada 0", "bob 0", "ada 1"]
    turns.add("ada", 1, "ada 2")
    assert turns.next_group() == ["flood 0"]
    assert turns.next_group() == ["ada 2"]
    assert turns.next_group() == ["flood 1"]
    turns.add("eve", 60, "eve 0")
    assert [turns.next_group(), turns.next_group(), turns.next_group()] == [
        ["flood 2"],
        ["eve 0"],
        ["flood 3"],
    ]
    assert not turns
    assert turns.next_group() == []


def test_a_client_alone_has_large_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    All waiting calls of a client share a group while no other client is active, up to the limit of a group.
    """
    monkeypatch.setattr(intake_turns, "ALONE_AFTER_SECONDS", 0.0)
    turns: intake_turns.Turns[int] = intake_turns.Turns()
    for number in range(5):
        turns.add("flood", 250, number)

    assert [turns.next_group(), turns.next_group()] == [[0, 1, 2, 3], [4]]


def test_small_calls_share_a_group_in_turns_of_clients() -> None:
    """
    The calls of a client keep their order, and no client fills a group before the others have their turn.
    """
    turns: intake_turns.Turns[str] = intake_turns.Turns()
    for number in range(1_200):
        turns.add("flood", 1, f"flood {number}")
    turns.add("ada", 1, "ada")

    group = turns.next_group()
    assert group[:3] == ["flood 0", "ada", "flood 1"]
    assert len(group) == intake_turns.GROUP_LIMIT
    assert turns.next_group()[0] == "flood 999"


def test_clients_beyond_a_full_group_are_in_the_next_one() -> None:
    """
    Clients whose small calls fill every group, and who always have more of them, keep no other client out.
    """
    size = intake_turns.LARGE_CALL - 1
    floods = [f"flood {number}" for number in range(intake_turns.GROUP_LIMIT // size + 1)]
    turns: intake_turns.Turns[str] = intake_turns.Turns()
    for client in floods * 2:
        turns.add(client, size, client)
    turns.add("ada", 1, "ada")

    first = turns.next_group()
    for client in first:
        turns.add(client, size, client)

    assert first == floods
    assert turns.next_group()[0] == "ada"
