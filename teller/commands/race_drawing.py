"""
The output of `teller race`: a mark for each user, a table and bars on a terminal, plain columns for a pipe.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import click

from lab.strategies import STRATEGIES
from processor.visible import visible
from teller.printing import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.endpoint_results import Call, Reply, Verdict
    from lab.outcomes import Outcome
    from teller.printing import Cell

#: The mark of a user: approved, refused, no answer, only accepted.
APPROVED: Final = "✓"
REFUSED: Final = "·"
FAILED: Final = "!"
UNDECIDED: Final = "?"
#: Bars are drawn in eighths of a character.
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
#: The longest bar, in characters.
BAR_CHARACTERS_MAX: Final = 60
LABEL_CHARACTERS: Final = max(map(len, STRATEGIES)) + 2
GREEN, RED, YELLOW = "green", "red", "yellow"


def is_terminal() -> bool:
    """Return whether the output is a terminal; otherwise it is for programs."""
    return sys.stdout.isatty()


def heading(users: int, stock: int) -> str:
    """Format the heading of a race."""
    pieces = "1 piece" if stock == 1 else f"{stock} pieces"
    people = "1 user" if users == 1 else f"{users} users"
    key = f"{APPROVED} approved   {REFUSED} refused   {FAILED} no answer"
    return (
        f"{click.style(f'{people}, {pieces}, the same instant', bold=True)}\n{click.style(key, dim=True)}\n"
    )


def outcome(one: Outcome) -> str:
    """Format one strategy: its description, the result of each user, and the verdict."""
    strategy = STRATEGIES[one.strategy]
    colour = RED if one.race else GREEN
    title = click.style(one.strategy.ljust(LABEL_CHARACTERS), bold=True)
    lines = [
        title + click.style(part, dim=True)
        if number == 0
        else " " * LABEL_CHARACTERS + click.style(part, dim=True)
        for number, part in enumerate(_wrap(strategy.method))
    ]
    lines += [" " * LABEL_CHARACTERS + _coloured(part, colour) for part in _wrap(_marks(one))]
    lines += [" " * LABEL_CHARACTERS + part for part in _wrap(_why(one))]
    return "\n".join([*lines, ""])


def summary(outcomes: Sequence[Outcome], paused: Outcome | None) -> str:
    """Format all strategies side by side."""
    rows: list[Sequence[Cell]] = [
        (one.strategy, one.approved, one.final, f"{one.duration_ms:.0f} ms", one.verdict())
        for one in outcomes
    ]
    columns = ["strategy", "approved", "final", "time", "verdict"]
    if not is_terminal():
        return table(
            [*columns, "users"], [(*row, _marks(one)) for row, one in zip(rows, outcomes, strict=True)]
        )
    parts = [table(columns, rows)]
    if len(outcomes) > 1:
        parts.append(_bars(outcomes))
    if paused is not None:
        parts.append(_paused(paused))
    return "\n\n".join(parts)


def replies(call: Call, verdict: Verdict) -> str:
    """Format a race against a URL: the successes, the count of each answer, and the verdict."""
    colour = RED if verdict.race else YELLOW if verdict.is_open else GREEN
    words = click.style(verdict.words(), fg=colour, bold=True)
    if not is_terminal():
        rows = [(one.user, one.status, f"{one.ms:.1f}", one.succeeded, one.error) for one in verdict.replies]
        answered = [[None if cell is None else str(cell) for cell in row] for row in rows]
        return "\n".join([table(["user", "status", "ms", "succeeded", "error"], answered), verdict.words()])
    marks = "".join(_mark(one) for one in verdict.replies)
    alike = defaultdict(list)
    for one in verdict.replies:
        alike[_answer(one) if one.status else visible(one.error or "")].append(one.ms)
    counted: list[Sequence[Cell]] = [
        (answer, len(times), f"{min(times):.0f} ms", f"{max(times):.0f} ms")
        for answer, times in sorted(alike.items())
    ]
    title = click.style(f"{len(verdict.replies)} users, the same instant", bold=True)
    meanings = f"{APPROVED} succeeded   {REFUSED} refused   {FAILED} no answer"
    if verdict.undecided:
        meanings += f"   {UNDECIDED} only accepted"
    key = click.style(meanings, dim=True)
    drawn = [_coloured(part, colour) for part in _wrap(marks, indent=0)]
    asked = visible(f"{call.method} {call.url}")
    return "\n".join(
        [title, asked, key, "", *drawn, "", table(["answer", "users", "first", "last"], counted), "", words]
    )


def _mark(reply: Reply) -> str:
    if reply.status is None:
        return FAILED
    if reply.undecided:
        return UNDECIDED
    return APPROVED if reply.succeeded else REFUSED


def _answer(reply: Reply) -> str:
    return (
        str(reply.status)
        if reply.followed_status is None
        else f"{reply.status}, then {reply.followed_status}"
    )


def _marks(one: Outcome) -> str:
    return "".join(
        FAILED if result.error else APPROVED if result.approved else REFUSED for result in one.results
    )


def _coloured(marks: str, colour: str) -> str:
    """Colour the marks: approvals by the verdict, the others dim."""
    return "".join(
        click.style(mark, fg=colour, bold=True)
        if mark == APPROVED
        else click.style(mark, dim=mark == REFUSED)
        for mark in marks
    )


def _why(one: Outcome) -> str:
    moment = one.moment()
    text = one.verdict()
    if moment is not None:
        text += f". {len(moment.readers)} users read {moment.value}, and each of them took it from there"
    errors = sorted({visible(result.error) for result in one.results if result.error})
    return ". ".join([text, *errors[:1]])


def _paused(one: Outcome) -> str:
    title = click.style("redislock, its holder paused for longer than the lock lasts", bold=True)
    text = (
        f"{one.verdict()}. This is expected. The second user got the lock when it expired, and took the last piece."
        " The first user continued as if it still had the lock."
    )
    return "\n".join([title, *textwrap.wrap(text, _columns())])


def _bars(outcomes: Sequence[Outcome]) -> str:
    """Draw the approvals of each strategy; those beyond the stock are red."""
    stock = outcomes[0].stock
    most = max(one.approved for one in outcomes) or 1
    room = min(BAR_CHARACTERS_MAX, _columns() - LABEL_CHARACTERS - len(str(most)) - 1)
    title = f"approved, where there {'was' if stock == 1 else 'were'} {stock}"
    lines = [click.style(title, bold=True)]
    for one in outcomes:
        whole = _bar(one.approved, most, room)
        right = max(1, round(stock * room / most)) if one.approved > stock else len(whole)
        bar = click.style(whole[:right], fg=GREEN) + click.style(whole[right:], fg=RED)
        lines.append(f"{one.strategy.ljust(LABEL_CHARACTERS)}{bar} {one.approved}")
    return "\n".join(lines)


def _bar(value: int, most: int, room: int) -> str:
    eighths = max(round(value * room * 8 / most), 1 if value else 0)
    return EIGHTHS[8] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _wrap(text: str, indent: int = LABEL_CHARACTERS) -> Iterable[str]:
    return textwrap.wrap(text, max(20, _columns() - indent), break_on_hyphens=False) or [""]


def _columns() -> int:
    return shutil.get_terminal_size().columns
