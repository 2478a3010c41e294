"""
One partition: who should drain it, who stands in its line, pause and resume.
"""

from __future__ import annotations

from typing import Annotated, Final, NoReturn

from pydantic import Field

from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, local_path
from api.web.fields import TEXT_CHARACTERS_MAX, Body
from api.web.problems import NotFound
from processor.operations import pauses
from processor.reading import overview as overview_queries

#: A partition's number has at most so many digits.
DIGITS_MAX: Final = 4
#: Rows and resources of the line that are shown.
SHOWN: Final = 20

pages = Pages("overview")


class Pausing(Body):
    """Why, and where to go afterwards."""

    reason: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]
    back: str = ""


@pages.get("/partitions/<partition>")
def partition(visit: Visit, partition: str) -> Page:
    """Its state, and its line."""
    number = _number(partition)
    with visit.services.connection() as connection:
        state = overview_queries.read_partition(connection, number) or _none()
        line = overview_queries.read_line(connection, number, SHOWN)
        waiting, _ = overview_queries.read_waiting(connection, number, None, SHOWN)
    return Page("partition.html", {"state": state, "line": line, "waiting": waiting})


@pages.post("/partitions/<partition>/pause")
def pause(visit: Visit, partition: str) -> Redirect:
    """It accepts, and decides nothing until it is resumed."""
    number, sent = _number(partition), visit.read(Pausing)
    with visit.services.connection() as connection:
        changed = pauses.pause(connection, number, visit.caller, sent.reason)
    text = "is paused. It accepts requests, but decides none." if changed else "was already paused."
    return Redirect(_back(sent, number), Notice(f"Partition {number} {text}"))


@pages.post("/partitions/<partition>/resume")
def resume(visit: Visit, partition: str) -> Redirect:
    """What was accepted meanwhile is decided, in order."""
    number, sent = _number(partition), visit.read(Pausing)
    with visit.services.connection() as connection:
        changed = pauses.resume(connection, number, visit.caller, sent.reason)
    visit.services.doorbell.notify(number)
    text = "decides requests again." if changed else "was not paused."
    return Redirect(_back(sent, number), Notice(f"Partition {number} {text}"))


def _back(sent: Pausing, number: int) -> str:
    """The page of ours that the form was on."""
    return local_path(sent.back) if sent.back else f"{ROOT}/partitions/{number}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
        _none()
    return int(text)


def _none() -> NoReturn:
    raise NotFound("there is no such partition")
