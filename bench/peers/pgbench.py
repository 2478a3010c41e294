"""
PostgreSQL alone: pgbench with the usual transaction around a row lock, and with one statement.

Each client decides its share of the requests, each once, without network, queue or Python. This is the most that one
lock or one statement for each request can reach on this server.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

from bench import lab

if TYPE_CHECKING:
    from pathlib import Path

#: Reads the next request of this client, locks the row, checks, takes, writes.
ROW_LOCK = """
\\set n :n + 1
\\set request :n * :clients + :client_id + 1
BEGIN;
SELECT resource_id, amount FROM asked WHERE id = :request \\gset
SELECT available FROM stock WHERE id = :resource_id FOR UPDATE;
UPDATE stock SET available = available - :amount, version = version + 1
 WHERE id = :resource_id AND available >= :amount;
INSERT INTO ledger (resource_id, request, amount, available)
SELECT id, :request, :amount, available FROM stock WHERE id = :resource_id;
UPDATE asked SET status = 'completed', decided_at = clock_timestamp() WHERE id = :request;
COMMIT;
"""
#: The UPDATE decides if there is enough, and everything else depends on it.
ONE_STATEMENT = """
\\set n :n + 1
\\set request :n * :clients + :client_id + 1
WITH request AS (
    SELECT resource_id, amount FROM asked WHERE id = :request
), taken AS (
    UPDATE stock SET available = stock.available - request.amount, version = stock.version + 1
      FROM request WHERE stock.id = request.resource_id AND stock.available >= request.amount
    RETURNING stock.id, stock.available, request.amount
), entry AS (
    INSERT INTO ledger (resource_id, request, amount, available) SELECT id, :request, amount, available FROM taken
)
UPDATE asked SET status = CASE WHEN EXISTS (SELECT FROM taken) THEN 'completed' ELSE 'rejected' END,
                 decided_at = clock_timestamp()
 WHERE id = :request;
"""
SCRIPTS = {"row lock": ROW_LOCK, "one statement": ONE_STATEMENT}
CLIENTS = (1, 8, 16)

_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


def run(url: str, script: str, clients: int, requests: int) -> float:
    """Return transactions a second, over prepared statements. `requests` must be a multiple of `clients`."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql", prefix="teller-", dir=lab.ROOM) as file:
        file.write(script)
        file.flush()
        options = {
            "-M": "prepared",
            "-c": clients,
            "-j": min(clients, os.cpu_count() or 1),
            "-t": requests // clients,
            "-f": file.name,
        }
        variables = ["-D", "n=-1", "-D", f"clients={clients}"]
        program: list[str | Path] = [lab.postgres_program("pgbench"), "-n", *variables]
        program += [str(part) for option in options.items() for part in option]
        done = subprocess.run([*program, url], check=False, capture_output=True, text=True)
    found = _RATE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench: {done.stderr.strip()}")
    return float(found[1])
