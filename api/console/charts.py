"""
Small charts as SVG, drawn on the server. Each has a title and a description for screen readers.

Colours are classes of console.css. A chart scales with its container, and lines keep their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The inner coordinates of a chart. On the page it is as wide as its container.
WIDTH: Final = 240
HEIGHT: Final = 48
#: The margin for the width of the line.
EDGE: Final = 2


def area(
    title: str,
    description: str,
    points: Sequence[tuple[float, float]],
    window: tuple[float, float],
    tone: str = "accent",
) -> Markup:
    """
    Draw points (time, value) over a window of time, from zero. `tone` is accent, good, wait or bad.
    """
    begin, end = window
    top = max([value for _, value in points] + [1])
    ground = HEIGHT - EDGE
    drawn = _baseline(ground)
    if len(points) >= 2:  # noqa: PLR2004 - a line has two ends
        at = [
            (WIDTH * (moment - begin) / (end - begin), ground - (ground - EDGE) * value / top)
            for moment, value in points
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        drawn += Markup('<polygon class="fill" points="{0:.1f},{1} {2} {3:.1f},{1}"/>').format(
            at[0][0], ground, line, at[-1][0]
        )
        drawn += Markup('<polyline class="line" points="{0}"/>').format(line)
    return _svg(title, description, f"area {tone}", drawn)


def steps(title: str, description: str, series: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """
    Draw quantities that are constant between changes, one line for each series. Zero is always visible.

    A series is the class of its line ("first" or "second") and its values, oldest first.
    """
    everything = [value for _, values in series for value in values]
    low, high = min([*everything, 0]), max([*everything, 1])
    ground = HEIGHT - EDGE
    scale = (ground - EDGE) / (high - low)
    drawn = _baseline(ground + low * scale)
    for name, values in series:
        step = WIDTH / max(len(values), 1)
        path = "".join(
            f"{'M0,' if place == 0 else 'V'}{ground - (value - low) * scale:.1f}H{(place + 1) * step:.1f}"
            for place, value in enumerate(values)
        )
        drawn += Markup('<path class="line {0}" d="{1}"/>').format(name, path)
    return _svg(title, description, "steps tall", drawn)


def bars(title: str, description: str, values: Sequence[float], tone: str = "accent") -> Markup:
    """
    Draw values as bars, from zero.
    """
    top = max([*values, 1])
    slot = WIDTH / max(len(values), 1)
    drawn = Markup("")
    for place, value in enumerate(values):
        height = (HEIGHT - 2 * EDGE) * value / top
        drawn += Markup(
            '<rect class="bar" x="{0:.1f}" y="{1:.1f}" width="{2:.1f}" height="{3:.1f}"/>'
        ).format(place * slot + slot * 0.1, HEIGHT - EDGE - height, slot * 0.8, height)
    return _svg(title, description, f"bars {tone}", _baseline() + drawn)


def _baseline(y: float = HEIGHT - EDGE) -> Markup:
    return Markup('<line class="base" x1="0" x2="{0}" y1="{1:.1f}" y2="{1:.1f}"/>').format(WIDTH, y)


def _svg(title: str, description: str, names: str, inside: Markup) -> Markup:
    return Markup(
        '<svg class="chart {0}" viewBox="0 0 {1} {2}" preserveAspectRatio="none" role="img" aria-label="{3}: {4}">'
        "<title>{3}</title><desc>{4}</desc>{5}</svg>"
    ).format(names, WIDTH, HEIGHT, title, description, inside)
