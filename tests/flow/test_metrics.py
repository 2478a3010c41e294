"""
A worker and a courier serve their own metrics, where they are asked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stack import Stack, fetch
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings
    from tests.stack import Process


def metrics(process: Process) -> dict[str, float]:
    """Return the series that a process serves, with their labels."""
    text = fetch(f"http://127.0.0.1:{process.environment['TELLER_METRICS_PORT']}").text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_worker_and_courier_serve_their_metrics(settings: Settings, tmp_path: Path) -> None:
    """
    A worker counts batches, rows and what it swept. A courier counts calls and deliveries, from zero on. A taken port
    is refused in one line.
    """
    with Stack(settings.environment(), tmp_path) as stack:
        worker = stack.start("worker", TELLER_METRICS_PORT=str(free_port()))
        stack.start_api()
        courier = stack.start(
            "courier", TELLER_METRICS_PORT=str(free_port()), TELLER_PORT=str(stack.ports[-1])
        )
        stack.until_shared()
        client = stack.new_client("admin")
        rules = {"kind": "balance", "available": 10, "gateway": "sandbox"}
        client.post("/v1/resources", {"id": "a", **rules}, 200, wait=30)
        client.post("/v1/withdrawals", {"resource": "a", "account": "u", "amount": 1}, 200, wait=30)

        eventually(lambda: metrics(worker)["teller_batch_rows_sum"] == 3)  # with the settlement
        of_worker = metrics(worker)
        assert of_worker["teller_batch_seconds_count"] == of_worker["teller_batch_rows_count"] >= 2
        assert {"teller_swept_total", "teller_reservations_expired_total"} <= of_worker.keys()
        of_courier = metrics(courier)
        assert of_courier['teller_gateway_calls_total{gateway="sandbox",outcome="done"}'] == 1
        assert of_courier['teller_gateway_calls_total{gateway="sandbox",outcome="unknown"}'] == 0
        assert of_courier['teller_deliveries_total{channel="webhook",result="failed"}'] == 0
        assert [name for name in of_worker | of_courier if "_created" in name] == []

        second = stack.start("worker", TELLER_METRICS_PORT=worker.environment["TELLER_METRICS_PORT"])
        assert second.wait() == 1
        assert "TELLER_METRICS_PORT" in second.last_lines()
