"""Curves of the page as inline SVG: decode over depth, and the throttling of a sustained run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from edgekit.records import DepthPoint, Estimate, Figure, Measurement, Projection
from edgekit.report.charts import Axis, axis_over
from edgekit.report.words import clean, figure_text, value_text
from edgekit.summary import depth_curve, speed, sustained_curve
from edgekit.units import format_percent

_HEIGHT, _TOP, _FOOT = 200, 22, 42
_LEFT, _WIDTH = 9.0, 89.0
_MAX_POINTS = 300
_SVG = Markup(
    '<svg class="chart" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>{grid}'
    '<svg x="{left}%" y="{top}" width="{width}%" height="{inner}" viewBox="0 0 100 100" preserveAspectRatio="none">'
    "{shapes}</svg>{marks}</svg>"
)
_GRID = Markup(
    '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/><text class="tick-text" x="0" y="{above}">{label}</text>'
)
_X_TICK = Markup('<text class="tick-text {side}" x="{x}%" y="{y}">{label}</text>')
_BAND = Markup('<polygon class="band {}" points="{}"/>')
_CURVE = Markup('<polyline class="curve {}" points="{}"/>')
_CIRCLE = Markup('<circle class="mark {}" cx="{}%" cy="{}" r="4"/>')
_DIAMOND = Markup(
    '<svg x="{}%" y="{}" width="1" height="1" overflow="visible"><path class="mark {}" d="M0-5 5 0 0 5-5 0z"/></svg>'
)
_EMPTY = Markup('<text class="tick-text {side}" x="{x}%" y="{y}">unknown</text>')


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place on a curve; `low`/`high` bound its band and are equal to `y` where it has none."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named curve. `key` chooses its colour, dash and mark; `missing` are the places where it is unknown."""

    label: str
    key: str
    points: tuple[Point, ...]
    missing: tuple[float, ...] = ()
    marked: bool = True


def depth_series(label: str, key: str, points: Sequence[DepthPoint]) -> Series:
    """A curve from the depths of a projection or a measurement; unknown ones are kept as missing."""
    return Series(
        label=label,
        key=key,
        points=tuple(_point(p.depth, p.tokens_per_s) for p in points if isinstance(p.tokens_per_s, Estimate)),
        missing=tuple(float(p.depth) for p in points if not isinstance(p.tokens_per_s, Estimate)),
    )


def _point(x: float, figure: Estimate) -> Point:
    return Point(x=x, y=figure.value, low=figure.low, high=figure.high)


def depths(measurement: Measurement | None, projection: Projection | None, device: str) -> tuple[Series, ...]:
    """What is known of decode over depth: measured here, projected for the device, or both."""
    series = []
    if projection is not None:
        burst = DepthPoint(depth=0, tokens_per_s=projection.decode)
        known = {point.depth: point for point in (burst, *projection.depths)}
        series.append(depth_series(f"projected for {clean(device, 60)}", "device", tuple(known.values())))
    if measurement is not None:
        where = "measured on the device" if measurement.on_device else "measured-here, on this host"
        series.append(depth_series(where, "host", depth_curve(measurement)))
    return tuple(one for one in series if len(one.points) + len(one.missing) > 1)


def depth_chart(ident: str, series: Sequence[Series]) -> Markup:
    """Decode speed over the tokens already in the KV cache, with 90 % bands."""
    return curve_chart(ident, "decode speed over depth", series, "tokens", "tokens in the KV cache")


def sustained_chart(ident: str, measurement: Measurement) -> Markup:
    """Decode speed over the time of the sustained run, the burst speed as a line across it."""
    windows = sustained_curve(measurement)
    if len(windows) < 2:
        return Markup()
    size = -(-len(windows) // _MAX_POINTS)
    groups = [windows[i : i + size] for i in range(0, len(windows), size)]
    points = tuple(
        Point(
            x=group[0].at_s / 60,
            y=median(window.tokens_per_s for window in group),
            low=min(window.tokens_per_s for window in group),
            high=max(window.tokens_per_s for window in group),
        )
        for group in groups
    )
    series = [Series(label="sustained decode", key="host", points=points, marked=False)]
    burst = speed(measurement, "tg128")
    if isinstance(burst, Estimate):
        ends = (points[0].x, points[-1].x)
        level = tuple(Point(x=x, y=burst.value, low=burst.low, high=burst.high) for x in ends)
        series.append(Series(label="burst tg128", key="burst", points=level, marked=False))
    return curve_chart(ident, "sustained decode speed", series, "min", "minutes of decoding without a pause")


def sustained_note(measurement: Measurement) -> str:
    """The share of the burst that is left, in words with its figures."""
    last: Figure = speed(measurement, "sustained")
    burst = speed(measurement, "tg128")
    if isinstance(last, Estimate) and isinstance(burst, Estimate) and burst.value > 0:
        share = format_percent(last.value / burst.value)
        return f"tenth minute: {figure_text(last, 'tok/s')}, {share} of the burst's {value_text(burst, 'tok/s')}"
    return last.reason if not isinstance(last, Estimate) else f"tenth minute: {figure_text(last, 'tok/s')}"


def curve_chart(
    ident: str, title: str, series: Sequence[Series], x_unit: str, x_title: str, *, y_unit: str = "tok/s"
) -> Markup:
    """The curves with their bands and marks, both axes from zero."""
    points = [point for one in series for point in one.points]
    missing = [x for one in series for x in one.missing]
    y_axis = axis_over([point.high for point in points], y_unit)
    x_axis = _exact_axis([*(point.x for point in points), *missing])
    shapes, marks = Markup(), Markup()
    for one in series:
        shapes += _shapes(one, x_axis, y_axis)
        marks += _marks(one, x_axis, y_axis)
    return _SVG.format(
        id=ident,
        title=title,
        description=_describe(series, x_unit, y_unit),
        height=_HEIGHT + _TOP + _FOOT,
        grid=_grid(x_axis, y_axis, x_title),
        left=_LEFT,
        top=_TOP,
        width=_WIDTH,
        inner=_HEIGHT,
        shapes=shapes,
        marks=marks,
    )


def _exact_axis(values: Sequence[float]) -> Axis:
    high = max(values, default=1.0)
    return Axis(low=0.0, high=high if high > 0 else 1.0, scale=1.0, unit="")


def _shapes(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    def place(x: float, y: float) -> str:
        return f"{x_axis.at(x):.2f},{100 - y_axis.at(y):.2f}"

    if len(series.points) < 2:
        return Markup()
    around = [place(p.x, p.high) for p in series.points] + [place(p.x, p.low) for p in reversed(series.points)]
    middle = " ".join(place(p.x, p.y) for p in series.points)
    return _BAND.format(series.key, " ".join(around)) + _CURVE.format(series.key, middle)


def _marks(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    marks = Markup()
    for point in series.points if series.marked else ():
        x, y = _across(x_axis, point.x), round(_TOP + _HEIGHT * (1 - y_axis.at(point.y) / 100), 1)
        # a mark of its own shape: colour is not alone in telling the curves apart
        marks += _CIRCLE.format(series.key, x, y) if series.key == "host" else _DIAMOND.format(x, y, series.key)
    for x_value in series.missing:
        marks += _EMPTY.format(x=_across(x_axis, x_value), y=_TOP + _HEIGHT - 6, side=_side(x_axis, x_value))
    return marks


def _grid(x_axis: Axis, y_axis: Axis, x_title: str) -> Markup:
    grid = Markup()
    for tick in y_axis.ticks:
        y = round(_TOP + _HEIGHT * (1 - y_axis.at(tick) / 100), 1)
        grid += _GRID.format(y=y, above=y - 3, label=y_axis.label(tick))
    for tick in x_axis.ticks:
        label, side = x_axis.label(tick), _side(x_axis, tick)
        grid += _X_TICK.format(x=_across(x_axis, tick), y=_TOP + _HEIGHT + 17, side=side, label=label)
    grid += _X_TICK.format(x=0, y=11, side="start", label=y_axis.unit)
    return grid + _X_TICK.format(x=100, y=_TOP + _HEIGHT + 35, side="end", label=x_title)


def _across(axis: Axis, value: float) -> float:
    return round(_LEFT + _WIDTH * axis.at(value) / 100, 2)


def _side(axis: Axis, value: float) -> str:
    return "end" if axis.at(value) > 95 else "middle"


def _describe(series: Sequence[Series], x_unit: str, y_unit: str) -> str:
    said = []
    for one in series:
        ends = [one.points[0], one.points[-1]] if one.points else []
        places = ", then ".join(f"{p.y:.3g} ({p.low:.3g}–{p.high:.3g}) {y_unit} at {p.x:.4g} {x_unit}" for p in ends)
        said.append(f"{one.label}: {places or 'unknown'}")
    return "; ".join(said)
