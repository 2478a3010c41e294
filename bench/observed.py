"""
Measures what ids and metrics cost while requests are accepted: the CPU of API and PostgreSQL for each request.

The calls run through the application in this process. Every second round keeps no X-Request-Id and no traceparent,
and counts nothing. So each pair of rounds has the same machine, server and tables.

    python -m bench.observed --rounds 20
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from api import create_app
from api.web.request_metrics import RequestMetrics
from bench import lab, processes
from bench.report import progress
from processor import log
from processor.clients import keys
from processor.tracing import correlation
from processor.tracing.correlation import Correlation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor
    from wsgiref.types import WSGIApplication

THREADS: Final = 32
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ca902c7-01"
#: The target: ids and metrics cost at most this share of accepting.
SHARE_MAX: Final = 0.02

_numbers = itertools.count()


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Keep no ids of calls, and count no answers."""
    same = Correlation("unobserved")
    with (
        patch.object(correlation, "of_headers", lambda *_: same),
        patch.object(correlation, "bind", lambda _: None),
        patch.object(correlation, "reset", lambda _: None),
        patch.object(RequestMetrics, "observe", lambda *_: None),
    ):
        yield


def accept(application: WSGIApplication, key: str, *, is_plain: bool) -> None:
    """Make one request, as the server calls the application. A plain call has neither of the two headers."""
    number = next(_numbers)
    body = json.dumps({"resource": "hot", "account": f"u{number}"}).encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/redemptions",
        "QUERY_STRING": "",
        "SERVER_NAME": "bench",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",
        "HTTP_AUTHORIZATION": f"Bearer {key}",
        "HTTP_IDEMPOTENCY_KEY": f"bench-{number}",
    }
    if not is_plain:
        environ |= {"HTTP_X_REQUEST_ID": f"order-{number:016d}", "HTTP_TRACEPARENT": TRACEPARENT}
    statuses = []

    def start(status: str, *_: Any) -> Any:
        statuses.append(status)

    list(application(environ, start))
    assert [status[:3] for status in statuses] == ["202"], statuses


def cpu() -> float:
    """Return the seconds of CPU that this process and its PostgreSQL have used."""
    own = os.getpid()
    return time.process_time() + sum(processes.on_cpu(one) for one in processes.tree(own) if one != own)


def round_of(
    crowd: Executor, application: WSGIApplication, key: str, requests: int, *, is_plain: bool
) -> float:
    """Return the microseconds of CPU for each of some requests."""
    before = cpu()
    list(crowd.map(lambda _: accept(application, key, is_plain=is_plain), range(requests)))
    return (cpu() - before) / requests * 1e6


def measure(rounds: int, requests: int, *, is_plain: bool) -> tuple[list[float], list[float]]:
    """Return the microseconds of each round with ids and metrics, and of the round beside it without."""
    with_ids, without = [], []
    with (
        lab.servers() as servers,
        lab.fresh_database(servers, "observed") as settings,
        lab.connect(settings.database_url) as owner,
        Path(os.devnull).open("w") as unread,
        ThreadPoolExecutor(THREADS) as crowd,
    ):
        with contextlib.redirect_stderr(unread):
            log.configure()
        application = create_app(settings)
        calls = (application.wsgi_app, keys.create_key(owner, "bench", "client").key, requests)
        try:
            round_of(crowd, *calls, is_plain=is_plain)  # warm
            for number in range(rounds):
                first = round_of(crowd, *calls, is_plain=is_plain) if number % 2 else None
                with unobserved():
                    without.append(round_of(crowd, *calls, is_plain=is_plain))
                with_ids.append(first or round_of(crowd, *calls, is_plain=is_plain))
                progress(f"round {number + 1}: {with_ids[-1]:.0f} and {without[-1]:.0f} µs")
        finally:
            application.extensions["teller"].close()
    return with_ids, without


def main() -> None:
    """Print the microseconds with and without, and their median difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.observed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--plain", action="store_true", help="calls without X-Request-Id and traceparent")
    asked: Any = parser.parse_args()
    lab.forget_environment()
    with_ids, without = measure(asked.rounds, asked.requests, is_plain=asked.plain)
    pairs = [one / other - 1 for one, other in zip(with_ids, without, strict=True)]
    share = statistics.median(pairs)
    print(f"with ids and metrics:    {statistics.median(with_ids):7.1f} µs of CPU for each request")
    print(f"without:                 {statistics.median(without):7.1f} µs")
    print(
        f"median of the pairs:     {share:+7.1%}, at most {SHARE_MAX:.0%}: {'yes' if share <= SHARE_MAX else 'no'}"
    )


if __name__ == "__main__":
    main()
