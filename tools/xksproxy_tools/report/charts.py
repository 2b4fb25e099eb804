"""Charts in SVG, for files or pages, in light and dark colour schemes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

_WIDTH: Final = 820
_HEIGHT: Final = 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 48, 44
_HEAD, _NAMES, _VALUES, _BAR = 28, 240, 90, 26
_COLOURS: Final = 5
_STYLE: Final = Markup(
    "<style>"
    ".xc{font:12px system-ui,sans-serif;fill:#555}.xc .grid{stroke:#8884}.xc .mark{stroke:#cf222e;stroke-dasharray:5 4}"
    ".xc .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.xc .title{font-weight:600}"
    ".xc .bar{fill:#0969da}.xc .c0{stroke:#0969da}.xc .c1{stroke:#bc4c00}.xc .c2{stroke:#1a7f37}"
    ".xc .c3{stroke:#8250df}.xc .c4{stroke:#bf3989}"
    "@media(prefers-color-scheme:dark){.xc{fill:#bbb}.xc .bar{fill:#58a6ff}.xc .c0{stroke:#58a6ff}"
    ".xc .c1{stroke:#f0883e}.xc .c2{stroke:#3fb950}.xc .c3{stroke:#bc8cff}.xc .c4{stroke:#f778ba}}"
    "</style>"
)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its name with unit, its ticks as (value, text), and its scale."""

    name: str
    ticks: Sequence[tuple[float, str]]
    scale: Callable[[float], float]

    @property
    def low(self) -> float:
        """The start of the axis, on its scale."""
        return self.scale(self.ticks[0][0])

    @property
    def high(self) -> float:
        """The end of the axis, on its scale."""
        return self.scale(self.ticks[-1][0])

    def share(self, value: float) -> float:
        """The position of a value on the axis, 0 to 1. Values outside are at the nearer end."""
        length = self.high - self.low
        return min(1.0, max(0.0, (self.scale(value) - self.low) / length if length else 0.0))


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order of their first coordinate."""

    name: str
    points: Sequence[tuple[float, float]]


def linear(name: str, lowest: float, highest: float) -> Axis:
    """A linear axis around ``lowest`` and ``highest``, with about five round ticks."""
    span = (highest - lowest) or abs(highest) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 6)  # noqa: PLR2004 - ticks
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    last = max(last, first + 1)
    return Axis(name, [(at * step, _number(at * step)) for at in range(first, last + 1)], float)


def logarithmic(name: str, lowest: float, highest: float) -> Axis:
    """A logarithmic axis around two positive values, with ticks at 1, 2 and 5 times powers of ten."""
    values = [factor * 10.0**power for power in range(-6, 12) for factor in (1, 2, 5)]
    first = max((at for at, value in enumerate(values) if value <= lowest), default=0)
    last = min((at for at, value in enumerate(values) if value >= highest), default=len(values) - 1)
    chosen = values[first : max(last, first + 1) + 1]
    every = 1 + len(chosen) // 13
    labels = [
        (value, _number(value) if at % every == 0 or at == len(chosen) - 1 else "") for at, value in enumerate(chosen)
    ]
    return Axis(name, labels, lambda value: math.log10(max(value, 1e-9)))


def nines(name: str) -> Axis:
    """An axis of percentiles from 0 to 99.99 %. Each additional nine has the same length."""
    ticks = [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")]
    return Axis(name, ticks, lambda share: -math.log10(max(1 - share, 1e-12)))


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], *, mark: tuple[float, str] | None = None) -> Markup:
    """A line chart in SVG. ``mark`` is a level on the y axis with its name, drawn only if it is within the axis."""
    parts = [
        *_opening(title, _HEIGHT),
        *_grid(x, y),
        *(_mark(y, *mark) if mark and y.ticks[0][0] <= mark[0] <= y.ticks[-1][0] else ()),
        *(_line(x, y, line, number) for number, line in enumerate(lines)),
        *_legend(lines),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def bar_chart(title: str, bars: Sequence[tuple[str, float]]) -> Markup:
    """A bar chart in SVG, with the value beside each bar."""
    longest = max((value for _, value in bars), default=0.0) or 1.0
    room = _WIDTH - _NAMES - _VALUES
    parts = [*_opening(title, _HEAD + _BAR * len(bars) + 6)]
    for number, (name, value) in enumerate(bars):
        at = _HEAD + _BAR * number
        width = room * value / longest
        parts += [
            _text(_NAMES - 8, at + 15, name, "end"),
            Markup('<rect class="bar" x="{}" y="{}" width="{:.1f}" height="{}"/>').format(
                _NAMES, at + 2, width, _BAR - 8
            ),
            _text(_NAMES + width + 6, at + 15, _number(value), "start"),
        ]
    return Markup("\n").join([*parts, Markup("</svg>")])


def _opening(title: str, height: float) -> list[Markup]:
    return [
        Markup(
            '<svg class="xc" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" role="img">'
            "{}<title>{}</title>"
        ).format(_WIDTH, height, _WIDTH, height, _STYLE, title),
        _text(_LEFT, 14, title, "start", "title"),
    ]


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value, text in y.ticks:
        at = _vertical(y, value)
        parts += [_stroke("grid", _LEFT, at, _WIDTH - _RIGHT, at), _text(_LEFT - 8, at + 4, text, "end")]
    for value, text in x.ticks:
        at = _horizontal(x, value)
        parts += [_stroke("grid", at, _TOP, at, _HEIGHT - _BOTTOM), _text(at, _HEIGHT - _BOTTOM + 17, text, "middle")]
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 8, x.name, "end"))
    parts.append(_text(_LEFT, _HEIGHT - 8, f"↑ {y.name}", "start"))
    return parts


def _mark(y: Axis, level: float, name: str) -> list[Markup]:
    at = _vertical(y, level)
    return [_stroke("mark", _LEFT, at, _WIDTH - _RIGHT, at), _text(_WIDTH - _RIGHT, at - 5, name, "end")]


def _line(x: Axis, y: Axis, line: Line, number: int) -> Markup:
    points = " ".join(f"{_horizontal(x, across):.1f},{_vertical(y, up):.1f}" for across, up in line.points)
    return Markup('<polyline class="line c{}" points="{}"/>').format(number % _COLOURS, points)


def _legend(lines: Sequence[Line]) -> list[Markup]:
    parts: list[Markup] = []
    at = float(_LEFT)
    for number, line in enumerate(lines):
        parts.append(_stroke(f"line c{number % _COLOURS}", at, 28, at + 18, 28))
        parts.append(_text(at + 24, 32, line.name, "start"))
        at += 48 + 6.5 * len(line.name)
    return parts


def _horizontal(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _vertical(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _number(value: float) -> str:
    """An integer from 100 on; below that three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - a hundred
