"""
Partitions on the command line: list, pause, resume.
"""

from __future__ import annotations

import os
import pwd
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.result import Result
    from tests.store.store import Store


def test_all_partitions_are_listed_with_their_backlog(teller: Callable[..., Result], store: Store) -> None:
    """
    Each partition has one line, in order. A partition with a backlog shows its size and its age.
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
    teller: Callable[..., Result], store: Store
) -> None:
    """
    A paused partition decides nothing until it is resumed. Pausing twice is harmless, and so is resuming twice.
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


def test_a_pause_shows_who_paused_it_and_why(teller: Callable[..., Result], store: Store) -> None:
    """
    The reason of the last pause stands in the list. Its actor is the account and the host of the command line.
    """
    number = str(store.open("seat"))
    teller("partitions", "pause", number, "--reason", "an older one")
    teller("partitions", "resume", number, "--reason", "solved")
    teller("partitions", "pause", number, "--reason", "a wrong price")

    listed = teller("partitions", "list", "--json").document["data"][int(number)]
    shown = teller("partitions", "list").rows[int(number)]

    actor = f"command-line (admin {pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()})"
    assert (listed["pause"]["actor"], listed["pause"]["reason"]) == (actor, "a wrong price")
    assert shown[4].startswith(f"a wrong price ({actor}, ")


def test_an_unknown_partition_is_an_error(teller: Callable[..., Result]) -> None:
    """
    The 64 partitions have the numbers 0 to 63. Any other number, however large, is an error of one line.
    """
    for number in ("64", "99999", "123456789012345678901234567890"):
        for verb in ("pause", "resume"):
            detail = teller("partitions", verb, number, "--json").refuses(1, "not_found")
            assert detail == f"there is no partition {number}"
