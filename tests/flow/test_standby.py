"""
An API whose PostgreSQL waits for a synchronous standby: it accepts nothing, says so, and goes on afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.stack import Stack, fetch
from tests.standby import missing_standby
from tests.waiting import Deadline, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from processor.settings import Settings

#: The time in which an outage must show, in seconds.
VISIBLE_SECONDS = 10.0
#: The time after the return of the standby in which a request must be accepted, in seconds.
RECOVERY_SECONDS = 2.0


def test_an_api_without_its_standby_is_not_ready_and_accepts_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    """
    503 from /readyz, which names the standby, and for each request. Soon after its return, 200 and 202.
    """
    with Stack(settings.environment(), tmp_path) as stack:
        stack.start_api()
        client = stack.new_client("admin")

        def readiness() -> tuple[int, Any]:
            answer = fetch(f"{stack.url}/readyz")
            return answer.status_code, answer.json().get("missing")

        def deposit(*statuses: int) -> Any:
            return client.post("/v1/deposits", {"resource": "sneaker", "amount": 1}, *statuses, key="one")

        with missing_standby(settings.database_url) as standby:
            limit = Deadline(VISIBLE_SECONDS)
            eventually(lambda: readiness() == (503, ["standby"]))
            limit.check()
            for _ in range(2):
                deposit(503)
            standby.returns()

            limit = Deadline(RECOVERY_SECONDS)
            eventually(lambda: readiness() == (200, None))
            deposit(202)
            limit.check()
