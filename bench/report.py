"""
Builds the report: sections with text, tables, charts and targets, as one Markdown file and one JSON of raw
figures.

Everything is printed while it is measured, and written again after each part. An interrupted run keeps its
results.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The folder of whole, full runs. All others go to PARTIAL, which is not under version control.
RESULTS = Path(__file__).parent / "results"
PARTIAL = RESULTS / "partial"
_STARTED = time.monotonic()


@dataclass(frozen=True)
class Target:
    """A figure and its target. `note` gives the reason why it is missed, and a remedy."""

    what: str
    wanted: str
    measured: str
    met: bool
    note: str = ""


@dataclass
class Section:
    """One part of the report."""

    name: str
    title: str
    place: Path
    paragraphs: list[str] = field(default_factory=list)
    #: Raw figures, by names that the part chooses.
    figures: dict[str, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a paragraph and print it."""
        self.paragraphs.append(text)
        print(f"\n{text}\n", flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a table and print it."""
        self.say(table(header, rows))

    def chart(self, name: str, alternative: str, svg: str) -> None:
        """Add a picture. `alternative` describes it in words."""
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / f"{name}.svg").write_text(svg)
        self.paragraphs.append(f"![{alternative}]({name}.svg)")

    def aim(self, what: str, wanted: str, measured: str, *, met: bool, note: str = "") -> None:
        """Add a figure beside its target."""
        self.targets.append(Target(what, wanted, measured, met, "" if met else note))


def progress(text: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"  {time.monotonic() - _STARTED:5.0f} s  {text}", flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table. Numbers are aligned right, and whole from ten on."""
    listed = [list(row) for row in rows]
    columns = range(len(header))
    numeric = [
        any(isinstance(row[column], int | float) for row in listed)
        and all(isinstance(row[column], int | float) or not row[column] for row in listed)
        for column in columns
    ]
    cells = [list(header), *[[_cell(cell) for cell in row] for row in listed]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in columns]
    lines = [
        "| "
        + " | ".join(
            row[column].rjust(widths[column]) if numeric[column] else row[column].ljust(widths[column])
            for column in columns
        )
        + " |"
        for row in cells
    ]
    rule = (
        "|"
        + "|".join("-" * (widths[column] + 1) + (":" if numeric[column] else "-") for column in columns)
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:,.1f}" if abs(cell) >= 10 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def write(
    place: Path, sections: Sequence[Section], machine: dict[str, Any], *, unfinished: Sequence[str]
) -> Path:
    """
    Write the report and its raw figures. `unfinished` names parts that did not run, or not to their end.
    """
    place.mkdir(parents=True, exist_ok=True)
    targets = [target for section in sections for target in section.targets]
    lines = ["# Measurements", "", *_machine_lines(machine), ""]
    if unfinished:
        lines += [f"**Not finished: {', '.join(unfinished)}.**", ""]
    if targets:
        lines += ["## Targets", "", _targets(targets), ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
    path = place / "report.md"
    path.write_text("\n".join(lines).rstrip() + "\n")
    raw = {
        "machine": machine,
        "targets": [asdict(target) for target in targets],
        "parts": {section.name: section.figures for section in sections},
    }
    (place / "figures.json").write_text(json.dumps(raw, indent=1, default=str) + "\n")
    return path


def _targets(targets: Sequence[Target]) -> str:
    rows = [
        (target.what, target.wanted, target.measured, "yes" if target.met else "**no**", target.note)
        for target in targets
    ]
    return table(("figure", "target", "measured", "met", "reason and remedy"), rows)


def _machine_lines(machine: dict[str, Any]) -> list[str]:
    return [
        (
            "Each figure counts only after a check of its result: nothing lost, nothing doubled. Requests out of"
            " order are counted. All systems had the same PostgreSQL server with fsync and synchronous_commit on."
            " Compare within a run, not between machines."
        ),
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
    ]
