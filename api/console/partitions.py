"""
One partition: its worker and its queue, to be paused and resumed.
"""

from __future__ import annotations

from typing import Final, NoReturn

from api.console.fields import ReasonBackForm, read_digits
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.web.problems import NotFound
from processor.operations import pauses
from processor.reading import overview as overview_queries
from processor.reading.units import read_units

#: The digits of a partition's number.
DIGITS_MAX: Final = 4
#: Rows and resources of the queue on the page.
SHOWN: Final = 20

pages = Pages("overview")


@pages.get("/partitions/<partition>")
def partition(visit: Visit, partition: str) -> Page:
    """
    Show the state of a partition, and its queue.
    """
    number = _number(partition)
    with visit.services.connection() as connection:
        state = overview_queries.read_partition(connection, number) or _none()
        line = overview_queries.read_line(connection, number, SHOWN)
        pause = next(iter(overview_queries.read_pauses(connection, number)), None)
        waiting, _ = overview_queries.read_waiting(connection, number, None, SHOWN)
        units = read_units(connection, (one.resource_id for one in waiting))
    context = {"state": state, "pause": pause, "line": line, "waiting": waiting, "units": units}
    return Page("partition.html", context)


@pages.post("/partitions/<partition>/pause")
def pause(visit: Visit, partition: str) -> Redirect:
    """
    Pause a partition. It accepts requests, but decides none until it is resumed.
    """
    number, form = _number(partition), visit.read(ReasonBackForm)
    with visit.services.connection() as connection:
        changed = pauses.pause(connection, number, visit.caller, form.reason)
    text = "is paused. It accepts requests, but decides none." if changed else "was already paused."
    return Redirect(form.page_or(f"{ROOT}/partitions/{number}"), Notice(f"Partition {number} {text}"))


@pages.post("/partitions/<partition>/resume")
def resume(visit: Visit, partition: str) -> Redirect:
    """
    Resume a partition. The requests in its queue are decided in order.
    """
    number, form = _number(partition), visit.read(ReasonBackForm)
    with visit.services.connection() as connection:
        changed = pauses.resume(connection, number, visit.caller, form.reason)
    visit.services.doorbell.notify(number)
    text = "decides requests again." if changed else "was not paused."
    return Redirect(form.page_or(f"{ROOT}/partitions/{number}"), Notice(f"Partition {number} {text}"))


def _number(text: str) -> int:
    number = read_digits(text, DIGITS_MAX)
    return _none() if number is None else number


def _none() -> NoReturn:
    raise NotFound("there is no such partition")
