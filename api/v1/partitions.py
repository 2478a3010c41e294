"""
Partitions, for operators and admins: owner and backlog of each, pause and resume.
"""

from dataclasses import asdict
from typing import Final

from pydantic import BaseModel

from api.services import Call
from api.web.fields import Body, Text, optional
from api.web.problems import NotFound
from api.web.responses import AllOf
from api.web.routing import Answer, AnswerDoc, Routes
from processor.cluster import ownership
from processor.domain.roles import OPERATORS
from processor.operations import pauses
from processor.records.documents import Document

#: The digits of a partition's number.
DIGITS_MAX: Final = 4

routes = Routes("Partitions")


class Partition(BaseModel):
    """A queue of requests that one worker at a time decides."""

    id: int
    owner: str | None
    backlog: int
    oldest_seconds: float | None
    paused: bool
    locked_by: str | None


class PartitionList(AllOf[Partition]):
    """All partitions."""


class Pausing(Body):
    """The reason for a pause or its end."""

    reason: Text = optional("The audit keeps it.")


@routes.add(
    "GET",
    "/v1/admin/partitions",
    roles=OPERATORS,
    answers={200: AnswerDoc("All in one page, in order.", PartitionList)},
)
def list_partitions(call: Call) -> Answer:
    """
    List partitions.

    Each with its owner, its backlog, the age of its oldest row in seconds, and whether it is paused.
    `locked_by` names a backend of another role that holds a lock against its batches.
    """
    with call.services.connection() as connection:
        return Answer({"data": [asdict(one) for one in ownership.list_partitions(connection)]})


@routes.add(
    "POST",
    "/v1/admin/partitions/<partition>/pause",
    roles=OPERATORS,
    body=Pausing,
    body_optional=True,
    answers={200: AnswerDoc("The partition is paused, and no batch with it is running.", Partition)},
    problems=(NotFound,),
)
def pause_partition(call: Call, partition: str) -> Answer:
    """
    Pause a partition.

    Requests are still accepted, but not decided until the partition is resumed.
    """
    number = _number(partition)
    body: Pausing = call.body
    with call.services.connection() as connection:
        pauses.pause(connection, number, call.caller, body.reason)
    return Answer(_read(call, number))


@routes.add(
    "POST",
    "/v1/admin/partitions/<partition>/resume",
    roles=OPERATORS,
    body=Pausing,
    body_optional=True,
    answers={200: AnswerDoc("The partition is no longer paused.", Partition)},
    problems=(NotFound,),
)
def resume_partition(call: Call, partition: str) -> Answer:
    """
    Resume a partition.

    Requests that were accepted meanwhile are decided in order.
    """
    number = _number(partition)
    body: Pausing = call.body
    with call.services.connection() as connection:
        pauses.resume(connection, number, call.caller, body.reason)
    call.services.doorbell.notify(number)
    return Answer(_read(call, number))


def _number(partition: str) -> int:
    if not (partition.isascii() and partition.isdecimal() and len(partition) <= DIGITS_MAX):
        raise NotFound("there is no such partition")
    return int(partition)


def _read(call: Call, number: int) -> Document:
    with call.services.connection() as connection:
        return next(asdict(one) for one in ownership.list_partitions(connection) if one.id == number)
