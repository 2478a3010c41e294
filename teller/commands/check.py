"""
`teller check`: compare the servers with what the promises of Teller rest on.
"""

from __future__ import annotations

import logging
import os

import click

from processor import log
from processor.errors import SchemaError
from processor.settings import Settings
from processor.visible import visible
from teller.checks import databases, notifications, outside
from teller.embedded import postgres
from teller.embedded.servers import serve
from teller.printing import Command, as_json, show


@click.command(cls=Command, short_help="Look for what would break a promise.")
def check() -> int:
    """
    Look for what would break a promise: PostgreSQL, Redis, clocks, gateways, the mail server and the disk.

    Prints one line for each problem, with its remedy, and changes nothing. The exit status is 1 if a promise is
    broken.
    """
    log.configure(logging.ERROR)
    settings = Settings.from_environment(os.environ)
    if settings.embeds_postgres and not postgres.is_made(settings.home):
        raise SchemaError(
            f"there is no Teller in {settings.home} yet: run `teller up`, or set TELLER_HOME or DATABASE_URL"
        )
    with serve(settings) as servers:
        found = [
            problem
            for room in (databases, notifications, outside)
            for problem in room.problems(servers.settings)
        ]
    is_ok = not any(problem.breaks_a_promise for problem in found)
    if as_json() or not found:
        document = {"ok": is_ok, "problems": [problem._asdict() for problem in found]}
        show(document, lambda: "OK: nothing was found that breaks a promise")
    else:
        for problem in found:
            click.echo(visible(f"{'broken' if problem.breaks_a_promise else 'warning'}: {problem.detail}"))
    return 0 if is_ok else 1
