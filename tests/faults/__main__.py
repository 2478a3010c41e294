"""
`make faults`: about a quarter of an hour of faults, one after the other, and a verdict.

    SEED=n      repeats a plan (else random, and printed)
    KINDS=crossing MINUTES=10 looks for a deadlock among exchanges
    MINUTES=n   the duration (15); FAULTS=n: the most faults; KINDS=kill_worker,…: only these
    HISTORY=f   checks a stored history, and does nothing else

The exit status is 0 without a violation, and 1 with at least one; then the history is stored. It is 2 if
KINDS names no fault, and 130 after an interruption.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tests.faults import machine
from tests.faults.checker import check
from tests.faults.crossings import crossing
from tests.faults.history import History
from tests.faults.kinds import EVERYWHERE
from tests.faults.machine import NotHere
from tests.faults.run import running
from tests.servers import temporary_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.faults.run import Run

    Kind = Callable[[Run, random.Random], str]

MINUTES: Final = 15.0
PEOPLE: Final = 8
#: The longest pause between two faults, in seconds.
BETWEEN_SECONDS: Final = 2.0
INTERRUPTED: Final = 130
WRONG_USAGE: Final = 2
#: All kinds of faults.
ALL: Final = (*EVERYWHERE, crossing, *machine.ON_SMALL_DISKS, *machine.WITH_SECOND_HOST)
#: The most violations that are printed. The history has all of them.
SHOWN_MAX: Final = 20


def main() -> int:
    """Run the faults or check a history. Returns the exit status."""
    if "HISTORY" in os.environ:
        return _verdict([str(found) for found in check(History.load(Path(os.environ["HISTORY"])))], None)
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    seconds = 60 * float(os.environ.get("MINUTES") or MINUTES)
    most = int(os.environ.get("FAULTS") or 10**6)
    if unknown := _wanted() - {kind.__name__ for kind in ALL}:
        existing = ", ".join(kind.__name__ for kind in ALL)
        click.echo(f"KINDS: there is no {', '.join(sorted(unknown))}; there are {existing}", err=True)
        return WRONG_USAGE
    click.echo(f"SEED={seed}: faults for {seconds / 60:g} minutes")
    with contextlib.ExitStack() as machinery, temporary_home() as home:
        kinds = _possible(home, machinery)
        if not kinds:
            click.echo("this machine allows none of these faults", err=True)
            return WRONG_USAGE
        with machinery.pop_all(), running(home, seed, PEOPLE) as run:
            run.load.start()
            done = inject(run, kinds, seed, seconds, most)
            click.echo("no more faults; open work comes to its end, and everything is checked")
            run.settle()
            problems = run.judge()
            assert run.history is not None
            click.echo(
                f"{done} faults, SEED={seed}: {len(run.history.requests)} requests,"
                f" {len(run.history.entries)} entries, {len(run.history.messages)} messages"
            )
            return _verdict(problems, run.history)


def _possible(home: Path, machinery: contextlib.ExitStack) -> list[Kind]:
    """Return the faults that this machine allows, and print a line for each other."""
    kinds: list[Kind] = [*EVERYWHERE, crossing]
    try:
        machinery.enter_context(machine.small_disks(home))
        kinds += machine.ON_SMALL_DISKS
    except NotHere as reason:
        click.echo(f"skipped, full disks: {reason}")
    try:
        machine.may_have_second_host()
        kinds += machine.WITH_SECOND_HOST
    except NotHere as reason:
        click.echo(f"skipped, two hosts: {reason}")
    wanted = _wanted()
    return [kind for kind in kinds if not wanted or kind.__name__ in wanted]


def _wanted() -> set[str]:
    """Return the names in KINDS, or nothing for all kinds."""
    return {name.strip() for name in os.environ.get("KINDS", "").split(",") if name.strip()}


def plan(kinds: Sequence[Kind], seed: int) -> Iterator[tuple[Kind, random.Random]]:
    """Yield the faults in random order, each kind as often as the others."""
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            yield kind, random.Random(chance.getrandbits(64))


def inject(run: Run, kinds: list[Kind], seed: int, seconds: float, most: int) -> int:
    """Inject the faults and print a line for each. Returns their number."""
    began = time.monotonic()
    bar = click.progressbar(length=1_000, label="faults", file=sys.stderr) if sys.stderr.isatty() else None
    shown = 0
    for number, (kind, chance) in enumerate(plan(kinds, seed), start=1):
        run.system.pause(chance.uniform(0, BETWEEN_SECONDS))
        passed = time.monotonic() - began
        if passed >= seconds or number > most:
            break
        problems_before = len(run.problems)
        try:
            description = kind(run, chance)
        except Exception as fault:  # noqa: BLE001 - the run goes on, and its verdict has the failure
            run.system.restore()
            run.problems.append(f"fault_failed {kind.__name__}: {fault!r}")
            description = "it could not be injected, or did not end"
        if bar:
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo(f"{number:4} {passed:6.1f} s  {kind.__name__}: {description}")
        for problem in run.problems[problems_before:]:
            click.echo(f"            VIOLATION {problem}")
        if bar:
            progress = int(1_000 * max((time.monotonic() - began) / seconds, number / most))
            bar.update(min(1_000, progress) - shown)
            shown = min(1_000, progress)
    return number - 1


def _verdict(problems: list[str], history: History | None) -> int:
    for problem in problems[:SHOWN_MAX]:
        click.echo(f"VIOLATION {problem}")
    if not problems:
        click.echo("no violation")
        return 0
    kinds = Counter(problem.split()[0].rstrip(":") for problem in problems)
    click.echo(
        f"{len(problems)} violations: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"
    )
    if history is not None:
        kept = Path(tempfile.gettempdir()) / f"teller-faults-{int(time.time())}.json.gz"
        history.save(kept)
        click.echo(f"the history is stored: HISTORY={kept} make faults")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing remains
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts with `&` ignore it
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        click.echo("interrupted")
        sys.exit(INTERRUPTED)
