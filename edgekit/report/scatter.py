"""Scatter charts of the page as inline SVG: builds against each other, with ranges, labels and the front they make.

As in `charts`, horizontal positions are per cent and vertical ones pixels. Labels are set where they hide nothing, both
in a narrow window and in a wide one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from edgekit.records import Estimate
from edgekit.report.charts import Axis, readable_unit, round_step, tick_text
from edgekit.report.words import clean

_HEIGHT, _TOP, _FOOT = 270, 22, 42
_LEFT, _WIDTH = 10.0, 87.0
_NARROW, _WIDE = 350.0, 900.0
_CHARACTER, _LINE_HEIGHT = 6.7, 13.0
_SVG = Markup(
    '<svg class="chart" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>{grid}'
    '<svg x="{left}%" y="{top}" width="{width}%" height="{inner}" viewBox="0 0 100 100" preserveAspectRatio="none">'
    "{path}</svg>{body}</svg>"
)
_GRID = Markup(
    '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/><text class="tick-text" x="0" y="{above}">{label}</text>'
)
_X_TICK = Markup('<text class="tick-text {side}" x="{x}%" y="{y}">{label}</text>')
_LIMIT = Markup(
    '<line class="limit" x1="{left}%" x2="100%" y1="{y}" y2="{y}"/>'
    '<text class="limit-text {side}" x="{x}%" y="{above}">{label}</text>'
)
_BAR = Markup('<line class="bar {css}" x1="{x}%" x2="{x}%" y1="{low}" y2="{high}"/>')
_RING = Markup('<circle class="ring" cx="{x}%" cy="{y}" r="10"/>')
_MARKS = {
    "circle": Markup('<circle class="dot {css}" cx="{x}%" cy="{y}" r="5"/>'),
    "diamond": Markup(
        '<svg x="{x}%" y="{y}" width="1" height="1" overflow="visible">'
        '<path class="dot {css}" d="M0-6 6 0 0 6-6 0z"/></svg>'
    ),
    "square": Markup(
        '<svg x="{x}%" y="{y}" width="1" height="1" overflow="visible">'
        '<path class="dot {css}" d="M-5-5h10v10h-10z"/></svg>'
    ),
}
_LABEL = Markup('<text class="dot-label {side}{strong}" x="{x}%" y="{y}" dx="{dx}">{label}</text>')
_CURVE = Markup('<polyline class="curve front" points="{}"/>')

Shape = Literal["circle", "diamond", "square"]
SHAPES: dict[str, Shape] = {"pass": "circle", "unknown": "diamond", "fail": "square"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAxis:
    """A logarithmic scale from `low` to `high` in SI, ticked in `unit` (= `scale` SI units)."""

    low: float
    high: float
    scale: float
    unit: str

    def at(self, value: float) -> float:
        """Where `value` lies, in per cent, held inside the chart; at its foot where it has no logarithm."""
        if value <= self.low:
            return 0.0
        return round(100 * min(1.0, math.log(value / self.low) / math.log(self.high / self.low)), 3)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values within the scale: powers of ten, with their doubles and halves where there is room."""
        low, high = self.low / self.scale, self.high / self.scale
        decades = math.log10(high / low)
        if decades < 1.0:
            step = round_step((high - low) / 6)
            return tuple(n * step * self.scale for n in range(math.ceil(low / step), math.floor(high / step) + 1))
        parts = (1, 2, 5) if decades < 3 else (1,)
        every = max(1, math.ceil(decades / 6))
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = (part * 10.0**power for power in powers if power % every == 0 for part in parts)
        return tuple(value * self.scale for value in found if low <= value <= high)

    def label(self, value: float) -> str:
        return tick_text(value / self.scale)


def log_axis_over(values: Iterable[float], unit: str) -> LogAxis:
    """A logarithmic axis with a margin over all positive `values`; a decade around one where there is none."""
    shown = [min(max(value, 1e-100), 1e100) for value in values if value > 0]
    low, high = (min(shown), max(shown)) if shown else (0.3, 3.0)
    margin = max(1.06, (high / low) ** 0.08)
    scale, name = readable_unit(high, unit)
    return LogAxis(low=low / margin, high=high * margin, scale=scale, unit=clean(name, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One build: `x` in SI, `y` with its range. `css` chooses its colour; its shape says the same without colour."""

    label: str
    x: float
    y: Estimate
    css: str
    shape: Shape = "circle"
    ring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across the chart, with its words."""

    value: float
    label: str


def scatter_chart(
    ident: str,
    title: str,
    dots: Sequence[Dot],
    *,
    x: Axis | LogAxis,
    y: Axis | LogAxis,
    x_title: str,
    path: Sequence[tuple[float, float]] = (),
    limit: Limit | None = None,
) -> Markup:
    """The `dots` with their ranges and labels, `path` drawn behind them. A dot with an empty label has none."""
    places = [_Place(x=_across(x, dot.x), y=_down(y, dot.y.value), dot=dot) for dot in dots]
    body = Markup()
    if limit is not None:
        at = _down(y, limit.value)
        side = _limit_side(places, y, limit)
        x_at, label = (_LEFT if side == "start" else 100), clean(limit.label, 60)
        body += _LIMIT.format(left=_LEFT, y=at, above=at - 5, side=side, x=x_at, label=label)
    for place in places:
        dot = place.dot
        body += _BAR.format(css=dot.css, x=place.x, low=_down(y, dot.y.low), high=_down(y, dot.y.high))
    for place in places:
        body += _RING.format(x=place.x, y=place.y) if place.dot.ring else Markup()
        body += _MARKS[place.dot.shape].format(css=place.dot.css, x=place.x, y=place.y)
    for place, spot in zip(places, _spots(places, y, limit), strict=True):
        body += _label(place, spot)
    curve = " ".join(f"{x.at(one):.2f},{100 - y.at(other):.2f}" for one, other in path)
    return _SVG.format(
        id=ident,
        title=clean(title, 200),
        description=clean(_describe(dots, x, y), 4000),
        height=_HEIGHT + _TOP + _FOOT,
        grid=_grid(x, y, x_title),
        left=_LEFT,
        top=_TOP,
        width=_WIDTH,
        inner=_HEIGHT,
        path=_CURVE.format(curve) if len(path) > 1 else "",
        body=body,
    )


def _across(axis: Axis | LogAxis, value: float) -> float:
    return round(_LEFT + _WIDTH * axis.at(value) / 100, 2)


def _down(axis: Axis | LogAxis, value: float) -> float:
    return round(_TOP + _HEIGHT * (1 - axis.at(value) / 100), 1)


def _grid(x: Axis | LogAxis, y: Axis | LogAxis, x_title: str) -> Markup:
    grid = Markup()
    for tick in y.ticks:
        at = _down(y, tick)
        grid += _GRID.format(y=at, above=at - 3, label=y.label(tick))
    last = -100.0
    for tick in x.ticks:
        if x.at(tick) - last >= 11:  # labels of a narrow window must not touch
            last = x.at(tick)
            grid += _X_TICK.format(x=_across(x, tick), y=_TOP + _HEIGHT + 17, side="middle", label=x.label(tick))
    grid += _X_TICK.format(x=0, y=11, side="start", label=y.unit)
    return grid + _X_TICK.format(x=100, y=_TOP + _HEIGHT + 35, side="end", label=f"{x_title}, {x.unit}")


def _describe(dots: Sequence[Dot], x: Axis | LogAxis, y: Axis | LogAxis) -> str:
    return "; ".join(
        f"{dot.label or dot.css}: {y.label(dot.y.value)} ({y.label(dot.y.low)}–{y.label(dot.y.high)}) {y.unit} "
        f"at {x.label(dot.x)} {x.unit}"
        for dot in dots
    )


# ---- labels -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a dot is drawn: per cent across, pixels down."""

    x: float
    y: float
    dot: Dot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """Where a label stands beside its dot, in pixels; `side` is its anchor."""

    dx: float
    dy: float
    side: str


_SPOTS = tuple(
    _Spot(dx=dx, dy=dy, side=side)
    for dx, dy, side in (
        (11, 4, "start"),
        (-11, 4, "end"),
        (9, -8, "start"),
        (9, 16, "start"),
        (-9, -8, "end"),
        (-9, 16, "end"),
        (0, -14, "middle"),
        (0, 23, "middle"),
        (9, -21, "start"),
        (-9, -21, "end"),
        (9, 29, "start"),
        (-9, 29, "end"),
    )
)
_Box = tuple[float, float, float, float]


def _spots(places: Sequence[_Place], y: Axis | LogAxis, limit: Limit | None = None) -> list[_Spot]:
    """The best spot for every label, one after the other: least overlap with what is drawn and labelled already."""
    taken = {width: [box for place in places for box in _drawn(place, y, width)] for width in (_NARROW, _WIDE)}
    if limit is not None:
        side, at = _limit_side(places, y, limit), _down(y, limit.value)
        for width, boxes in taken.items():
            boxes += [(0.0, at - 1, width, at + 1), _limit_box(limit, side, at, width)]
    chosen = []
    for place in places:
        if not place.dot.label:
            chosen.append(_SPOTS[0])
            continue
        best = min(
            _SPOTS, key=lambda spot: sum(_cost(_box(place, spot, width), taken[width], width) for width in taken)
        )
        for width, boxes in taken.items():
            boxes.append(_box(place, best, width))
        chosen.append(best)
    return chosen


def _limit_side(places: Sequence[_Place], y: Axis | LogAxis, limit: Limit) -> str:
    """The end of the line at which its words hide least."""
    at = _down(y, limit.value)

    def hidden(side: str) -> float:
        return sum(
            _overlap(_limit_box(limit, side, at, width), box)
            for width in (_NARROW, _WIDE)
            for place in places
            for box in _drawn(place, y, width)
        )

    return min(("end", "start"), key=hidden)


def _limit_box(limit: Limit, side: str, at: float, width: float) -> _Box:
    long, left = _CHARACTER * len(limit.label), _LEFT * width / 100
    return (left, at - 18, left + long, at) if side == "start" else (width - long, at - 18, width, at)


def _drawn(place: _Place, y: Axis | LogAxis, width: float) -> list[_Box]:
    at, reach = place.x * width / 100, 10 if place.dot.ring else 6
    figure = place.dot.y
    mark = (at - reach, place.y - reach, at + reach, place.y + reach)
    return [mark, (at - 2, _down(y, figure.high), at + 2, _down(y, figure.low))]


def _box(place: _Place, spot: _Spot, width: float) -> _Box:
    long = _CHARACTER * len(place.dot.label)
    at = place.x * width / 100 + spot.dx
    left = at if spot.side == "start" else at - long if spot.side == "end" else at - long / 2
    base = place.y + spot.dy
    return left, base - _LINE_HEIGHT + 3, left + long, base + 3


def _cost(box: _Box, taken: Sequence[_Box], width: float) -> float:
    """Pixels² that would be hidden; beyond the edge counts most."""
    outside = max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - _TOP - _HEIGHT - 4)
    return 1000 * outside + sum(_overlap(box, other) for other in taken)


def _overlap(one: _Box, other: _Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _label(place: _Place, spot: _Spot) -> Markup:
    if not place.dot.label:
        return Markup()
    return _LABEL.format(
        side=spot.side,
        strong=" strong" if place.dot.ring else "",
        x=place.x,
        y=round(place.y + spot.dy, 1),
        dx=spot.dx,
        label=place.dot.label,
    )
