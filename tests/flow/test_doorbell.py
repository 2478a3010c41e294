"""
The doorbell: coalesced, bounded, harmless without Redis, and a message that any Dramatiq understands.
"""

from __future__ import annotations

import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.commands.core import Script

from tests.flow.relay import Relay
from tests.waiting import TIMEOUT_SECONDS, eventually
from workers.doorbell import ring as module
from workers.doorbell.announcements import Announcements
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = Names(uuid.UUID(int=7))
QUEUE = NAMES.waiting(7)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """
    A client that reads the keys in Redis.
    """
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def bell(redis_url: str) -> Iterator[Doorbell]:
    """
    A doorbell as the API has it.
    """
    opened = Doorbell(redis_url, lambda: NAMES)
    yield opened
    opened.close()


@pytest.fixture
def lasting_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Markers that no slow machine outlives.
    """
    monkeypatch.setattr(module, "MARKER_TTL_MS", 600_000)


@pytest.mark.usefixtures("lasting_markers")
def test_a_burst_is_one_message(bell: Doorbell, client: redis.Redis) -> None:
    """
    A thousand notifications from ten threads are one message. They meet in the sending thread or at the marker.
    """
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(bell.notify, [7] * 1_000))
    assert bell.flush(TIMEOUT_SECONDS)

    assert client.llen(QUEUE) == 1
    assert client.hlen(f"{QUEUE}.msgs") == 1
    assert bell.faults == 0


@pytest.mark.usefixtures("lasting_markers")
def test_two_processes_that_notify_put_one_message(
    bell: Doorbell, redis_url: str, client: redis.Redis
) -> None:
    """
    The marker that coalesces them is in Redis, not in a process.
    """
    other = Doorbell(redis_url, lambda: NAMES)
    bell.notify(7)
    other.notify(7)
    other.close()
    assert bell.flush(TIMEOUT_SECONDS)

    assert client.llen(QUEUE) == 1


def test_a_commit_after_the_acknowledgement_notifies_again(bell: Doorbell, client: redis.Redis) -> None:
    """
    The drain may have read the inbox before that commit.
    """
    bell.notify(7)
    eventually(lambda: client.llen(QUEUE) == 1)
    bell.acknowledge([7])
    bell.notify(7)

    eventually(lambda: client.llen(QUEUE) == 2)


def test_nothing_piles_up_without_a_worker(bell: Doorbell, client: redis.Redis) -> None:
    """
    Each second without an acknowledgement lets one more notification through. At most two messages wait.
    """
    for _ in range(10):
        bell.notify(7)
        assert bell.flush(TIMEOUT_SECONDS)
        client.delete(NAMES.marker(7))  # as after a second

    assert client.llen(QUEUE) == module.MESSAGES_WAITING_MAX
    assert client.hlen(f"{QUEUE}.msgs") == module.MESSAGES_WAITING_MAX


def test_the_marker_is_gone_after_a_second(bell: Doorbell, client: redis.Redis) -> None:
    """
    A lost message silences a partition for no longer.
    """
    remaining_ms: list[int] = []

    def is_marked() -> bool:
        bell.notify(7)  # again, if a slow machine has outlived the marker
        remaining_ms.append(client.pttl(NAMES.marker(7)))
        return remaining_ms[-1] > 0

    eventually(is_marked)

    assert remaining_ms[-1] <= 1_000


def test_any_dramatiq_worker_understands_it(bell: Doorbell, redis_url: str) -> None:
    """
    An unchanged broker of Dramatiq's with an actor `drain` gets the partition as its argument, and can acknowledge.
    """
    broker = RedisBroker(url=redis_url, namespace=NAMES.prefix, middleware=[])  # type: ignore[no-untyped-call] # Dramatiq's own
    drained: list[int] = []
    dramatiq.actor(queue_name="partition-07", actor_name="drain", broker=broker)(drained.append)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
    worker.start()
    try:
        bell.notify(7)
        eventually(lambda: drained == [7])
        broker.join("partition-07", timeout=5_000)
    finally:
        worker.stop(timeout=2_000)
        broker.client.close()


def test_the_name_of_the_queue_is_published_after_the_message(bell: Doorbell, client: redis.Redis) -> None:
    """
    A consumer that the name wakes finds the message.
    """
    with client.pubsub() as subscription:  # type: ignore[no-untyped-call] # redis-py's own
        subscription.subscribe(NAMES.channel("wake"))
        assert subscription.get_message(timeout=TIMEOUT_SECONDS)
        bell.notify(7)
        published = subscription.get_message(timeout=TIMEOUT_SECONDS)

    assert published is not None
    assert published["data"] == b"partition-07"
    assert client.llen(QUEUE) == 1


def test_decided_requests_are_announced(bell: Doorbell, redis_url: str) -> None:
    """
    A listener receives exactly the ids, at any number.
    """
    received: set[bytes] = set()
    connected = threading.Event()
    announcements = Announcements(redis_url, lambda: NAMES, received.update, connected.set)
    announcements.start()
    assert connected.wait(TIMEOUT_SECONDS)
    ids = {uuid.uuid4() for _ in range(2_000)}

    bell.announce(ids)

    eventually(lambda: received == {one.bytes for one in ids})
    announcements.stop()


def test_a_listener_is_notified_of_each_connection(redis_url: str, client: redis.Redis) -> None:
    """
    Announcements without a connection are lost, so its owner must read the state.
    """
    connected = threading.Semaphore(0)
    announcements = Announcements(redis_url, lambda: NAMES, lambda _: None, connected.release)
    announcements.start()
    assert connected.acquire(timeout=TIMEOUT_SECONDS)

    client.client_kill_filter(_type="pubsub")

    assert connected.acquire(timeout=TIMEOUT_SECONDS)
    announcements.stop()


@pytest.fixture
def silent_redis() -> Iterator[str]:
    """
    A Redis that accepts connections and never answers, which is worse than one that is gone.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_redis_that_never_answers_holds_up_no_commit_and_one_acknowledgement(
    silent_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Notifications wait for nothing. The first acknowledgement waits for the time-out, and later ones do not connect.
    """
    bell = Doorbell(silent_redis, lambda: NAMES)
    for partition in range(64):
        bell.notify(partition)
    bell.announce([uuid.uuid4()])
    assert bell.faults == 0  # all calls returned before the first time-out

    bell.acknowledge([7])
    assert bell.is_unavailable
    monkeypatch.setattr(redis.Redis, "delete", lambda *_: pytest.fail("it waits for Redis again"))
    bell.acknowledge([7])

    eventually(lambda: bell.faults >= 2)
    bell.close()


def test_a_doorbell_finds_out_that_redis_is_available_again(bell: Doorbell) -> None:
    """
    Also while there is nothing to send: a worker without work would otherwise sweep at its fast pace for ever.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.Redis, "delete", lambda *_: (_ for _ in ()).throw(redis.TimeoutError("silent")))
        patch.setattr(Script, "__call__", lambda *_: (_ for _ in ()).throw(redis.TimeoutError("silent")))
        bell.acknowledge([7])
        eventually(lambda: bell.faults >= 3)
        assert bell.is_unavailable

    eventually(lambda: not bell.is_unavailable)
    assert not bell.reaches_workers  # a marker from the outage may still silence its partition
    eventually(lambda: bell.reaches_workers)


@pytest.fixture
def distant_redis(redis_url: str) -> Iterator[str]:
    """
    A Redis whose answers take 60 ms, as in another region.
    """
    with Relay(redis_url).running() as relay:
        relay.delay_seconds = 0.06
        yield relay.url


def test_a_distant_redis_is_used_as_well(distant_redis: str, client: redis.Redis) -> None:
    """
    A round trip of 60 ms is no fault: the notification gets through, and so does the acknowledgement.
    """
    bell = Doorbell(distant_redis, lambda: NAMES)
    bell.notify(7)
    eventually(lambda: client.llen(QUEUE) == 1)
    bell.acknowledge([7])
    bell.notify(7)
    eventually(lambda: client.llen(QUEUE) == 2)

    assert bell.faults == 0
    bell.close()


def test_a_fault_of_redis_is_counted_and_the_next_notification_is_sent(
    bell: Doorbell, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The failed notification is left to the sweep.
    """
    with monkeypatch.context() as patch:
        patch.setattr(Script, "__call__", lambda *_: (_ for _ in ()).throw(redis.ConnectionError("gone")))
        bell.notify(7)
        eventually(lambda: bell.faults == 1)
    assert client.llen(QUEUE) == 0

    bell.notify(7)

    eventually(lambda: client.llen(QUEUE) == 1)
    assert bell.faults == 1


def test_installations_on_one_redis_never_receive_each_others_notifications(
    bell: Doorbell, redis_url: str, client: redis.Redis
) -> None:
    """
    Keys, queues and channels carry the installation's id. The database number would not keep channels apart.
    """
    others = Names(uuid.UUID(int=8))
    other = Doorbell(redis_url, lambda: others)
    received: list[tuple[str, set[bytes]]] = []
    listeners = []
    for name, names in (("own", NAMES), ("other", others)):
        connected = threading.Event()

        def receive(ids: set[bytes], name: str = name) -> None:
            received.append((name, ids))

        listeners.append(Announcements(redis_url, lambda names=names: names, receive, connected.set))  # type: ignore[misc]
        listeners[-1].start()
        assert connected.wait(TIMEOUT_SECONDS)
    own_id, other_id = uuid.uuid4(), uuid.uuid4()

    bell.notify(7)
    bell.announce([own_id])
    assert bell.flush(TIMEOUT_SECONDS)
    assert client.llen(others.waiting(7)) == 0
    other.notify(7)  # the marker of the first one does not silence it
    other.announce([other_id])
    assert other.flush(TIMEOUT_SECONDS)

    assert client.llen(others.waiting(7)) == client.llen(NAMES.waiting(7)) == 1
    eventually(lambda: len(received) == 2)
    assert received == [("own", {own_id.bytes}), ("other", {other_id.bytes})]
    tags = {key.partition(b"{")[2].partition(b"}")[0] for key in client.scan_iter()}
    assert tags == {str(uuid.UUID(int=number)).encode() for number in (7, 8)}
    for listener in listeners:
        listener.stop()
    other.close()
