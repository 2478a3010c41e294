"""
How fast requests are accepted, durably: `POST /v1/redemptions` against handlers that store nothing.

All of them are served by the same process on the same port, and measured in turns: the real route; one that
authenticates, validates and answers alike and stores nothing; and an empty one.

    python -m bench.accept [--seconds 5] [--rounds 3] [--connections 32]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from typing import TYPE_CHECKING

from bench import accept_server, lab, load, system

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Items of one POST /v1/batches.
BATCH_ITEMS = 1_000


def main() -> None:
    """Measure, check, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--connections", type=int, default=32)
    asked = arguments.parse_args()

    rates: dict[str, list[float]] = {}
    with system.up(TELLER_WORKERS="1") as whole, accept_server.beside(whole) as teller:
        whole.open("hot")
        # Accepting is measured here, not deciding: the two cores are for the client, the API and PostgreSQL.
        partition = whole.ask("GET", "/v1/resources/hot")["partition"]
        whole.ask("POST", f"/v1/admin/partitions/{partition}/pause", {"reason": "benchmark"})
        host = teller.url.removeprefix("http://")
        numbers = itertools.count()

        def requests(path: str) -> Iterator[bytes]:
            for number in numbers:
                body = json.dumps({"resource": "hot", "account": f"u{number}"}).encode()
                yield load.post(path, host, teller.client_key, body)

        def batches() -> Iterator[bytes]:
            for number in numbers:
                items = [
                    {
                        "kind": "redemption",
                        "idempotency_key": f"{number}-{item}",
                        "resource": "hot",
                        "account": f"u{item}",
                    }
                    for item in range(BATCH_ITEMS)
                ]
                yield load.post(
                    "/v1/batches", host, teller.client_key, json.dumps({"requests": items}).encode()
                )

        load.closed(teller.url, requests("/v1/redemptions"), asked.connections, 1)  # warm
        for _ in range(asked.rounds):
            for path in ("/v1/redemptions", accept_server.ALIKE, accept_server.EMPTY):
                answers = load.closed(teller.url, requests(path), asked.connections, asked.seconds)
                assert set(answers.statuses) == {202}, answers.statuses
                rates.setdefault(path, []).append(answers.rate)
                print(f"{path}: {answers.rate:,.0f}/s", flush=True)
        prepared = itertools.islice(batches(), 400)
        answers = load.closed(teller.url, iter(list(prepared)), 4, asked.seconds)
        assert set(answers.statuses) == {202}, answers.statuses
        batched = answers.rate * BATCH_ITEMS
        print(f"/v1/batches: {batched:,.0f} accepted/s", flush=True)

    median = {path: statistics.median(found) for path, found in rates.items()}
    single = median["/v1/redemptions"]
    report = lab.table(
        ("handler", "requests/s", "accepting is so much of it"),
        [
            ("POST /v1/redemptions, durable", single, "100 %"),
            (
                "authenticates and validates alike, stores nothing",
                median[accept_server.ALIKE],
                f"{single / median[accept_server.ALIKE]:.0%}",
            ),
            ("empty", median[accept_server.EMPTY], f"{single / median[accept_server.EMPTY]:.0%}"),
            (f"POST /v1/batches, {BATCH_ITEMS:,} each: accepted", batched, f"{single / batched:.0%}"),
        ],
    )
    lab.publish(
        "accept",
        f"# Accept\n\nOne API process, {asked.connections} connections, deciding paused, "
        f"{os.cpu_count()} cores for server and client, median of {asked.rounds} rounds.\n\n{report}",
    )


if __name__ == "__main__":
    main()
