"""
`make faults`: for about a quarter of an hour, one fault after the other, and a verdict.

    SEED=n      the same plan again (else by chance; it is printed)
    MINUTES=n   so long (15); FAULTS=n: so many at the most; KINDS=kill_worker,…: these alone
    HISTORY=f   judges a history that was kept, and nothing else

Exit status 0: no violation; 1: at least one, and the history is kept; 2: KINDS names no fault; 130: interrupted.
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
#: The pause between two faults, at the most, in seconds.
BETWEEN_SECONDS: Final = 2.0
INTERRUPTED: Final = 130
WRONG_USAGE: Final = 2
#: Wherever it is run.
ALL: Final = (*EVERYWHERE, *machine.ON_SMALL_DISKS, *machine.WITH_SECOND_HOST)
#: Violations that are printed; all of them are in the history.
SHOWN_MAX: Final = 20


def main() -> int:
    """The exit status."""
    if "HISTORY" in os.environ:
        return _verdict([str(found) for found in check(History.load(Path(os.environ["HISTORY"])))], None)
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    seconds = 60 * float(os.environ.get("MINUTES") or MINUTES)
    most = int(os.environ.get("FAULTS") or 10**6)
    if unknown := _wanted() - {kind.__name__ for kind in ALL}:
        known = ", ".join(kind.__name__ for kind in ALL)
        click.echo(f"KINDS: there is no {', '.join(sorted(unknown))}; there are {known}", err=True)
        return WRONG_USAGE
    click.echo(f"SEED={seed}: faults for {seconds / 60:g} minutes")
    with contextlib.ExitStack() as machinery, temporary_home() as home:
        kinds = _possible(home, machinery)
        if not kinds:
            click.echo("this machine allows none of them", err=True)
            return WRONG_USAGE
        with machinery.pop_all(), running(home, seed, PEOPLE) as run:
            run.load.start()
            done = _break(run, kinds, seed, seconds, most)
            click.echo("no more faults: all comes to its end, and is looked at")
            run.settle()
            problems = run.judge()
            assert run.history is not None
            click.echo(
                f"{done} faults, SEED={seed}: {len(run.history.requests)} requests,"
                f" {len(run.history.entries)} entries, {len(run.history.told)} messages"
            )
            return _verdict(problems, run.history)


def _possible(home: Path, machinery: contextlib.ExitStack) -> list[Kind]:
    """What this machine allows; a line for what it does not."""
    kinds: list[Kind] = list(EVERYWHERE)
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
    """The names in KINDS; none: all that there are."""
    return {name.strip() for name in os.environ.get("KINDS", "").split(",") if name.strip()}


def plan(kinds: Sequence[Kind], seed: int) -> Iterator[tuple[Kind, random.Random]]:
    """One fault after the other: each kind as often as the others, in an order by chance."""
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            yield kind, random.Random(chance.getrandbits(64))


def _break(run: Run, kinds: list[Kind], seed: int, seconds: float, most: int) -> int:
    """A line for each fault; returns how many there were."""
    began = time.monotonic()
    bar = click.progressbar(length=1_000, label="faults", file=sys.stderr) if sys.stderr.isatty() else None
    shown = 0
    for number, (kind, chance) in enumerate(plan(kinds, seed), start=1):
        run.system.pause(chance.uniform(0, BETWEEN_SECONDS))
        passed = time.monotonic() - began
        if passed >= seconds or number > most:
            break
        known = len(run.problems)
        try:
            said = kind(run, chance)
        except Exception as fault:  # noqa: BLE001 - the run goes on, and its verdict says it
            run.system.restore()
            run.problems.append(f"fault_failed: {kind.__name__}: {fault!r}")
            said = "it could not be made, or its end did not come"
        if bar:
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo(f"{number:4} {passed:6.1f} s  {kind.__name__}: {said}")
        for problem in run.problems[known:]:
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
        click.echo(f"the history is kept: HISTORY={kept} make faults")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        click.echo("interrupted")
        sys.exit(INTERRUPTED)
