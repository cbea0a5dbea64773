"""Lines and dots as inline SVG; colours come from the page's style sheet, so that they suit light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 12, 46
_MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One curve: x and y of its points; `style` names classes of the style sheet; with `dots`, each point has one."""

    x: np.ndarray
    y: np.ndarray
    label: str
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `say` turns a value into a tick's text."""

    label: str
    low: float
    high: float
    say: Callable[[float], str]

    def share(self, value: np.ndarray) -> np.ndarray:
        """Where values lie: 0 at `low`, 1 at `high`."""
        return (np.clip(value, self.low, self.high) - self.low) / ((self.high - self.low) or 1)


def short_percent(value: float) -> str:
    """A share as a percentage, as short as it can be said."""
    return f"{100 * value:.4g} %"


def plain(value: float) -> str:
    """A number, as short as it can be said."""
    return f"{value:.4g}"


def span(values: Sequence[np.ndarray], label: str, say: Callable[[float], str], most: float = np.inf) -> Axis:
    """An axis that holds all finite values, with a little room, but none above `most`."""
    finite = np.concatenate([np.asarray(part, float)[np.isfinite(part)] for part in values] or [np.zeros(1)])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.05
    return Axis(label, low - room, min(high + room, most), say)


def chart(lines: Sequence[Line], across: Axis, up: Axis, title: str) -> Markup:
    """Draw lines; `title` is what a screen reader says. A legend of the lines that have a label follows."""
    parts = [*_grid(across, up), *(_draw(line, across, up) for line in lines if len(line.x))]
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    named = [line for line in lines if line.label]
    legend = "".join(
        f'<span class="key {line.style}"><svg viewBox="0 0 24 10" aria-hidden="true"><path d="M1 5H23"/></svg>'
        f"{escape(line.label)}</span>"
        for line in named
    )
    return Markup(f'<div class="chart">{head}{"".join(parts)}</svg><p class="legend">{legend}</p></div>')


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours, so that at most 300 points are left."""
    groups = np.array_split(np.arange(len(x)), min(len(x), _MOST_POINTS) or 1)
    means = [(x[group].mean(), y[group].mean()) for group in groups if len(group)]
    return np.array([a for a, _ in means]), np.array([b for _, b in means])


def _grid(across: Axis, up: Axis) -> list[str]:
    right, foot = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [f'<path class="frame" d="M{_LEFT} {foot}H{right}"/>']
    for value in ticks(up.low, up.high):
        y = _y(np.array([value]), up)[0]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" class="end">{escape(up.say(value))}</text>')
    for value in ticks(across.low, across.high):
        x = _x(np.array([value]), across)[0]
        parts.append(f'<text x="{x:.1f}" y="{foot + 18}" class="middle">{escape(across.say(value))}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" class="middle label">{escape(across.label)}</text>')
    return parts


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, a 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / about
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw(line: Line, across: Axis, up: Axis) -> str:
    finite = np.isfinite(line.x) & np.isfinite(line.y)
    xs, ys = _x(line.x[finite], across), _y(line.y[finite], up)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in zip(xs, ys, strict=True))
    return f'<g class="{line.style}"><polyline points="{points}"/>{dots if line.dots else ""}</g>'


def _x(values: np.ndarray, across: Axis) -> np.ndarray:
    return _LEFT + across.share(values) * (WIDTH - _LEFT - _RIGHT)


def _y(values: np.ndarray, up: Axis) -> np.ndarray:
    return HEIGHT - _BOTTOM - up.share(values) * (HEIGHT - _TOP - _BOTTOM)
