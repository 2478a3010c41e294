"""
Health checks and metrics, for the supervisor of the process.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel

from api.services import Call
from api.web.problems import RETRY_AFTER_SECONDS
from api.web.routing import Answer, AnswerDoc, Routes
from processor.errors import DatabaseUnavailable, SchemaError
from processor.storage import migrations
from workers.doorbell.condition import Condition

routes = Routes("Health")


Cause = Literal["redis", "unowned", "undecided", "couriers", "locked", "misplaced"]
#: The causes that the database shows. While it does not answer in time, each of them may be true.
UNKNOWN: Final[list[Cause]] = ["unowned", "undecided", "couriers"]


#: States that need an operator while Teller itself works.
Matter = Literal["paused", "webhooks", "gateways", "disk"]


class Readiness(BaseModel):
    """The failing parts of Teller while requests are accepted."""

    degraded: list[Cause]
    #: Other states that need an operator. Absent if there are none.
    attention: list[Matter] | None = None
    #: The fault of a Redis that answers.
    redis: Condition | None = None


class Unreadiness(BaseModel):
    """The dependencies without which no request is accepted."""

    missing: list[Literal["postgresql", "schema", "standby"]]
    degraded: list[Cause]
    #: As above.
    redis: Condition | None = None


class Life(BaseModel):
    """Whether the process is alive."""

    status: Literal["ok", "dying"]


@routes.add(
    "GET",
    "/healthz",
    roles=frozenset(),
    answers={
        200: AnswerDoc("The process is alive.", Life),
        500: AnswerDoc("The intake thread has died. The process ends and is restarted.", Life),
    },
)
def healthz(call: Call) -> Answer:
    """
    Check whether the process is alive.

    Depends on no other process, such as PostgreSQL.
    """
    alive = call.services.intake.alive()
    return Answer({"status": "ok" if alive else "dying"}, 200 if alive else 500)


@routes.add(
    "GET",
    "/readyz",
    roles=frozenset(),
    answers={
        200: AnswerDoc("The process can accept requests.", Readiness),
        503: AnswerDoc("The process cannot accept requests.", Unreadiness, headers=("Retry-After",)),
    },
)
def readyz(call: Call) -> Answer:
    """
    Check whether the process can accept requests.

    PostgreSQL must be available and accept writes, with the schema that this version needs. Commits must not wait for
    a synchronous standby. Otherwise `degraded` names what does not work, within a few seconds:

    - `redis`: Redis carries no notifications, or too slowly. Requests are decided more slowly. If Redis answers, the
      member `redis` names the fault.
    - `unowned`: a partition has had no worker for 10 s.
    - `undecided`: a partition that is not paused has work older than 10 s.
    - `couriers`: a gateway call, webhook delivery, mail or code is overdue by 60 s.
    - `locked`: a backend of another role keeps a worker from working.
    - `misplaced`: in the last hour there was work that the API did not write.

    `attention` names states that need an operator while Teller itself works. It is absent if there are none:

    - `paused`: a partition is paused.
    - `webhooks`: the last tries of a webhook failed.
    - `gateways`: at least three calls of a gateway in a row had no definite answer, and calls are due.
    - `disk`: the disk of the embedded servers is nearly full.
    """
    condition = call.services.redis_check.first_condition()
    degraded: list[str] = [] if condition is None else ["redis"]
    details: dict[str, Any] = {} if condition in (None, "unavailable") else {"redis": condition}
    try:
        with call.services.connection() as connection:
            migrations.check_partitions(
                migrations.read_installation(connection), call.services.settings.partitions
            )
    except DatabaseUnavailable:
        return _unready("postgresql", degraded, details)
    except SchemaError:
        return _unready("schema", degraded, details)
    if call.services.intake.waits_for_standby():
        return _unready("standby", degraded, details)
    health = call.services.health()
    degraded += [cause for cause in (UNKNOWN if health is None else health.causes) if cause not in degraded]
    attention = [] if health is None else health.attention
    if call.services.has_little_disk():
        attention.append("disk")
    if attention:
        details["attention"] = attention
    return Answer({"degraded": degraded, **details})


@routes.add(
    "GET",
    "/metrics",
    roles=frozenset(),
    answers={200: AnswerDoc("Prometheus' text format.", content_type="text/plain")},
)
def metrics(call: Call) -> Answer:
    """
    Read the metrics.

    For this process: HTTP requests by route and status, latencies, intake and waits. For all of Teller: the backlog,
    partitions without a worker, failed requests, gateway calls and deliveries. With `teller up`, also the counts of
    its workers and its courier. A client that accepts OpenMetrics gets it.
    """
    text, content_type = call.services.metrics.text(call.header("HTTP_ACCEPT") or "")
    return Answer(text, headers={"Vary": "Accept"}, content_type=content_type)


def _unready(missing: str, degraded: list[str], details: dict[str, Any]) -> Answer:
    return Answer(
        {"missing": [missing], "degraded": degraded, **details},
        503,
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
