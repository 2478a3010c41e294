"""
Partitions from the command line: listed, paused, resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.said import Said
    from tests.store.store import Store


def test_all_partitions_are_listed_with_what_waits(teller: Callable[..., Said], store: Store) -> None:
    """
    One line each, in order; one that has work says how much and for how long.
    """
    partition = store.open("seat")
    store.accept(store.redeems("seat", "ada"), store.redeems("seat", "bob"))

    listed = teller("partitions", "list", "--json").document["data"]
    rows = teller("partitions", "list").rows

    assert [one["id"] for one in listed] == list(range(64))
    assert [one["id"] for one in listed if one["backlog"]] == [partition]
    assert listed[partition]["oldest_seconds"] > 0
    assert rows[partition][:3] == [str(partition), "none", "2"]


def test_a_paused_partition_decides_nothing_until_it_is_resumed(
    teller: Callable[..., Said], store: Store
) -> None:
    """
    Pausing twice is harmless, and so is resuming twice.
    """
    partition = store.open("seat")
    number = str(partition)

    assert teller("partitions", "pause", number, "--json").document["paused"] is True
    assert teller("partitions", "pause", number).out == f"partition {number} was already paused\n"
    [waiting] = store.accept(store.redeems("seat", "ada"))
    store.drain("seat")
    assert store.statuses([waiting]) == [None]

    assert teller("partitions", "resume", number).out == f"partition {number} decides again\n"
    assert teller("partitions", "resume", number, "--json").document["paused"] is False
    store.drain("seat")
    assert store.statuses([waiting]) == ["completed"]


def test_a_partition_that_is_not_there_is_a_failure(teller: Callable[..., Said]) -> None:
    """
    64 partitions are numbered 0 to 63; a number beyond all bounds is no accident either.
    """
    for number in ("64", "99999", "123456789012345678901234567890"):
        for verb in ("pause", "resume"):
            detail = teller("partitions", verb, number, "--json").refuses(1, "not_found")
            assert detail == f"there is no partition {number}"
