"""
A worker that stops working is seen by `/readyz` of an API, and so is its recovery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stack import Stack, fetch
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings

#: A partition counts as unowned, and work as undecided, after this time in seconds.
TOLERATED_SECONDS = 10.0
#: The time after which `/readyz` must name what holds, in seconds.
VISIBLE_SECONDS = 10.0


def test_a_suspended_worker_is_named_until_it_works_again(settings: Settings, tmp_path: Path) -> None:
    """
    The only worker is suspended while requests wait. `/readyz` names the unowned partitions and the undecided work.
    Soon after the worker runs again, it names nothing.
    """
    with Stack(settings.environment(), tmp_path) as stack:
        worker = stack.start("worker")
        stack.start_api()
        stack.until_shared()
        client = stack.new_client("admin")

        def degraded() -> list[str]:
            answer = fetch(f"{stack.url}/readyz")
            assert answer.status_code == 200
            found: list[str] = answer.json()["degraded"]
            return found

        eventually(lambda: degraded() == [])
        worker.suspend()
        limit = Deadline(TOLERATED_SECONDS + VISIBLE_SECONDS)
        for number in range(20):
            client.post("/v1/resources", {"id": f"r-{number}", "kind": "stock", "available": 1}, 202)

        limit.until(lambda: degraded() == ["unowned", "undecided"])
        worker.resume()
        Deadline(VISIBLE_SECONDS).until(lambda: degraded() == [])
