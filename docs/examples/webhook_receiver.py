"""
A receiver of Teller's webhooks: checks the signature, ignores repetitions, keeps the newest state of a request.

    pip install flask standardwebhooks
    WEBHOOK_SECRET=whsec_… python docs/examples/webhook_receiver.py

It keeps the states in `requests.db`, in the current directory.
"""

import os
import sqlite3
from contextlib import closing

from flask import Flask, Response, jsonify, request
from standardwebhooks import Webhook, WebhookVerificationError

SCHEMA = "CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, version INTEGER, status TEXT, type TEXT)"

# A delivery that comes twice, or later than a newer one, changes nothing.
KEEP_NEWEST = """
INSERT INTO requests VALUES (:id, :version, :status, :type)
    ON CONFLICT (id) DO UPDATE SET version = :version, status = :status, type = :type
     WHERE requests.version < :version
"""


def create_app(secret: str, database: str) -> Flask:
    """Return the application. Registering the webhook returned `secret`; `database` is the path of an SQLite file."""
    app = Flask(__name__)
    webhook = Webhook(secret)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(SCHEMA)

    @app.post("/teller")
    def receive() -> tuple[Response, int] | tuple[str, int]:
        try:
            event = webhook.verify(request.get_data(), dict(request.headers))
        except WebhookVerificationError:
            return jsonify(error="not signed by Teller"), 401
        data = event["data"]
        row = {"id": data["id"], "version": data["version"], "status": data["status"], "type": event["type"]}
        with closing(sqlite3.connect(database, timeout=5)) as connection, connection:
            is_news = connection.execute(KEEP_NEWEST, row).rowcount == 1
        if is_news:
            app.logger.warning("request %s is %s", row["id"], row["status"])
        return "", 204  # within 10 s; longer work belongs into a queue of your own

    return app


if __name__ == "__main__":
    create_app(os.environ["WEBHOOK_SECRET"], "requests.db").run(port=int(os.environ.get("PORT", "9001")))
