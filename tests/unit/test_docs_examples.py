"""
docs/examples: the gateway and the webhook receiver work against calls that Teller signs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from werkzeug.serving import make_server

from processor.gateways import http, signatures
from processor.gateways.protocol import Answer, Order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from flask import Flask

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

SECRET = signatures.written(b"0123456789abcdef01234567")
KEY = "019aa9c2-f1c4-7d2a-8b3e-5f60718293a4"


def load_example(name: str) -> ModuleType:
    """Import docs/examples/<name>.py, which compiles it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signed(message_id: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the headers with which a courier sends this body."""
    key = signatures.gateway_key(secret, "")
    headers = signatures.headers(message_id, int(time.time()), body, [key])
    return {"Content-Type": "application/json", "Idempotency-Key": message_id, **headers}


ORDER: dict[str, Any] = {
    "request": KEY,
    "kind": "withdrawal",
    "account": "u_42",
    "resource": "balance:eur",
    "amount": 500,
    "destination": "DE00",
    "metadata": {},
}


def order(**changes: Any) -> bytes:
    """Return the body of a gateway call."""
    return json.dumps(ORDER | changes).encode()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_can_be_imported(path: Path) -> None:
    """
    Each example compiles, and starts nothing by being imported.
    """
    assert load_example(path.stem).create_app


@contextlib.contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve the application at a free port of this host. Yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_example_gateway_pays_once_and_repeats_its_answer(tmp_path: Path) -> None:
    """
    Teller's own client calls it twice with one key: one payout, the same reference, also after a restart.
    """
    example, database = load_example("gateway"), str(tmp_path / "payouts.db")

    async def call(url: str) -> Answer:
        client = http.HttpGateway(url, signatures.gateway_key(SECRET, ""), 10.0, 1)
        try:
            return await client.perform(
                Order(UUID(KEY), "withdrawal", "u_42", "balance:eur", 500, "DE00", {})
            )
        finally:
            await client.close()

    answers = []
    for _ in range(2):
        with served(example.create_app(SECRET, database)) as address:
            answers.append(asyncio.run(call(f"{address}/pay")))

    assert answers == [Answer("done", 200, reference=f"payout-{KEY}")] * 2
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM payouts").fetchone() == (1,)


def test_the_example_gateway_declines_with_a_reason(tmp_path: Path) -> None:
    """
    Without a destination: a definite no, with its reason.
    """
    body = order(destination=None)
    client = load_example("gateway").create_app(SECRET, str(tmp_path / "payouts.db")).test_client()

    answer = client.post("/pay", data=body, headers=signed(KEY, body))

    assert (http.outcome_of(answer.status_code), answer.json) == ("declined", {"reason": "no destination"})


@pytest.mark.parametrize(("name", "path"), [("gateway", "/pay"), ("webhook_receiver", "/teller")])
def test_an_example_refuses_what_teller_did_not_sign(name: str, path: str, tmp_path: Path) -> None:
    """
    Another key, another body, no signature: 401, which is no answer about the money, and nothing is kept.
    """
    database = str(tmp_path / "kept.db")
    client = load_example(name).create_app(SECRET, database).test_client()
    body, forged = order(), order(amount=999_999)
    other = signatures.written(b"another key, another key")

    for headers, data in ((signed(KEY, body, other), body), (signed(KEY, body), forged), ({}, body)):
        answer = client.post(path, data=data, headers=headers)
        assert http.outcome_of(answer.status_code) == "misconfigured"

    table = {"gateway": "payouts", "webhook_receiver": "requests"}[name]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608


def test_the_example_receiver_keeps_the_newest_state(tmp_path: Path) -> None:
    """
    A repetition and an older state that comes late are answered 204, and change nothing.
    """
    database = str(tmp_path / "requests.db")
    client = load_example("webhook_receiver").create_app(SECRET, database).test_client()
    states = [(2, "failed"), (4, "completed"), (4, "completed"), (2, "failed")]

    for version, status in states:
        data = {"id": KEY, "version": version, "status": status}
        body = json.dumps(
            {"type": f"request.{status}", "timestamp": "2026-11-22T10:00:00Z", "data": data}
        ).encode()
        assert client.post("/teller", data=body, headers=signed(f"msg_{version}", body)).status_code == 204

    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT version, status FROM requests").fetchall()
    assert rows == [(4, "completed")]
