"""
Turns: clients share the places of one process, and take turns.

A place is for work that others wait for: a view, a connection for reads, a large body, a look-up of a name. A client
has at most its share of the places, so the others find some free. A request beyond the share, or beyond all places,
waits for its turn within the deadline of the request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from api.web import deadline, problems
from api.web.share import Share
from processor.errors import TellerError
from processor.intake.turns import Activity

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The turns that wait for one kind of place, and those of one client among them. Each waits on a thread.
WAITING_MAX: Final = 1_024
WAITING_OF_ONE_CLIENT_MAX: Final = 512

#: The pause of long work beside other clients. A thread that waits for the interpreter gets it at once then.
PAUSE_SECONDS: Final = 0.0005

#: The client that the current request acts for. None: no client is known, or there is no request.
_client: ContextVar[str | None] = ContextVar("client", default=None)


class TooManyAtOnce(TellerError):
    """The client has too many requests in progress, and the turn of this one did not come in time."""

    code = "too_many_at_once"


problems.declare(
    TooManyAtOnce.code,
    status=503,
    title="Too many requests at once",
    explanation="The requests of a client that one process works on at once are limited, so that other clients are "
    "served. Too many were waiting, or the turn of this one did not come in time.",
    remedy="Try again after Retry-After seconds, with fewer requests at once. A POST that makes a request is safe to "
    "repeat with the same Idempotency-Key.",
)


def begin() -> None:
    """A request has arrived whose client is not known yet."""
    _client.set(None)


def act_for(client: str) -> None:
    """The current request acts for this client."""
    _client.set(client)


def acting_for() -> str | None:
    """Return the client of the current request, or None."""
    return _client.get()


class _Turn:
    """A turn that a thread waits for."""

    __slots__ = ("came_at", "has_come")

    def __init__(self) -> None:
        self.came_at = 0.0
        self.has_come = threading.Lock()
        self.has_come.acquire()

    def come(self) -> None:
        """Release the thread."""
        self.came_at = time.perf_counter()
        self.has_come.release()


class Turns:
    """
    Places, of which each client has at most `share`. The client that has waited longest without a turn is next.

    A client that is alone has `share_alone`. Beside others its share grows up to that while places are handed over
    quickly (`Share`). `refusal` is the error for a turn that does not come in time.
    """

    def __init__(
        self,
        places: int,
        share: int,
        *,
        share_alone: int | None = None,
        waiting_max: int = WAITING_MAX,
        waiting_of_one_client_max: int = WAITING_OF_ONE_CLIENT_MAX,
        refusal: type[TellerError] = TooManyAtOnce,
    ) -> None:
        self._lock = threading.Lock()
        self._free = places
        self._share = Share(share, share if share_alone is None else share_alone)
        self._activity = Activity()
        self._waiting_max = waiting_max
        self._waiting_of_one_client_max = waiting_of_one_client_max
        self._refusal = refusal
        #: The places that each client has.
        self._taken: dict[str, int] = {}
        self._count = 0
        #: The waiting turns by client, in the order in which the clients take turns.
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._local = threading.local()

    @contextmanager
    def take(self, client: str, *, is_company: bool = True) -> Iterator[None]:
        """
        Wait for a place of this client, and hold it. Raises the refusal.

        Without `is_company`, other clients remain alone: the work is an operator's, or that of a public route.
        """
        if is_company:
            self._activity.note(client)
        turn = self._enter(client)
        if turn is not None and not self._comes(client, turn):
            raise self._refusal("the turn of this request did not come in time")
        self._local.client = client
        try:
            yield
        finally:
            self._local.client = None
            self._leave(client)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """
        Leave the place of this thread to others during a wait, and take a place again after it.

        The work has begun, so it goes on without a place if its turn does not come in time.
        """
        client: str | None = getattr(self._local, "client", None)
        if client is None:
            yield
            return
        self._leave(client)
        try:
            yield
        finally:
            turn = self._enter(client, begun=True)
            if turn is not None and not self._comes(client, turn):
                with self._lock:
                    self._occupy(client)

    def refuse_if_full(self, client: str) -> None:
        """Raise the refusal at once if the client could not even wait for a turn now."""
        turns = self._waiting.get(client)
        if turns is not None and len(turns) >= self._waiting_of_one_client_max:
            raise self._refusal("too many requests are waiting")

    def is_shared(self) -> bool:
        """Return whether several clients have been active in the last seconds."""
        return self._activity.is_shared()

    def make_way(self) -> None:
        """Leave the interpreter to other clients for a moment, if there are any: between parts of long work."""
        if self.is_shared():
            time.sleep(PAUSE_SECONDS)

    def waiting(self) -> int:
        """Return the number of turns that are waited for."""
        return self._count

    def taken(self, client: str) -> int:
        """Return the number of places that a client has."""
        return self._taken.get(client, 0)

    def _enter(self, client: str, *, begun: bool = False) -> _Turn | None:
        """Return the turn to wait for, or None if the client has a place. Raises the refusal."""
        with self._lock:
            if self._free > 0 and self._taken.get(client, 0) < self._share_now():
                self._occupy(client)
                return None
            turns = self._waiting.get(client)
            if not begun and (
                self._count >= self._waiting_max
                or (turns is not None and len(turns) >= self._waiting_of_one_client_max)
            ):
                raise self._refusal("too many requests are waiting")
            if turns is None:
                turns = self._waiting[client] = deque()
            turn = _Turn()
            turns.append(turn)
            self._count += 1
            return turn

    def _comes(self, client: str, turn: _Turn) -> bool:
        """Wait until a turn comes. Returns False if it is no longer waited for."""
        with deadline.remaining() as seconds:
            has_come = turn.has_come.acquire(timeout=seconds)
        if has_come:
            with self._lock:
                self._share.note(time.perf_counter() - turn.came_at)
            return True
        with self._lock:
            turns = self._waiting.get(client, deque())
            if turn not in turns:
                return True
            turns.remove(turn)
            self._count -= 1
            if not turns:
                del self._waiting[client]
            return False

    def _share_now(self) -> int:
        return self._share.places if self.is_shared() else self._share.most

    def _occupy(self, client: str) -> None:
        self._free -= 1
        self._taken[client] = self._taken.get(client, 0) + 1

    def _leave(self, client: str) -> None:
        with self._lock:
            self._free += 1
            if self._taken[client] == 1:
                del self._taken[client]
            else:
                self._taken[client] -= 1
            while self._waiting and self._free > 0 and self._pass_on():
                pass

    def _pass_on(self) -> bool:
        """Give a free place to the next waiting client below its share. Returns False if there is none."""
        share = self._share_now()
        for client, turns in self._waiting.items():
            if self._taken.get(client, 0) < share:
                self._occupy(client)
                turns.popleft().come()
                self._count -= 1
                if turns:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
                return True
        return False
