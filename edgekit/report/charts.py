"""Charts of the page as inline SVG: ranges against limits, the memory stack, strips of samples.

Horizontal positions are per cent and vertical ones pixels, so a chart fills a phone or a sheet of paper without its
text shrinking. Every part is built by `Markup.format`, which escapes what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.records import Check, Estimate, Figure, Measurement, Sample
from edgekit.report.facts import Part
from edgekit.report.words import clean, figure_text, limit_of, limit_text, range_text
from edgekit.summary import speed, timed

_RECT = Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}"/>')
_BAR = Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}" rx="{}"/>')
_LINE = Markup('<line class="{}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>')
_TEXT = Markup('<text class="{}" x="{}%" y="{}">{}</text>')
_UNIT = Markup('<text class="tick-text start" x="{}%" y="{}" dx="{}">{}</text>')
_DOT = Markup('<circle class="{}" cx="{}%" cy="{}" r="{}"/>')
_SVG = Markup(
    '<svg class="chart" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>{body}</svg>'
)
_HUGE = 1e290
_MAX_CHUNKS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A linear scale from `low` to `high` in SI, ticked in `unit` (= `scale` SI units)."""

    low: float
    high: float
    scale: float
    unit: str

    def at(self, value: float) -> float:
        """Where `value` lies, in per cent of the width, held inside the chart."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 3)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values within the scale, about five."""
        step = self.scale * round_step((self.high - self.low) / self.scale / 5)
        first = math.ceil(self.low / step)
        return tuple(n * step for n in range(first, first + 12) if n * step <= self.high)

    def label(self, value: float) -> str:
        return tick_text(value / self.scale)


def tick_text(number: float) -> str:
    """Four digits at most, and no power of ten for what can be read without."""
    return f"{number:.0f}" if 1e4 <= abs(number) < 1e6 else f"{number:.4g}"


def round_step(rough: float) -> float:
    """The next round number from `rough` up."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if rough <= power * factor * 1.0001)


def axis_over(values: Iterable[float], unit: str) -> Axis:
    """An axis from zero over all `values`, in the unit people read them in."""
    shown = [max(-_HUGE, min(_HUGE, value)) for value in values] or [1.0]
    low, high = min(0.0, *shown), max(0.0, *shown) * 1.08
    if high - low < 1e-290:
        high = low + 1.0
    scale, name = readable_unit(high, unit)
    return Axis(low=low, high=high, scale=scale, unit=clean(name, 20))


def readable_unit(high: float, unit: str) -> tuple[float, str]:
    """(SI units in one, name) of the unit in which people read values up to `high`."""
    if unit == "bytes":
        return (1e9, "GB") if high >= 1e9 else (1e6, "MB") if high >= 1e6 else (1e3, "kB")
    if unit == "s":
        return (1e-3, "ms") if high < 1 else (1.0, "s")
    return (0.01, "%") if unit == "fraction" else (1.0, unit)


def axis_of_checks(checks: Iterable[Check], bounds: Iterable[float] = ()) -> Axis:
    """One axis for the ranges and limits of `checks`, so that rows of a table compare."""
    checks = tuple(checks)
    values = [limit for check in checks if (limit := limit_of(check)) is not None]
    values += [check.figure.high for check in checks if isinstance(check.figure, Estimate)]
    values += [check.figure.low for check in checks if isinstance(check.figure, Estimate)]
    reach = max(values, default=1.0)
    values += [bound for bound in bounds if bound <= 2.5 * reach]  # a far bound would squeeze the ranges
    return axis_over(values, checks[0].unit if checks else "")


# ---- a range against its limit ------------------------------------------------------------------------------------


def check_chart(ident: str, check: Check, bound: Estimate | None = None) -> Markup:
    """The range of a check against its limit, with axis, and the physical bound where one is known."""
    axis = axis_of_checks([check], [bound.value] if bound else [])
    drawn = bound is not None and bound.value <= axis.high
    top = 36 if drawn else 20
    body = _interval(check, axis, top) + _limit_label(check, axis) + _ticks(axis, top + 22)
    if bound is not None and drawn:
        body += _bound(axis, bound.value, top)
    return _svg(ident, check.title, _description(check), top + 40, body)


def member_chart(ident: str, check: Check, axis: Axis, name: str) -> Markup:
    """One row of a class's table: the same drawing without axis, on the axis all rows share."""
    return _svg(ident, f"{check.title}, {name}", _description(check), 22, _interval(check, axis, 2))


def axis_chart(ident: str, check: Check, axis: Axis) -> Markup:
    """The axis under such rows, with the limit named."""
    body = _ticks(axis, 0) + _tag("limit-text", axis.at(limit_of(check) or 0.0), 34, f"limit {limit_text(check)}")
    return _svg(ident, f"axis in {axis.unit}", f"limit {limit_text(check)}", 40, body)


def _interval(check: Check, axis: Axis, top: float) -> Markup:
    limit, figure = limit_of(check), check.figure
    body = _RECT.format("track", 0, top, 100, 18)
    if limit is not None:
        at = axis.at(limit)
        x, width = (at, 100 - at) if check.min is not None else (0, at)
        body += _RECT.format("clears", x, top, width, 18)
    if isinstance(figure, Estimate):
        low, high = axis.at(figure.low), axis.at(figure.high)
        width = max(high - low, 0.4)
        body += _BAR.format(f"range {check.status}", min(low, 100 - width), top + 4, width, 10, 5)
    else:
        body += _RECT.format("hatched", 0, top, 100, 18) + _TEXT.format("word plate", 50, top + 13, "unknown")
        body += _TEXT.format("word", 50, top + 13, "unknown")
    if limit is not None:
        body += _LINE.format("limit halo", axis.at(limit), axis.at(limit), top - 3, top + 21)
        body += _LINE.format("limit", axis.at(limit), axis.at(limit), top - 3, top + 21)
    if isinstance(figure, Estimate):
        body += _DOT.format(f"middle {check.status}", axis.at(figure.value), top + 9, 4.5)
    return body


def _limit_label(check: Check, axis: Axis) -> Markup:
    limit = limit_of(check)
    if limit is None:
        return Markup()
    # the arrow points to the side that passes, so the tint is not alone in saying it
    text = limit_text(check).lstrip("≥≤ ")
    return _tag("limit-text", axis.at(limit), 12, f"limit {text} →" if check.min is not None else f"← limit {text}")


def _bound(axis: Axis, value: float, top: float) -> Markup:
    at = axis.at(value)
    return _LINE.format("bound", at, at, top - 6, top + 21) + _tag("bound-text", at, top - 9, "physical limit")


def _ticks(axis: Axis, top: float) -> Markup:
    body = Markup()
    for tick in axis.ticks:
        body += _LINE.format("tick", axis.at(tick), axis.at(tick), top - 2, top + 2)
        body += _tag("tick-text", axis.at(tick), top + 15, axis.label(tick), edge=3)
    named = [tick for tick in axis.ticks if 3 < axis.at(tick) < 82]
    if named and axis.unit:
        body += _UNIT.format(axis.at(named[-1]), top + 15, 4 + 3.7 * len(axis.label(named[-1])), axis.unit)
    return body


def _tag(css: str, at: float, y: float, text: str, edge: float = 16) -> Markup:
    """Text at a position, anchored so that it stays inside the chart."""
    side = "start" if at < edge else "end" if at > 100 - edge else "middle"
    return _TEXT.format(f"{css} {side}", at, y, clean(text, 60))


def _description(check: Check) -> str:
    return f"{figure_text(check.figure, check.unit, limit_of(check))}, limit {limit_text(check)}: {check.status}"


def _svg(ident: str, title: str, description: str, height: float, body: Markup) -> Markup:
    return _SVG.format(id=ident, title=clean(title, 200), description=clean(description), height=height, body=body)


# ---- memory -------------------------------------------------------------------------------------------------------


def memory_chart(ident: str, parts: Sequence[Part], total: Estimate, limit: float | None, axis: Axis) -> Markup:
    """The parts of the working set side by side, the range of their sum, dormant pages hatched behind it, the limit."""
    body, reached = _RECT.format("track", 0, 20, 100, 26), 0.0
    for part in sorted(parts, key=lambda part: not part.counted):
        x, width = axis.at(reached), axis.at(reached + part.size_bytes) - axis.at(reached)
        body += _RECT.format(f"part {part.key}", x, 20, max(width - 0.15, 0.1), 26)
        reached += part.size_bytes
    low, high = axis.at(total.low), axis.at(total.high)
    body += _LINE.format("whisker", low, high, 52, 52)
    body += _LINE.format("whisker", low, low, 49, 55) + _LINE.format("whisker", high, high, 49, 55)
    if limit is not None:
        body += _LINE.format("limit halo", axis.at(limit), axis.at(limit), 16, 58)
        body += _LINE.format("limit", axis.at(limit), axis.at(limit), 16, 58)
        body += _tag("limit-text", axis.at(limit), 12, f"← limit {axis.label(limit)} {axis.unit}")
    body += _ticks(axis, 62)
    said = ", ".join(f"{part.label} {axis.label(part.size_bytes)} {axis.unit}" for part in parts)
    return _svg(ident, "memory by part", f"working set {figure_text(total, 'bytes')}; {said}", 80, body)


# ---- samples ------------------------------------------------------------------------------------------------------


def strip_chart(ident: str, measurement: Measurement, test: str) -> Markup:
    """Every repetition of a test as a dot, a lane per process, with the median and its range behind them."""
    samples, figure = timed(measurement, test), speed(measurement, test)
    rates = [_rate(sample) for sample in samples]
    if not rates:
        return Markup()
    axis = _close_axis([*rates, *((figure.low, figure.high) if isinstance(figure, Estimate) else ())])
    body = _spread(figure, axis)
    lanes = sorted({sample.process for sample in samples})
    for sample in samples:
        y = 18 if len(lanes) == 1 else 6 + 24 * lanes.index(sample.process) / (len(lanes) - 1)
        body += _DOT.format("sample", axis.at(_rate(sample)), round(y, 1), 3)
    for end, label in ((axis.low, axis.label(axis.low)), (axis.high, f"{axis.label(axis.high)} tok/s")):
        body += _tag("tick-text", axis.at(end), 48, label)
    said = f"{len(rates)} repetitions from {range_text(min(rates), max(rates), 'tok/s')} in {len(lanes)} processes"
    return _svg(ident, f"samples of {test}", said, 52, body)


def chunk_chart(ident: str, klds: Sequence[float], figure: Figure) -> Markup:
    """The KLD of every chunk of text as a dot, in five lanes so that they do not hide each other, the mean behind."""
    axis = axis_over([*klds, *((figure.high,) if isinstance(figure, Estimate) else ())], "nat")
    body = _spread(figure, axis)
    for index, kld in enumerate(klds[:_MAX_CHUNKS]):
        body += _DOT.format("sample", axis.at(kld), 6 + 6 * (index % 5), 2.5)
    body += _ticks(axis, 40)
    said = f"{len(klds)} chunks from {range_text(min(klds), max(klds), 'nat')}, mean {figure_text(figure, 'nat')}"
    return _svg(ident, "KL divergence of each chunk", said, 58, body)


def _spread(figure: Figure, axis: Axis) -> Markup:
    if not isinstance(figure, Estimate):
        return Markup()
    low, high, middle = axis.at(figure.low), axis.at(figure.high), axis.at(figure.value)
    return _BAR.format("spread", low, 1, max(high - low, 0.4), 34, 2) + _LINE.format("median", middle, middle, 1, 35)


def _rate(sample: Sample) -> float:
    return sample.tokens / sample.elapsed_s


def _close_axis(values: Sequence[float]) -> Axis:
    """An axis close around `values`; a strip shows spread, not size, and says so by its end labels."""
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    return Axis(low=low - pad, high=high + pad, scale=1.0, unit="tok/s")


__all__ = [
    "Axis",
    "axis_chart",
    "axis_of_checks",
    "axis_over",
    "check_chart",
    "chunk_chart",
    "member_chart",
    "memory_chart",
    "readable_unit",
    "round_step",
    "strip_chart",
    "tick_text",
]
