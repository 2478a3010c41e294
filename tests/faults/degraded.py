"""
The APIs' answers while a server is unavailable: in time, with Retry-After, and with the server's name in
`/readyz`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.faults.clients import UNAVAILABLE_SECONDS, Client, Http
from tests.waiting import Deadline

if TYPE_CHECKING:
    from tests.faults.clients import Answer
    from tests.faults.run import Run


def be_ready(run: Run) -> None:
    """Wait until all APIs are ready, because an earlier fault may have killed one."""
    run.system.until(lambda: all(run.system.is_ready(port) for port in run.system.ports))


def without_postgres(run: Run) -> str:
    """Check that each API answers 503 in time while PostgreSQL is dead or silent. Returns a description."""
    return _ask_all(run, [_send, _read_readiness], {"missing": ["postgresql"]})


def without_redis(run: Run) -> str:
    """Check that each API reports the unavailable Redis, and that it is ready. Returns a description."""
    return _ask_all(run, [_read_readiness], {"degraded": ["redis"]})


def _ask_all(run: Run, questions: list[Any], expected: dict[str, list[str]]) -> str:
    """Ask all APIs at once. Wrong answers become problems of the run."""
    took: list[float] = []

    def ask(question: Any, client: Client) -> None:
        limit = Deadline(UNAVAILABLE_SECONDS)
        fault = question(client, expected)
        took.append(limit.passed)
        if fault is None and not limit.is_met():
            fault = f"the answer was later than {limit}"
        if fault is not None:
            asked = f"port {client.http.ports[0]} after {took[-1]:.1f} s"
            run.problems.append(f"outage_not_reported {question.__name__[1:]} on {asked}: {fault}")

    threads = [
        threading.Thread(target=ask, args=(question, run.load.outage_client(port)), daemon=True)
        for port in run.system.ports
        for question in questions
    ]
    for thread in threads:
        thread.start()
    run.system.until(lambda: not any(thread.is_alive() for thread in threads))
    return f"all report it within {max(took):.1f} s"


def _send(client: Client, _expected: object) -> str | None:
    """Send one request. It may be stored once PostgreSQL is back."""
    body = {"resource": "shop-1", "account": "outage", "amount": 1}
    answer = client.once("/v1/redemptions", "redemption", body)
    return _wrong(answer, 503)


def _read_readiness(client: Client, expected: dict[str, list[str]]) -> str | None:
    http = Http(client.http.ports, client.http.caller)
    answer = http.call("GET", "/readyz")
    http.hang_up()
    fault = _wrong(answer, 503 if "missing" in expected else 200)
    # Earlier faults of the run may have left other parts degraded.
    if fault is None and not all(set(names) <= set(answer.document[key]) for key, names in expected.items()):
        fault = f"it answers {answer.document}"
    return fault


def _wrong(answer: Answer, status: int) -> str | None:
    if answer.status != status:
        return f"it answers {answer.status}, and not {status}: {answer.document}"
    if status == 503 and answer.retry_after is None:
        return "it has no Retry-After"
    return None
