"""
How long a client waits for a decision, and what Teller costs when nobody asks.

Requests come at a fixed rate, each with `Prefer: wait`, over 64 resources; a latency counts from when the
request should have been sent. Idle: the CPU of all processes but PostgreSQL and Valkey over some seconds.

    python -m bench.latency [--seconds 20] [--rates 10,100,500]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path

from bench import lab, load, system

#: Resources that the requests are spread over.
RESOURCES = 64
#: Connections that send; more than are ever busy at once.
CONNECTIONS = 48
#: Programs that are not ours.
SERVERS = ("postgres", "valkey-server")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, check, and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=20)
    arguments.add_argument("--rates", default="10,100,500")
    asked = arguments.parse_args()

    rows = []
    with system.up(TELLER_WORKERS="2") as teller:
        names = [f"r{number}" for number in range(RESOURCES)]
        teller.open(*names)
        numbers = itertools.count()
        host = teller.url.removeprefix("http://")

        def redemption() -> bytes:
            number = next(numbers)
            body = json.dumps({"resource": names[number % RESOURCES], "account": f"u{number}"}).encode()
            return load.post("/v1/redemptions", host, teller.client_key, body, "Prefer: wait=10")

        load.paced(teller.url, redemption, 50, 2, CONNECTIONS)  # warm
        idle = idle_share(teller.pid, asked.seconds)
        print(f"idle: {idle:.2%} of a core", flush=True)
        for rate in map(int, asked.rates.split(",")):
            answers = load.paced(teller.url, redemption, rate, asked.seconds, CONNECTIONS)
            assert answers.statuses == {200: rate * asked.seconds}, answers.statuses
            milliseconds = [f"{answers.quantile(share):.1f}" for share in (0.5, 0.99, 0.999)]
            print(f"{rate}/s: median, p99, p99.9 = {', '.join(milliseconds)} ms", flush=True)
            rows.append((f"{rate}", *milliseconds))
        assert teller.ask("GET", "/v1/requests?status=failed")["data"] == []

    report = lab.table(("requests/s", "median ms", "p99 ms", "p99.9 ms"), rows)
    lab.publish(
        "latency",
        f"# Latency\n\nAs the client sees it, with `Prefer: wait`, over {RESOURCES} resources, "
        f"{asked.seconds} s each; {os.cpu_count()} cores, two workers.\n\n{report}\n\n"
        f"Idle, all processes but PostgreSQL and Valkey: {idle:.2%} of a core.",
    )


def idle_share(pid: int, seconds: float) -> float:
    """The CPU of a process and all below it, but PostgreSQL and Valkey, as a share of one core."""
    before, began = _ticks(pid), time.monotonic()
    time.sleep(seconds)
    after = _ticks(pid)
    spent = sum(ticks - before.get(process, 0) for process, ticks in after.items())
    return spent / CLOCK_TICKS / (time.monotonic() - began)


def _ticks(top: int) -> dict[int, int]:
    """User and system time of each process of the tree, in clock ticks."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # gone in the meantime
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        if name not in SERVERS:
            spent[process] = int(fields[11]) + int(fields[12])

    def is_ours(process: int) -> bool:
        while process not in (0, 1, top):
            process = parents.get(process, 0)
        return process == top

    return {process: ticks for process, ticks in spent.items() if is_ours(process)}


if __name__ == "__main__":
    main()
