"""
A gateway for Teller: checks the signature, pays once for each request, and answers the same again.

    pip install flask standardwebhooks
    TELLER_GATEWAY_SECRET=whsec_… python docs/examples/gateway.py

It keeps its payouts in `payouts.db`, in the current directory.
"""

import json
import os
import sqlite3
from contextlib import closing
from typing import Any

from flask import Flask, Response, jsonify, request
from standardwebhooks import Webhook, WebhookVerificationError

#: The largest amount that this gateway pays, in whole units of the resource.
LARGEST_AMOUNT = 1_000_000

SCHEMA = "CREATE TABLE IF NOT EXISTS payouts (request TEXT PRIMARY KEY, status INTEGER, answer TEXT)"


def create_app(secret: str, database: str) -> Flask:
    """Return the application. `secret` is TELLER_GATEWAY_SECRET, `database` the path of an SQLite file."""
    app = Flask(__name__)
    webhook = Webhook(secret)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(SCHEMA)

    @app.post("/pay")
    def pay() -> tuple[Response, int]:
        body = request.get_data()
        try:
            order = webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            return jsonify(reason="not signed by Teller"), 401  # Teller: misconfigured, the money stays held
        # The signature covers webhook-id, so this is the key to trust. Idempotency-Key repeats it.
        key = request.headers["webhook-id"]

        # isolation_level=None: the transaction below is the only one. A second call of the same key waits for it.
        with closing(sqlite3.connect(database, isolation_level=None, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            stored = connection.execute(
                "SELECT status, answer FROM payouts WHERE request = ?", [key]
            ).fetchone()
            if stored is None:
                stored = decide(key, order)
                connection.execute("INSERT INTO payouts VALUES (?, ?, ?)", [key, *stored])
            connection.execute("COMMIT")
        status, answer = stored
        return jsonify(json.loads(answer)), status

    return app


def decide(key: str, order: dict[str, Any]) -> tuple[int, str]:
    """Pay or decline. Returns the status and the body of the answer. A real gateway moves the money here."""
    if not order["destination"]:
        return 422, json.dumps({"reason": "no destination"})
    if order["amount"] > LARGEST_AMOUNT:
        return 422, json.dumps({"reason": "amount too large"})
    return 200, json.dumps({"reference": f"payout-{key}"})


if __name__ == "__main__":
    create_app(os.environ["TELLER_GATEWAY_SECRET"], "payouts.db").run(
        port=int(os.environ.get("PORT", "9000"))
    )
