"""
Serves Teller's API on another port, with two more routes beside the real ones.

`/bench/alike` authenticates, validates and answers like POST /v1/redemptions, and stores nothing.
`/bench/empty` only answers. All routes share one application, one server and one process.

    TELLER_HOME=… python -m bench.accept_server PORT
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from api import app, server
from api.v1 import redemptions
from api.web import idempotency, routing
from api.web.submission import Origin
from bench import processes, system
from processor import log
from processor.ids import new_id
from processor.intake.intake import fingerprint
from processor.records.documents import RequestRecord
from processor.settings import Settings
from teller.embedded.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

    from api.services import Services
    from api.web.routing import Answer, Call

ALIKE, EMPTY = "/bench/alike", "/bench/empty"
START_SECONDS = 60


def alike(call: Call[Services]) -> Answer:
    """Do everything that accepting a redemption does, except make it durable."""
    key = idempotency.read_key(call.header("HTTP_IDEMPOTENCY_KEY"))
    submission = call.body.submission(Origin(call.caller, key, fingerprint("redemption", call.sent)))
    record = RequestRecord(
        new_id(), submission.client_id, submission.kind, submission.resource_id, submission.account,
        submission.amount, submission.metadata, submission.details, None, None, datetime.now(UTC),
    )  # fmt: skip
    headers = {"Location": f"/v1/requests/{record.id}", "ETag": '"1"', "Retry-After": "1"}
    return routing.Answer(record.document(), 202, headers)


def create_app(settings: Settings) -> Flask:
    """Create the application with the two additional routes."""
    [real] = [route for route in redemptions.routes.all if route.path == "/v1/redemptions"]
    app.ROUTES = (*app.ROUTES, dataclasses.replace(real, path=ALIKE, view=alike))  # type: ignore[misc]
    application = app.create_app(settings)
    application.add_url_rule(
        EMPTY, view_func=lambda: ("{}", 202, {"Content-Type": "application/json"}), methods=["POST"]
    )
    return application


@contextlib.contextmanager
def alone(home: Path, *resources: str) -> Iterator[system.Teller]:
    """Run one such server on a new home with these resources, PostgreSQL and Valkey, and no worker."""
    with system.up_in(home, TELLER_WORKERS="1") as teller:
        teller.open(*resources)
    settings = Settings.from_environment({**os.environ, "TELLER_HOME": str(home)})
    with serve(settings), beside(teller) as found:
        yield found


@contextlib.contextmanager
def beside(teller: system.Teller) -> Iterator[system.Teller]:
    """Run one such server on the database of a running Teller."""
    port = system.free_port()
    with processes.running(
        processes.python_module("bench.accept_server", str(port)),
        {"TELLER_HOME": str(teller.home), "TELLER_PORT": str(port), "TELLER_RATE_LIMIT": system.RATE_LIMIT},
    ) as child:
        found = dataclasses.replace(teller, url=f"http://127.0.0.1:{port}", pid=child.pid)
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{found.url}/readyz", timeout=1).close()  # noqa: S310 - our own http URL
                break
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.05)
        yield found


def main() -> int:
    """Serve until the process is stopped."""
    log.configure()
    server.create_app = create_app  # type: ignore[attr-defined,assignment]  # the application with two more routes
    with serve(Settings.from_environment(os.environ)) as servers:
        return server.serve(servers.settings)


if __name__ == "__main__":
    sys.exit(main())
