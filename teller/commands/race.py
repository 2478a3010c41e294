"""
`teller race`: many users want one thing at the same instant, in a database with each strategy, or at any URL.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from lab import arena, endpoint, endpoint_results, paused_holder, tellers_queue
from lab.arena import STOCK_MAX, USERS_MAX
from lab.strategies import STRATEGIES
from processor import log
from processor.batch import run as batch
from processor.intake.intake import Intake
from processor.settings import Settings
from processor.storage import connections, migrations
from teller.commands import race_drawing as drawing
from teller.embedded import postgres, valkey
from teller.embedded.servers import serve
from teller.printing import Command, as_json, show
from teller.root import WAITED_TOO_LONG
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lab.arena import Arena
    from lab.outcomes import Outcome

USERS: Final = 50
STOCK: Final = 1
METHOD: Final = "POST"
ACCEPTED: Final = "200,201,202"
EVERY: Final = "all"
#: The application name of its connections.
NAME: Final = "teller race"
#: Headers that follow from the rest of a request, and cannot be given.
_OURS: Final = frozenset({"content-length", "transfer-encoding", "connection"})

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*(.*)", re.ASCII)
_METHOD = re.compile(r"[A-Za-z]{1,32}", re.ASCII)


def _method(value: str) -> str:
    if not _METHOD.fullmatch(value):
        raise click.BadParameter("a method is a word, such as POST")
    return value.upper()


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        raise click.BadParameter("this is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable() or " " in value:
        raise click.BadParameter("a URL begins with http:// or https:// and names a host")
    return value


def _body(value: str) -> str:
    try:
        json.loads(value.replace("{n}", "1"))
    except ValueError as fault:
        raise click.BadParameter(f"this is not JSON: {fault}") from None
    return value


def _header(value: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(value.strip())
    if not found or not found[2].isprintable() or not found[2].isascii():
        raise click.BadParameter(
            "a header is a name, a colon and a value, such as 'Authorization: Bearer abc'"
        )
    if found[1].lower() in _OURS:
        raise click.BadParameter(f"{found[1]} follows from the rest of the request")
    return found[1], found[2]


def _statuses(value: str) -> frozenset[int]:
    if not re.fullmatch(r"\s*[1-5][0-9]{2}\s*(,\s*[1-5][0-9]{2}\s*)*", value, re.ASCII):
        raise click.BadParameter("statuses are numbers from 100 to 599 with commas between, such as 200,201")
    return frozenset(int(status) for status in value.split(","))


@click.command(cls=Command, short_help="Show a race and its prevention, here or at any URL.")
@click.option(
    "--users",
    type=click.IntRange(1, USERS_MAX),
    default=USERS,
    show_default=True,
    help="Number of users at the same instant, each with its own connection.",
)
@click.option("--stock", type=click.IntRange(1, STOCK_MAX), show_default=str(STOCK), help="Number of pieces.")
@click.option(
    "--strategy",
    type=click.Choice([*STRATEGIES, EVERY]),
    show_default=EVERY,
    help="The protection: naive is the textbook without any, queue is Teller.",
)
@click.option("--url", type=_url, metavar="URL", help="Race against this endpoint.")
@click.option("--method", type=_method, metavar="METHOD", show_default=METHOD, help="With --url.")
@click.option(
    "--body",
    type=_body,
    metavar="JSON",
    help="With --url: the body of each request. {n} and {uuid} are replaced.",
)
@click.option(
    "--header",
    "headers",
    type=_header,
    multiple=True,
    metavar="'K: V'",
    help="With --url, any number of times. {n} and {uuid} are replaced.",
)
@click.option(
    "--accept-status",
    "statuses",
    type=_statuses,
    metavar="LIST",
    show_default=ACCEPTED,
    help="With --url: the statuses that count as success.",
)
@click.option(
    "--accept-text",
    "text",
    metavar="TEXT",
    help='With --url: the answer of a success contains this, such as \'"status":"completed"\'.',
)
@click.option(
    "--expect", type=click.IntRange(0), metavar="N", help="With --url: more successes than this are a race."
)
def race(
    users: int,
    stock: int | None,
    strategy: str | None,
    url: str | None,
    **about_url: Any,
) -> int:
    """
    Let many users want the same thing at the same instant, and count the approvals.

    Without --url, the race runs once for each strategy, with real connections to a real database, in tables of its
    own. The naive strategy is expected to fail. The exit status is 1 if another one approves too many.

    With --url, the race runs against any endpoint. All users connect first, within 10 s. Each request is sent at one
    instant except its last byte, which follows half a second later at another instant. Answers may take 30 s, and
    redirects are not followed. In URL, body and headers, {n} is the number of the
    user, and {uuid} is new each time.
    The exit status is 1 if more than --expect succeed.

    A 202 alone is no success, because the endpoint may still refuse the call. The address in its Location is read
    with the same headers until the outcome is final, for up to 30 s. The outcome is --accept-text, or the status in
    the JSON, or the HTTP status. If it stays open whether too many succeed, the command says so. The exit status is
    then 1, or 3 if the time was up.

    \b
    teller race --users 50 --stock 1
    teller race --url http://localhost:5000/redeem --body '{"user": {n}}' --expect 1
    """  # noqa: D301 - \b makes click keep the lines
    if url is None:
        if given := [name for name, value in about_url.items() if value not in (None, ())]:
            raise click.UsageError(f"{_option(given[0])} goes with --url")
        return _race_here(users, stock or STOCK, strategy or EVERY)
    if stock is not None or strategy is not None:
        raise click.UsageError(f"--{'stock' if stock is not None else 'strategy'} does not go with --url")
    if about_url["expect"] is None:
        raise click.UsageError("--url needs --expect, the number that may succeed")
    return _race_there(url, users, **about_url)


def _option(name: str) -> str:
    return {"headers": "--header", "statuses": "--accept-status", "text": "--accept-text"}.get(
        name, f"--{name}"
    )


def _race_here(users: int, stock: int, wanted: str) -> int:
    names = list(STRATEGIES) if wanted == EVERY else [wanted]
    outcomes: list[Outcome] = []
    paused: Outcome | None = None
    is_drawn = not as_json() and drawing.is_terminal()
    if is_drawn:
        click.echo(drawing.heading(users, stock))
    with (
        _reached(needs_redis="redislock" in names) as settings,
        arena.opened(settings.api_database_url, settings.redis_url) as opened,
    ):
        for name in names:
            outcomes.append(_race_with(settings, opened, name, users, stock))
            if is_drawn:
                click.echo(drawing.outcome(outcomes[-1]))
        if "redislock" in names:
            paused = paused_holder.demonstrate(opened)
    documents = [one.document() for one in outcomes]
    if paused is not None:
        documents[names.index("redislock")]["paused_holder"] = paused.document()
    show({"strategies": documents}, lambda: drawing.summary(outcomes, paused))
    return int(any(one.race and STRATEGIES[one.strategy].holds for one in outcomes))


def _race_with(settings: Settings, opened: Arena, name: str, users: int, stock: int) -> Outcome:
    turn = STRATEGIES[name].turn
    if turn is None:
        with _queue_access(settings) as queue:
            return tellers_queue.race(queue, users, stock)
    if name == "redislock":
        opened.need_redis()
    return opened.race(name, [turn] * users, stock)


@contextlib.contextmanager
def _reached(*, needs_redis: bool) -> Iterator[Settings]:
    """
    Complete the settings for a migrated database. A race is often the first command, so the embedded database is
    created if there is none yet.
    """
    log.configure(logging.WARNING)
    settings = Settings.from_environment(os.environ)
    is_new = settings.embeds_postgres and not postgres.is_made(settings.home)
    with serve(settings, needs_valkey=needs_redis) as servers:
        if is_new:
            migrations.migrate(servers.settings.database_url, servers.settings.partitions)
        yield servers.settings


@contextlib.contextmanager
def _queue_access(settings: Settings) -> Iterator[tellers_queue.QueueAccess]:
    """Provide the intake of the users. Workers decide if any run; otherwise this process does, as a worker does."""
    with contextlib.ExitStack() as opened:

        def connect(url: str) -> connections.Connection:
            connection = connections.connect(
                url, application_name=NAME, statement_timeout_ms=arena.STATEMENT_TIMEOUT_MS
            )
            opened.callback(connection.close)
            return connection

        opened.enter_context(connections.faults())
        control = connect(settings.api_database_url)
        installation = migrations.read_installation(control)
        names = Names(installation.id)
        drain = None
        doorbell: Doorbell | None = None
        if not tellers_queue.has_workers(control):
            worker = connect(settings.worker_database_url)
            drain = lambda partition: batch.drain_once(worker, [partition])  # noqa: E731 - one of two drains
        elif not settings.embeds_valkey or valkey.is_ready(settings.home):
            doorbell = Doorbell(settings.redis_url, lambda: names)
            opened.callback(doorbell.close)

        def accepted(work: Iterable[int]) -> None:
            if doorbell is not None:  # without it the sweep finds the work
                doorbell.notify_all(work)

        intake = Intake(
            lambda: connections.connect(settings.api_database_url, application_name=NAME),
            installation.partitions,
            settings.backlog_limit,
            accepted,
        )
        intake.start()
        opened.callback(intake.stop)
        yield tellers_queue.QueueAccess(intake.accept, control, installation.partitions, drain)


def _race_there(
    url: str,
    users: int,
    method: str | None,
    body: str | None,
    headers: tuple[tuple[str, str], ...],
    statuses: frozenset[int] | None,
    text: str | None,
    expect: int,
) -> int:
    sent = dict(headers)
    if body is not None and not any(name.lower() == "content-type" for name in sent):
        sent["Content-Type"] = "application/json"
    call = endpoint_results.Call(url, method or METHOD, body, sent)
    success = endpoint_results.Success(statuses or _statuses(ACCEPTED), text, expect)
    verdict = endpoint.race(call, users, success)
    show(verdict.document(), lambda: drawing.replies(call, verdict))
    if verdict.is_late:
        return WAITED_TOO_LONG
    return int(verdict.race or verdict.is_open)
