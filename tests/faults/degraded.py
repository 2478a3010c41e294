"""
Degraded, not down: what the APIs say while something is away. Whoever asks is told so soon, and when to ask again;
`/readyz` tells what it is.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from tests.faults.clients import UNAVAILABLE_SECONDS, Client, Http

if TYPE_CHECKING:
    from tests.faults.clients import Answer
    from tests.faults.run import Run


def be_ready(run: Run) -> None:
    """Returns when all APIs are: an earlier fault may have killed one."""
    run.system.until(lambda: all(run.system.is_ready(port) for port in run.system.ports))


def without_postgres(run: Run) -> str:
    """PostgreSQL is away, or there and silent: 503 from each API, in time. Returns what they said, in words."""
    return _ask_all(run, [_post, _look], {"missing": ["postgresql"]})


def without_redis(run: Run) -> str:
    """Redis is away: each API says so, and that it is ready all the same."""
    return _ask_all(run, [_look], {"degraded": ["redis"]})


def _ask_all(run: Run, questions: list[Any], expected: dict[str, list[str]]) -> str:
    """All APIs, at once; what is not as it must be is a problem of the run."""
    took: list[float] = []

    def ask(question: Any, client: Client) -> None:
        began = time.monotonic()
        fault = question(client, expected)
        took.append(time.monotonic() - began)
        if fault is None and took[-1] > UNAVAILABLE_SECONDS:
            fault = "that was late"
        if fault is not None:
            asked = f"port {client.http.ports[0]} after {took[-1]:.1f} s"
            run.problems.append(f"not_told_what_is_away: {question.__name__[1:]} on {asked}: {fault}")

    threads = [
        threading.Thread(target=ask, args=(question, run.load.doubter(port)), daemon=True)
        for port in run.system.ports
        for question in questions
    ]
    for thread in threads:
        thread.start()
    run.system.until(lambda: not any(thread.is_alive() for thread in threads))
    return f"all say so within {max(took):.1f} s"


def _post(client: Client, _expected: object) -> str | None:
    """One try; it may be stored all the same, once PostgreSQL is back."""
    body = {"resource": "shop-1", "account": "doubter", "amount": 1}
    answer = client.once("/v1/redemptions", "redemption", body)
    return _wrong(answer, 503)


def _look(client: Client, expected: dict[str, list[str]]) -> str | None:
    http = Http(client.http.ports, client.http.caller)
    answer = http.call("GET", "/readyz")
    http.hang_up()
    fault = _wrong(answer, 503 if "missing" in expected else 200)
    if fault is None and not expected.items() <= answer.document.items():
        fault = f"it says {answer.document}"
    return fault


def _wrong(answer: Answer, status: int) -> str | None:
    if answer.status != status:
        return f"it answers {answer.status}, and not {status}: {answer.document}"
    if status == 503 and answer.retry_after is None:
        return "it does not say when to ask again"
    return None
