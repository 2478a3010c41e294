"""
Each way of being unwell is seen by `/readyz`, a metric, an alert and the console, and so is its end.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis
import yaml  # type: ignore[import-untyped]  # its types are a package of their own
from prometheus_client.parser import text_string_to_metric_families as read_text

from processor import disk
from processor.disk import Disk
from teller.embedded import home as homes
from teller.embedded.valkey import Valkey, environment
from tests.http.teller import opened
from tests.http.visitor import Visitor
from tests.servers import temporary_home
from tests.stack import TOP, Stack
from tests.standby import MissingStandby, standby_of
from tests.waiting import Deadline, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from processor.settings import Settings
    from tests.http.teller import Teller
    from tests.stack import Process

#: The time in which each state must be seen, in seconds. That `unowned` and `couriers` tolerate has passed before.
VISIBLE_SECONDS = 10.0
#: A disk as the servers like it, and one that is nearly full.
ROOMY, FULL = Disk(1 << 40, 1 << 39), Disk(1 << 40, 1 << 29)
EVERYWHERE = {"readyz", "metric", "alert", "console"}
#: An expression of an alert, as far as these alerts have one: the largest value of a metric is above a limit.
ABOVE = re.compile(r"max(?: by \(\w+\))? ?\((\w+)\) > (\d+)")


class View(NamedTuple):
    """One look at `/readyz`, the metrics and the console."""

    names: list[str]
    series: dict[str, float]
    console: str

    def fires(self, alert: str) -> bool:
        """Return whether the expression of an alert holds."""
        parts = [ABOVE.fullmatch(part) for part in EXPRESSIONS[alert].split(" or ")]
        return any(self.series.get(part[1], 0.0) > float(part[2]) for part in parts if part is not None)


class Way(NamedTuple):
    """A way of being unwell, and how it is seen."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    #: As `/readyz` names it, in `degraded`, `attention` or `missing`.
    named: str
    #: The metric that is above zero, and the alert whose expression holds.
    metric: str
    alert: str
    #: A part of the overview.
    text: str


def _expressions() -> dict[str, str]:
    [group] = yaml.safe_load((TOP / "docs" / "monitoring" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


EXPRESSIONS = _expressions()


class Ward:
    """A Teller in this process with a worker and a courier, a Redis of its own, and what can be done to them."""

    def __init__(self, teller: Teller, stack: Stack, control: redis.Redis, standby: MissingStandby) -> None:
        self.teller = teller
        self.stack = stack
        self.control = control
        self.standby = standby
        self.disk = ROOMY
        self.visitor = Visitor.signed_in(teller, teller.admin)
        self.worker: Process = stack.start("worker")
        self.courier: Process = stack.start("courier")

    def view(self) -> View:
        """Look at everything once."""
        readiness = self.teller.client.get("/readyz").json
        names = [
            name for member in ("missing", "degraded", "attention") for name in readiness.get(member) or []
        ]
        series: dict[str, float] = {}
        for family in read_text(self.teller.client.get("/metrics").data.decode()):
            for sample in family.samples:
                series[sample.name] = max(sample.value, series.get(sample.name, 0.0))
        return View(names, series, self.visitor.get("/admin").text)

    def change(self, statement: str) -> None:
        """Change the database as its owner: time passes."""
        self.stack.owner.execute(statement)

    def ways(self) -> list[Way]:
        """Return the table."""
        admin = self.teller.admin
        return [
            Way(
                "worker suspended",
                self._suspend_worker,
                self.worker.resume,
                "unowned",
                "teller_partitions_unowned",
                "TellerUndecided",
                "No worker is running",
            ),
            Way(
                "partition paused",
                lambda: admin.post("/v1/admin/partitions/3/pause", {"reason": "a test"}),
                lambda: admin.post("/v1/admin/partitions/3/resume", {"reason": "a test"}),
                "paused",
                "teller_partitions_paused",
                "TellerPaused",
                "Partition 3 has been paused",
            ),
            Way(
                "courier dead, and a gateway call waits",
                self._kill_courier,
                self._restart_courier,
                "couriers",
                "teller_effects_overdue",
                "TellerCourierOverdue",
                "are overdue",
            ),
            Way(
                "courier dead, and a delivery waits",
                self._kill_courier_before_a_delivery,
                self._restart_courier,
                "couriers",
                "teller_deliveries_overdue",
                "TellerCourierOverdue",
                "are overdue",
            ),
            Way(
                "deliveries failing",
                self._fail_deliveries,
                lambda: self.change("DELETE FROM webhooks WHERE failing_since IS NOT NULL"),
                "webhooks",
                "teller_webhooks_failing",
                "TellerWebhooksFailing",
                "A webhook of",
            ),
            Way(
                "gateway down",
                lambda: self._withdraw("bank", 3),
                lambda: self.change("UPDATE effects SET due_at = NULL WHERE gateway = 'bank'"),
                "gateways",
                "teller_gateway_unanswered",
                "TellerGatewayUnanswered",
                "The gateway bank left its last",
            ),
            Way(
                "disk nearly full",
                lambda: setattr(self, "disk", FULL),
                lambda: setattr(self, "disk", ROOMY),
                "disk",
                "teller_disk_nearly_full",
                "TellerDiskNearlyFull",
                "The disk is nearly full",
            ),
            Way(
                "Redis half-broken",
                lambda: self.control.config_set("maxmemory", 1),
                lambda: self.control.config_set("maxmemory", 0),
                "redis",
                "teller_redis_impaired",
                "TellerRedisImpaired",
                "Redis carries no notifications",
            ),
            Way(
                "standby away",
                self.standby.begin,
                self.standby.returns,
                "standby",
                "teller_standby_missing",
                "TellerStandbyMissing",
                "Commits wait for a synchronous standby",
            ),
        ]

    def _suspend_worker(self) -> None:
        """Suspend the worker. Its lease expired eleven seconds ago."""
        self.worker.suspend()
        self.change("UPDATE workers SET alive_until = now() - interval '11 s'")

    def _kill_courier(self) -> None:
        """Kill the courier. Then a call has been due for a minute."""
        self.courier.kill()
        self._withdraw("sandbox", 1)
        self.change("UPDATE effects SET due_at = now() - interval '61 s' WHERE due_at IS NOT NULL")

    def _kill_courier_before_a_delivery(self) -> None:
        """Kill the courier. Then a mail has been due for a minute."""
        self.courier.kill()
        assert self.teller.client.put("/v1/accounts/u", {"email": "u@example.com"}).status_code == 200
        self._ask("/v1/redemptions", {"resource": "coupon", "account": "u"})
        self.change("UPDATE deliveries SET due_at = now() - interval '61 s' WHERE due_at IS NOT NULL")

    def _restart_courier(self) -> None:
        self.courier.start()

    def _fail_deliveries(self) -> None:
        """Register a webhook at a port without a server, and make a notification."""
        url = f"http://127.0.0.1:{free_port()}/"
        assert self.teller.client.post("/v1/webhooks", {"url": url}).status_code == 201
        self._ask("/v1/redemptions", {"resource": "coupon", "account": "v"})

    def _withdraw(self, gateway: str, count: int) -> None:
        for _ in range(count):
            self._ask("/v1/withdrawals", {"resource": gateway, "account": "w", "amount": 1}, stage="settling")

    def _ask(self, path: str, body: dict[str, Any], stage: str | None = None) -> None:
        """Make a request, and wait for its decision."""
        asked = self.teller.client.post(path, body)
        assert asked.status_code == 202, asked.json
        address = f"/v1/requests/{asked.json['id']}"
        eventually(lambda: self.teller.client.get(address).json["stage"] == stage)


@pytest.fixture
def ward(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    """A healthy Teller, whose gateway `bank` has no server."""
    with temporary_home() as home:
        homes.prepare(home)
        valkey = Valkey(home)
        valkey.start()
        changed = dataclasses.replace(
            settings,
            embeds_valkey=True,  # so that the disk is looked at
            redis_url=environment(home)["REDIS_URL"],
            gateways={"bank": f"http://127.0.0.1:{free_port()}/pay", "sandbox": "http://127.0.0.1:9/none"},
            allow_private_webhooks=True,
        )
        given = {
            **changed.environment(),
            "TELLER_GATEWAYS": ",".join(f"{name}={url}" for name, url in changed.gateways.items()),
            "TELLER_GATEWAY_BACKOFF_SECONDS": "0.5",
            "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
        }
        with (
            opened(changed) as teller,
            Stack(given, tmp_path) as stack,
            redis.Redis.from_url(changed.redis_url) as control,
            standby_of(settings.database_url) as standby,
        ):
            made = Ward(teller, stack, control, standby)
            monkeypatch.setattr(disk, "read", lambda _path: made.disk)
            stack.until_shared()
            for name, kind, gateway in (
                ("coupon", "coupon", None),
                ("bank", "balance", "bank"),
                ("sandbox", "balance", "sandbox"),
            ):
                rules = {"id": name, "kind": kind, "available": 100}
                made.teller.admin.post("/v1/resources", rules | ({"gateway": gateway} if gateway else {}))
            eventually(lambda: len(teller.client.get("/v1/resources").json["data"]) == 3)
            yield made
        valkey.stop()


def test_each_way_of_being_unwell_is_seen_everywhere(ward: Ward) -> None:
    """
    Each row of the table begins while all is well. Within 10 s `/readyz`, a metric, an alert and the console show it.
    Within 10 s of its end, none does.
    """
    for way in ward.ways():
        print(way.name)  # noqa: T201 - of a failed test, pytest shows how far it came
        follow(ward, way)


def follow(ward: Ward, way: Way) -> None:
    """Follow one way of being unwell, from its begin to its end."""
    eventually(lambda: not seen(ward.view(), way))
    way.begin()
    Deadline(VISIBLE_SECONDS).until(lambda: seen(ward.view(), way) == EVERYWHERE)
    way.end()
    Deadline(VISIBLE_SECONDS).until(lambda: not seen(ward.view(), way))


def seen(view: View, way: Way) -> set[str]:
    """Return the places that show a way of being unwell."""
    shown = {
        "readyz": way.named in view.names,
        "metric": view.series.get(way.metric, 0.0) > 0,
        "alert": view.fires(way.alert),
        "console": way.text in view.console,
    }
    return {place for place, is_shown in shown.items() if is_shown}
