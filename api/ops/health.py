"""
Health, for whoever watches over the process: alive, ready, counted.
"""

from typing import Literal

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from redis import RedisError

from api.services import Call
from api.web.problems import RETRY_AFTER_SECONDS
from api.web.routing import Answer, AnswerDoc, Routes
from processor.errors import DatabaseUnavailable, SchemaError
from processor.storage import migrations

routes = Routes("Health")


class Readiness(BaseModel):
    """The dependencies that are unavailable while requests are accepted."""

    degraded: list[str]


class Unreadiness(BaseModel):
    """The dependencies without which no request is accepted."""

    missing: list[str]
    degraded: list[str]


class Life(BaseModel):
    """Whether the process is alive."""

    status: Literal["ok", "dying"]


@routes.add(
    "GET",
    "/healthz",
    roles=frozenset(),
    answers={
        200: AnswerDoc("It lives.", Life),
        500: AnswerDoc("Its writer has died: it ends, to be started again.", Life),
    },
)
def healthz(call: Call) -> Answer:
    """
    Tell whether the process lives.

    Asks nobody else: PostgreSQL may be away while it lives.
    """
    alive = call.services.intake.alive()
    return Answer({"status": "ok" if alive else "dying"}, 200 if alive else 500)


@routes.add(
    "GET",
    "/readyz",
    roles=frozenset(),
    answers={
        200: AnswerDoc("It can do its work.", Readiness),
        503: AnswerDoc("It cannot.", Unreadiness, headers=("Retry-After",)),
    },
)
def readyz(call: Call) -> Answer:
    """
    Tell whether it can do its work.

    PostgreSQL must be there, with the schema that this version needs. Without Redis it works, a little slower.
    """
    degraded = [] if _redis_answers(call) else ["redis"]
    try:
        with call.services.connection() as connection:
            migrations.check_partitions(
                migrations.read_installation(connection), call.services.settings.partitions
            )
    except DatabaseUnavailable:
        return _unready("postgresql", degraded)
    except SchemaError:
        return _unready("schema", degraded)
    return Answer({"degraded": degraded})


@routes.add(
    "GET",
    "/metrics",
    roles=frozenset(),
    answers={200: AnswerDoc("Prometheus' text format.", content_type="text/plain")},
)
def metrics(call: Call) -> Answer:
    """
    Count what this process did.

    HTTP requests by route and status, latencies, intake, waits of this process; and what somebody should look at in
    all of Teller: parked requests, deliveries that wait, gateways that are left alone.
    """
    return Answer(call.services.metrics.text(), content_type=CONTENT_TYPE_LATEST)


def _redis_answers(call: Call) -> bool:
    try:
        return bool(call.services.redis.ping())
    except (RedisError, OSError):
        return False


def _unready(missing: str, degraded: list[str]) -> Answer:
    return Answer(
        {"missing": [missing], "degraded": degraded}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    )
