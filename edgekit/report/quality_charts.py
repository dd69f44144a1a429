"""Charts of quality as inline SVG: what is retained, right answers, KL divergence by group and by token.

As in `charts`, horizontal positions are per cent and vertical ones pixels. A bar ends at the value; the whisker over it
is the 90 % range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.records import Estimate, Figure, Layers, Quality
from edgekit.report.charts import Axis, axis_over
from edgekit.report.quality import Line, Lines, Shown, divergence, known
from edgekit.report.quality_layers import DRAWN, suggestion_text
from edgekit.report.quality_tasks import DomainRow, accuracy_text
from edgekit.report.scatter import LogAxis, log_axis_over
from edgekit.report.sweep_words import short_text
from edgekit.report.words import clean, number_text
from edgekit.units import format_percent

_SVG = Markup(
    '<svg class="chart" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>{body}</svg>'
)
_RECT = Markup('<rect class="{css}" x="{x}%" y="{y}" width="{width}%" height="{height}"/>')
_LINE = Markup('<line class="{css}" x1="{x}%" x2="{x2}%" y1="{y}" y2="{y2}"/>')
_TEXT = Markup('<text class="{css}" x="{x}%" y="{y}">{text}</text>')
_UNIT = Markup('<text class="tick-text start" x="{x}%" y="{y}" dx="{dx}">{text}</text>')
_DOT = Markup('<circle class="{css}" cx="{x}%" cy="{y}" r="4.5"/>')
_LABEL, _GAP, _NOTE = 17, 14, 16
_NARROW, _CHARACTER = 288.0, 6.9
"""Pixels of the narrowest chart and of a character: what is set for it fits any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A bar; `css` chooses its colour."""

    figure: Figure
    css: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A labelled group of lanes. `lines` are limits, `chance` is what guessing scores and `teacher` what the teacher
    does, all on the axis.
    """

    label: str
    value: str
    lanes: tuple[Lane, ...]
    lines: tuple[Line, ...] = ()
    chance: float | None = None
    teacher: float | None = None
    note: str = ""
    css: str = ""


# ---- which bars ---------------------------------------------------------------------------------------------------


def retention_chart(ident: str, rows: Sequence[DomainRow]) -> Markup:
    """What the artifact keeps of its teacher, overall and by domain, against the gates; 100 % is the teacher. Nothing
    where all of it is unknown: a note says why.
    """
    if not any(isinstance(row.score.retention, Estimate) for row in rows):
        return Markup()
    bars = [
        Bar(
            label=row.name,
            value=_limited(row),
            lanes=(Lane(figure=row.score.retention, css=row.status or "student"),),
            lines=row.lines,
            teacher=1.0,
            note="capability cliff" if row.cliff else "",
            css="overall" if row.overall else "",
        )
        for row in rows
    ]
    limits = [line.limit for row in rows for line in row.lines]
    axis = axis_over([1.0, *limits, *_ends(bars)], "fraction")
    return bar_chart(ident, "retained of the teacher, by domain", bars, axis)


def _limited(row: DomainRow) -> str:
    gates = ", ".join(f"gate {format_percent(line.limit)}" for line in row.lines)
    return f"{row.retained}, {gates}" if gates else row.retained


def accuracy_chart(ident: str, rows: Sequence[DomainRow]) -> Markup:
    """Shares of right answers, the student's over the teacher's, with what guessing scores."""
    bars = []
    for row in rows:
        shares = [row.score.accuracy, row.score.teacher_accuracy]
        lanes = [Lane(figure=figure, css=css) for figure, css in zip(shares, ("student", "teacher"), strict=True)]
        both = any(isinstance(one.score.teacher_accuracy, Estimate) for one in rows)
        bars.append(
            Bar(
                label=row.name,
                value=accuracy_text(row.score.accuracy),
                lanes=tuple(lanes if both else lanes[:1]),
                chance=row.score.chance,
                css="overall" if row.overall else "",
            )
        )
    axis = Axis(low=0.0, high=1.0, scale=0.01, unit="%")
    return bar_chart(ident, "right answers, by domain", bars, axis)


def layers_chart(ident: str, layers: Layers) -> Markup:
    """The groups that bring the most KL divergence, with the type that would take it away."""
    bars = [
        Bar(
            label=row.group,
            value=f"{format_percent(row.share)} of the sum",
            lanes=(Lane(figure=row.kld, css="fail" if row.suggestion else "student"),),
            note=f"→ {suggestion_text(row)}" if row.suggestion else "",
        )
        for row in layers.rows[:DRAWN]
    ]
    return bar_chart(ident, "KL divergence by group of tensors", bars, axis_over(_ends(bars), "nat"))


def _ends(bars: Sequence[Bar]) -> list[float]:
    figures = [lane.figure for bar in bars for lane in bar.lanes]
    return [end for figure in figures if isinstance(figure, Estimate) for end in (figure.low, figure.high)]


# ---- the drawing --------------------------------------------------------------------------------------------------


def bar_chart(ident: str, title: str, bars: Sequence[Bar], axis: Axis) -> Markup:
    """The bars one below the other on one axis. Nothing without bars."""
    if not bars:
        return Markup()
    body, top = Markup(), 0.0
    for bar in bars:
        body += _bar(bar, axis, top)
        top += _height(bar)
    said = "; ".join(_said(bar) for bar in bars)
    return _svg(ident, title, said, top + 24, body + _ticks(axis, top))


def _height(bar: Bar) -> float:
    return _LABEL + _lanes_height(bar) + (_NOTE if bar.note else 0) + _GAP


def _lane_height(bar: Bar) -> float:
    return 14 if len(bar.lanes) == 1 else 9


def _lanes_height(bar: Bar) -> float:
    return (_lane_height(bar) + 2) * len(bar.lanes) - 2


def _bar(bar: Bar, axis: Axis, top: float) -> Markup:
    label = _TEXT.format(css=f"bar-label start {bar.css}", x=0, y=top + 12, text=clean(bar.label, _room(bar.value)))
    body = label + _TEXT.format(css="bar-value end", x=100, y=top + 12, text=clean(bar.value, 60))
    first, height = top + _LABEL, _lane_height(bar)
    for number, lane in enumerate(bar.lanes):
        body += _lane(lane, axis, first + number * (height + 2), height)
    last = first + _lanes_height(bar)
    for css, value in (("chance", bar.chance), ("whole", bar.teacher)):
        if value is not None:
            body += _LINE.format(css=css, x=axis.at(value), x2=axis.at(value), y=first - 2, y2=last + 2)
    for line in bar.lines:
        for css in ("limit halo", "limit"):
            body += _LINE.format(css=css, x=axis.at(line.limit), x2=axis.at(line.limit), y=first - 3, y2=last + 3)
    if bar.note:
        body += _TEXT.format(css="bar-note start", x=0, y=last + 14, text=clean(bar.note, 40))
    return body


def _room(value: str) -> int:
    """Characters that a label may have beside `value`, on a telephone too."""
    return max(8, int(_NARROW / _CHARACTER) - len(value) - 1)


def _lane(lane: Lane, axis: Axis, top: float, height: float) -> Markup:
    body, figure = _RECT.format(css="track", x=0, y=top, width=100, height=height), lane.figure
    if not isinstance(figure, Estimate):
        word = _TEXT.format(css="word plate", x=50, y=top + height - 2, text="unknown")
        return _RECT.format(css="hatched", x=0, y=top, width=100, height=height) + word
    start, end = sorted((axis.at(0.0), axis.at(figure.value)))
    body += _RECT.format(css=f"fill {lane.css}", x=start, y=top, width=round(max(end - start, 0.3), 3), height=height)
    at = axis.at(figure.value)
    body += _LINE.format(css=f"edge {lane.css}", x=at, x2=at, y=top, y2=top + height)
    if figure.low == figure.high:
        return body
    low, high, middle = axis.at(figure.low), axis.at(figure.high), top + height / 2
    body += _LINE.format(css="whisker", x=low, x2=high, y=middle, y2=middle)
    for end in (low, high):
        body += _LINE.format(css="whisker", x=end, x2=end, y=middle - 3.5, y2=middle + 3.5)
    return body


def _ticks(axis: Axis | LogAxis, top: float, *, unit: bool = True) -> Markup:
    """Ticks and their labels, `unit` behind one of them."""
    body, drawn, reached = Markup(), [], -100.0
    for tick in axis.ticks:
        at, half = axis.at(tick), 50 * (_CHARACTER * len(axis.label(tick)) + 8) / _NARROW
        if at - half < reached:  # labels of a narrow window must not touch
            continue
        reached = at + half
        drawn.append(at)
        side = "start" if at < 3 else "end" if at > 97 else "middle"
        body += _LINE.format(css="tick", x=at, x2=at, y=top - 2, y2=top + 2)
        body += _TEXT.format(css=f"tick-text {side}", x=at, y=top + 15, text=axis.label(tick))
    named = [tick for tick in axis.ticks if axis.at(tick) in drawn and 3 < axis.at(tick) < 82]
    if unit and named and axis.unit:
        dx = 4 + 3.7 * len(axis.label(named[-1]))
        body += _UNIT.format(x=axis.at(named[-1]), y=top + 15, dx=dx, text=axis.unit)
    return body


def _said(bar: Bar) -> str:
    lines = "".join(f", limit {line.limit:.4g}: {line.status}" for line in bar.lines)
    chance = f", chance {format_percent(bar.chance)}" if bar.chance is not None else ""
    teacher = f", teacher {accuracy_text(bar.lanes[1].figure)}" if len(bar.lanes) > 1 else ""
    note = f", {bar.note}" if bar.note else ""
    return f"{bar.label}: {bar.value}{teacher}{chance}{lines}{note}"


def _svg(ident: str, title: str, description: str, height: float, body: Markup) -> Markup:
    return _SVG.format(
        id=ident, title=clean(title, 200), description=clean(description, 4000), height=round(height, 1), body=body
    )


# ---- how KL divergence is spread over the tokens ------------------------------------------------------------------


def spread_axis(quality: Quality, lines: Lines) -> LogAxis | None:
    """One axis over the mean, the quantiles and their gates; `None` where fewer than two figures are known."""
    shown = known(divergence(quality))
    if len(shown) < 2 or not any(figure.high > 0 for _, figure in shown):
        return None
    ends = [end for _, figure in shown for end in (figure.low or figure.value, figure.value, figure.high)]
    limits = [line.limit for row in divergence(quality) for line in lines.get(row.metric, ())]
    return log_axis_over([*ends, *limits], "nat")


def spread_row(ident: str, shown: Shown, axis: LogAxis, lines: Sequence[Line] = ()) -> Markup:
    """A figure's range on the axis all rows share, coloured as its gate was judged."""
    status = min((line.status for line in lines), key=("fail", "unknown", "pass").index, default="host")
    body, figure = _RECT.format(css="track", x=0, y=2, width=100, height=18), shown.figure
    if isinstance(figure, Estimate):
        low, high = axis.at(figure.low), axis.at(figure.high)
        body += _RECT.format(css=f"range {status}", x=low, y=7, width=round(max(high - low, 0.4), 3), height=8)
    else:
        body += _RECT.format(css="hatched", x=0, y=2, width=100, height=18)
        body += _TEXT.format(css="word plate", x=50, y=15, text="unknown")
    for line in lines:
        at = axis.at(line.limit)
        body += _LINE.format(css="limit halo", x=at, x2=at, y=0, y2=22)
        body += _LINE.format(css="limit", x=at, x2=at, y=0, y2=22)
    if isinstance(figure, Estimate):
        body += _DOT.format(css=f"middle {status}", x=axis.at(figure.value), y=11)
    limits = ", ".join(f"limit {number_text(line.limit, shown.unit)}: {line.status}" for line in lines)
    return _svg(ident, shown.label, f"{short_text(figure, shown.unit)}{', ' if limits else ''}{limits}", 22, body)


def spread_foot(ident: str, axis: LogAxis) -> Markup:
    """The axis under such rows."""
    said = ", ".join(axis.label(tick) for tick in axis.ticks)
    return _svg(ident, f"axis in {axis.unit} a token, logarithmic", said or "no ticks", 22, _ticks(axis, 3, unit=False))


__all__ = [
    "Bar",
    "Lane",
    "accuracy_chart",
    "bar_chart",
    "layers_chart",
    "retention_chart",
    "spread_axis",
    "spread_foot",
    "spread_row",
]
