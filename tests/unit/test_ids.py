"""
Permanent names: request ids, and the partition of a resource.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from processor import ids
from processor.domain import partitioning


@pytest.mark.parametrize(
    ("resource", "of_64", "of_1024"),
    [
        ("coupon:BLACKFRIDAY", 39, 103),
        ("wallet:u_42", 30, 414),
        ("seat:12A", 7, 7),
        ("a", 10, 458),
        ("A", 57, 377),
        ("x" * 128, 54, 502),
    ],
)
def test_the_partition_of_a_resource_never_changes(resource: str, of_64: int, of_1024: int) -> None:
    """
    A resource keeps its partition for ever, so these numbers must never be edited.
    """
    assert partitioning.partition_of(resource, 64) == of_64
    assert partitioning.partition_of(resource, 1024) == of_1024
    assert partitioning.partition_of(resource, 1) == 0


def test_resources_spread_over_all_partitions() -> None:
    """
    10,000 names fill 64 partitions about evenly.
    """
    counts = [0] * 64
    for number in range(10_000):
        counts[partitioning.partition_of(f"coupon:{number}", 64)] += 1

    assert min(counts) > 100
    assert max(counts) < 220


def test_queues_are_named_by_their_number() -> None:
    """
    A number has at least two digits, so that names sort, and more if there are more partitions.
    """
    assert [partitioning.queue_name(n) for n in (0, 7, 63, 100, 1023)] == [
        "partition-00",
        "partition-07",
        "partition-63",
        "partition-100",
        "partition-1023",
    ]


def test_an_id_is_a_version_7_uuid_with_its_time() -> None:
    """
    RFC 9562: version 7, variant 10, and the milliseconds since 1970 in its first 48 bits.
    """
    before = time.time_ns() // 1_000_000
    made = ids.new_id()
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after + 1


def test_ids_of_requests_sort_by_the_time_of_acceptance_and_their_place() -> None:
    """
    Each microsecond has its own ids, and those of one group keep its order.
    """
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC)
    moments = [noon + timedelta(microseconds=n) for n in (*range(2_000), 999_999, 10**6, 10**12)]
    made = [ids.accepted_id(moment, tail) for moment in moments for tail in ids.new_tails(3)]

    assert made == sorted(made)
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert made[0].int >> 80 == noon.timestamp() * 1000
    assert len(set(ids.new_tails(1_000) + ids.new_tails(1_000))) == 2_000
    for before, after in itertools.pairwise(moments):
        assert ids.accepted_id(before, ids.new_tails(1)[0]) < ids.first_id_at(after)
        assert ids.first_id_at(after) <= ids.accepted_id(after, ids.new_tails(1)[0])


def test_ids_increase_within_a_process_whatever_the_threads() -> None:
    """
    Each thread sees its ids increase, and no two threads get the same id.
    """
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(mine: list[uuid.UUID]) -> None:
        mine.extend(ids.new_id() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(mine == sorted(mine) for mine in made)
    # Without their random part the ids still differ: each has its own time.
    assert len({one.int >> 64 for mine in made for one in mine}) == 20_000


def test_ids_increase_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the clock is set back an hour, new ids still sort after the existing ones.
    """
    first = ids.new_id()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600 * 10**9)

    assert first < ids.new_id() < ids.new_id()
