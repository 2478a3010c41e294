"""
Large bodies: a few at a time, in turns between clients, each within a bounded wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from api.web import deadline, large_bodies
from api.web.large_bodies import AT_ONCE, WAITING_OF_ONE_CLIENT_MAX, TooManyLargeBodies, Turns
from tests.waiting import TIMEOUT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class Crowd:
    """Clients on threads of their own, who take turns."""

    def __init__(self) -> None:
        self.turns = Turns()
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
        except TooManyLargeBodies:
            self.refused.append(client)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A crowd whose turns do not time out."""
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", TIMEOUT_SECONDS)
    crowd = Crowd()
    yield crowd
    crowd.join()


def test_clients_take_turns(crowd: Crowd) -> None:
    """
    A client that sends many large bodies has one turn, and then every other client has one.
    """
    with crowd.turns.take("first"):
        for client in ("flood", "flood", "flood", "flood", "ada", "bob", "ada"):
            crowd.come(client)
        assert crowd.served == []
    crowd.join()

    assert crowd.served == ["flood", "ada", "bob", "flood", "ada", "flood", "flood"]
    assert (crowd.at_once_max, crowd.turns.waiting()) == (AT_ONCE, 0)


def test_a_client_has_its_share_of_the_queue(crowd: Crowd) -> None:
    """
    A body beyond the share of its client is refused at once, and another client's body still waits.
    """
    with crowd.turns.take("first"):
        for _ in range(WAITING_OF_ONE_CLIENT_MAX + 2):
            crowd.come("flood")
        crowd.come("ada")
        assert crowd.refused == ["flood", "flood"]
    crowd.join()

    assert crowd.served.count("flood") == WAITING_OF_ONE_CLIENT_MAX
    assert "ada" in crowd.served


def test_the_queue_has_a_limit(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When the queue is full, the next body is refused at once, whichever client sent it.
    """
    monkeypatch.setattr(large_bodies, "WAITING_MAX", 3)
    with crowd.turns.take("first"):
        for client in "abcd":
            crowd.come(client)
        assert crowd.refused == ["d"]
    crowd.join()

    assert crowd.served == ["a", "b", "c"]


def test_a_turn_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The wait ends with the deadline of the request. The turn is not lost to the others.
    """
    monkeypatch.setattr(deadline, "DEADLINE_SECONDS", 0.05)
    crowd = Crowd()
    with crowd.turns.take("first"):
        crowd.come("ada")
        eventually(lambda: crowd.refused == ["ada"])
        assert crowd.turns.waiting() == 0
    crowd.come("bob")
    crowd.join()

    assert crowd.served == ["bob"]


def test_a_body_that_breaks_passes_its_turn_on() -> None:
    """
    The turn of a body that is refused or fails is free again.
    """
    turns = Turns()
    for _ in range(2 * AT_ONCE):
        with pytest.raises(ValueError, match="broken"), turns.take("ada"):
            raise ValueError("broken")
