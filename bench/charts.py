"""
Draws charts as SVG: horizontal bars, and lines.

Each chart has a card as its background, so that it reads on a light and on a dark page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 860
#: Pixels from one bar to the next, and the height of a bar.
BAR_STEP, BAR_HEIGHT = 30, 18
MARGIN = 20
TITLE_HEIGHT = 62
#: Approximate width of one character in pixels; no renderer is available to measure it.
CHARACTER = 6.9
LINE_HEIGHT = 300
#: Colours of Teller, of the others, and of the lines of a chart in turn.
_STYLE = """
  .card { fill: #ffffff; stroke: #d5dae1; }
  text { font: 12.5px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #374151; }
  .title { font-size: 15px; font-weight: 600; fill: #111827; }
  .note { fill: #6b7280; }
  .grid { stroke: #e5e7eb; stroke-width: 1; }
  .axis { stroke: #9ca3af; stroke-width: 1; }
  .own { fill: #0f766e; } .other { fill: #94a3b8; } .reference { fill: #b45309; }
  .strong { font-weight: 600; fill: #111827; }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
  .l0 { stroke: #0f766e; } .l1 { stroke: #b45309; } .l2 { stroke: #4f46e5; } .l3 { stroke: #be185d; }
  .d0 { fill: #0f766e; } .d1 { fill: #b45309; } .d2 { fill: #4f46e5; } .d3 { fill: #be185d; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #11161d; stroke: #2d3642; }
    text { fill: #cbd5e1; } .title, .strong { fill: #f1f5f9; } .note { fill: #94a3b8; }
    .grid { stroke: #242c37; } .axis { stroke: #64748b; }
    .own { fill: #2dd4bf; } .other { fill: #64748b; } .reference { fill: #f59e0b; }
    .l0 { stroke: #2dd4bf; } .l1 { stroke: #f59e0b; } .l2 { stroke: #a5b4fc; } .l3 { stroke: #f472b6; }
    .d0 { fill: #2dd4bf; } .d1 { fill: #f59e0b; } .d2 { fill: #a5b4fc; } .d3 { fill: #f472b6; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One bar. `kind` is `own` for Teller, `reference` for PostgreSQL alone, `other` for another system."""

    label: str
    value: float
    kind: str = "other"


@dataclass
class Line:
    """One line, as points of x and y."""

    label: str
    points: list[tuple[float, float]] = field(default_factory=list)


def bars(title: str, note: str, found: Sequence[Bar]) -> str:
    """Draw horizontal bars from zero, each with its figure, in the given order."""
    labels = 24 + CHARACTER * max(len(bar.label) for bar in found)
    most = max(bar.value for bar in found) or 1.0
    room = WIDTH - 2 * MARGIN - labels - CHARACTER * 10
    parts = []
    for number, bar in enumerate(found):
        top = TITLE_HEIGHT + number * BAR_STEP
        length = max(2.0, room * bar.value / most)
        strong = "strong" if bar.kind == "own" else ""
        middle = top + BAR_HEIGHT / 2 + 4.5
        parts += [
            _text(MARGIN + labels - 10, middle, bar.label, strong, "end"),
            (
                f'<rect class="{bar.kind}" x="{MARGIN + labels:.0f}" y="{top}" width="{length:.1f}"'
                f' height="{BAR_HEIGHT}" rx="2"/>'
            ),
            _text(MARGIN + labels + length + 7, middle, _figure(bar.value), strong),
        ]
    return _card(title, note, TITLE_HEIGHT + len(found) * BAR_STEP + MARGIN - 8, parts)


def lines(title: str, note: str, found: Sequence[Line], *, log_x: bool = False) -> str:
    """Draw lines from zero. With `log_x`, steps of the x axis are factors, and each x has its mark."""
    at = math.log10 if log_x else float
    xs = sorted({x for line in found for x, _ in line.points})
    if not log_x:
        end = _round_up(xs[-1])
        xs = [end * step / 4 for step in range(5)]
    top_value = _round_up(max(y for line in found for _, y in line.points))
    left, right = MARGIN + 70.0, WIDTH - MARGIN - 30.0
    top, bottom = TITLE_HEIGHT + 30.0, TITLE_HEIGHT + 30.0 + LINE_HEIGHT
    low, high = at(xs[0]), at(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (at(x) - low) / (high - low) if high > low else 0.5
        return left + share * (right - left), bottom - y / top_value * (bottom - top)

    parts = []
    for step in range(5):
        value = top_value * step / 4
        _, y = place(xs[0], value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 10, y + 4, _figure(value), "note", "end"))
    last = -math.inf
    for x in xs:
        across, _ = place(x, 0)
        name = _figure(x)
        if across - last >= CHARACTER * len(name) + 8:
            parts.append(_text(across, bottom + 20, name, "note", "middle"))
            last = across
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    across = left
    for number, line in enumerate(found):
        color = number % 4
        dots = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline class="line l{color}" points="{path}"/>')
        parts += [f'<circle class="d{color}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in dots]
        parts.append(
            f'<rect class="d{color}" x="{across:.0f}" y="{TITLE_HEIGHT - 2}" width="14" height="4" rx="2"/>'
        )
        parts.append(_text(across + 20, TITLE_HEIGHT + 4.5, line.label))
        across += 44 + CHARACTER * len(line.label)
    return _card(title, note, bottom + 40, parts)


def _card(title: str, note: str, height: float, parts: Sequence[str]) -> str:
    inside = "\n".join([_text(MARGIN, 28, title, "title"), _text(MARGIN, 46, note, "note"), *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8"/>\n'
        f"{inside}\n</svg>\n"
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _round_up(value: float) -> float:
    """Return the next round number that divides by four into round numbers."""
    size: float = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * size for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * size >= value)
