"""
The alerts and the dashboard of docs/monitoring, and the formats of the metrics that they read.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.stack import TOP
from workers.metrics import CourierMetrics, WorkerMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.teller import Teller

MONITORING = TOP / "docs" / "monitoring"


def rules() -> dict[str, str]:
    """Return the expression of each alert."""
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def queries() -> list[str]:
    """Return the expressions of the dashboard."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.changes_nothing
def test_alerts_and_dashboard_name_metrics_that_exist(teller: Teller) -> None:
    """
    The names are compared with those of an API, a worker and a courier.
    """
    registries = (WorkerMetrics().registry, CourierMetrics(["bank"]).registry)
    teller.client.get("/healthz")  # an answer to count
    texts = [teller.client.get("/metrics").data, *(generate_latest(registry) for registry in registries)]
    families = [family for text in texts for family in read_text(text.decode())]
    printed = {sample.name for family in families for sample in family.samples}
    printed |= {family.name for family in families if family.type == "gauge"}

    named = {
        name
        for expression in (*rules().values(), *queries())
        for name in re.findall(r"\b(?:teller|process)_[a-z_]+\b", expression)
    }

    assert len(named) > 20
    assert named - printed == set()


@pytest.mark.changes_nothing
def test_the_metrics_are_openmetrics_for_those_that_accept_it(teller: Teller) -> None:
    """
    Both formats have the same metrics, and those of the process. Neither has times of creation.
    """
    text = teller.client.get("/metrics")
    openmetrics = teller.client.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert text.headers["Content-Type"].startswith("text/plain; version=")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["Vary"] == "Accept"
    names = [
        {sample.name for family in families for sample in family.samples}
        for families in (
            read_text(text.data.decode()),
            read_openmetrics(openmetrics.data.decode()),  # type: ignore[no-untyped-call]  # it has no types
        )
    ]
    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"} <= names[0]
    assert {name for name in names[0] if "_http_" not in name} <= names[1]
    assert not [name for name in names[0] | names[1] if name.endswith("_created")]


def test_the_alerts_fire_for_what_they_name(tmp_path: Path) -> None:
    """
    Prometheus' own tool runs the cases, in which each alert fires once and stays silent once.

    It also reads all queries of the dashboard.
    """
    tested = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    for case in tested:
        assert {one["alertname"] for one in case["alert_rule_test"]} == rules().keys()
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus")
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))

    for arguments in (
        ["test", "rules", "alerts_test.yml"],
        ["check", "rules", "alerts.yml"],
        ["check", "rules", path],
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
