"""Charts of a distillation as inline SVG: held-out figures along the chain, the loss of every stage, layer maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from markupsafe import Markup

from edgekit.records import Distillation, Estimate, Figure, HeldOut, LayerMap, Link, StageResult
from edgekit.report.curves import Point, Series, curve_chart
from edgekit.report.distillation import MAX_ROWS, heaviest, map_words
from edgekit.report.words import clean
from edgekit.units import format_percent

_MAX_POINTS = 300
_MAX_CELLS = 20_000
_NAMED_COLUMNS = 16
"""Up to as many teacher layers a cell has room for its share, on a telephone too."""
_LEFT, _ROW = 12.0, 22
_DENSEST = 0.65
"""Opacity of a whole share: the figure in the cell keeps a contrast of 4.5 in both themes."""
_KEYS = ("host", "device", "kv", "compute", "output")
_SVG = Markup(
    '<svg class="chart map" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>{body}</svg>'
)
_NAME = Markup('<text class="map-name" x="0" y="{y}">{name}</text>')
_GROUND = Markup('<rect class="track" x="{x}%" y="{y}" width="{width}%" height="{height}"/>')
_CELL = Markup(
    '<rect class="heat" x="{x}%" y="{y}" width="{width}%" height="{height}" fill-opacity="{share}"/>'
    '<text class="map-text middle" x="{middle}%" y="{foot}">{text}</text>'
)
_TICK = Markup('<text class="tick-text {side}" x="{x}%" y="{y}">{text}</text>')


# ---- along the chain ------------------------------------------------------------------------------------------------


def loss_series(chain: Distillation) -> tuple[Series, ...]:
    """Held-out loss of every student over the tokens trained on along the chain, and the teacher's as a level."""
    series = _students(chain, lambda held_out: held_out.loss)
    level = chain.teacher_held_out.loss
    if not series or not isinstance(level, Estimate):
        return series
    reach = max((point.x for one in series for point in one.points), default=0.0)
    ends = tuple(Point(x=x, y=level.value, low=level.low, high=level.high) for x in (0.0, reach))
    return (
        *series,
        Series(label=f"{clean(chain.teacher.name, 60)}, the teacher", key="burst", points=ends, marked=False),
    )


def kld_series(chain: Distillation) -> tuple[Series, ...]:
    """The same of the KL divergence from the first teacher."""
    return _students(chain, lambda held_out: held_out.kld)


def _students(chain: Distillation, figure: Callable[[HeldOut], Figure]) -> tuple[Series, ...]:
    """A curve for each student: before its first stage and after each, where the figure is known."""
    series, reached = [], 0.0
    for number, link in enumerate(chain.links[: len(_KEYS)]):
        places = [(reached, figure(link.start))]
        for stage in link.stages[:MAX_ROWS]:
            reached += max(0, stage.training.tokens) / 1e6
            places.append((reached, figure(stage.held_out)))
        points = tuple(_point(x, one) for x, one in places if isinstance(one, Estimate))
        if points:
            series.append(Series(label=clean(link.student.name, 60), key=_KEYS[number], points=points))
    return tuple(series)


def _point(x: float, figure: Estimate) -> Point:
    return Point(x=x, y=figure.value, low=figure.low, high=figure.high)


def chain_chart(ident: str, title: str, series: Sequence[Series]) -> Markup:
    """A figure in nats over millions of training tokens; nothing where no student was trained."""
    if not any(len(one.points) > 1 for one in series):
        return Markup()
    return curve_chart(ident, title, series, "M", "million tokens trained on, stage after stage", y_unit="nat")


# ---- the loss of a stage --------------------------------------------------------------------------------------------


def stages_of(chain: Distillation) -> tuple[tuple[Link, StageResult], ...]:
    """Every stage that logged a curve, in order, with its link."""
    found = ((link, stage) for link in chain.links for stage in link.stages if len(stage.training.losses) > 1)
    return tuple(found)[:MAX_ROWS]


def training_chart(ident: str, stage: StageResult) -> Markup:
    """What the stage's own objective came to, step by step; where steps are many, the median of each few and the band
    from their lowest to their highest.
    """
    logged = stage.training.losses
    every = -(-len(logged) // _MAX_POINTS)
    groups = [logged[at : at + every] for at in range(0, len(logged), every)]
    points = tuple(
        Point(
            x=float(group[-1][0]),
            y=median(loss for _, loss in group),
            low=min(loss for _, loss in group),
            high=max(loss for _, loss in group),
        )
        for group in groups
    )
    series = [Series(label=f"loss of the {stage.kind} stage", key="host", points=points, marked=False)]
    return curve_chart(ident, f"training loss of the {stage.kind} stage", series, "steps", "steps", y_unit="nat")


# ---- layer maps -----------------------------------------------------------------------------------------------------


def map_chart(ident: str, layer_map: LayerMap) -> Markup:
    """A row for each student layer and a column for each teacher layer, the stronger the larger its share, which it
    also names where there is room. Nothing where the map is too large, or its rows are not of one length.
    """
    columns, rows = layer_map.teacher_layers, layer_map.weights
    regular = 0 < columns <= _MAX_CELLS and all(len(row) == columns for row in rows)
    if not regular or not 0 < len(rows) * columns <= _MAX_CELLS:
        return Markup()
    step = (100 - _LEFT) / columns
    body = _GROUND.format(x=_LEFT, y=0, width=100 - _LEFT, height=len(rows) * _ROW)
    for index, row in enumerate(rows):
        body += _NAME.format(y=index * _ROW + 15, name=f"layer {index}")
        for column, share in enumerate(row):
            body += _cell(_LEFT + step * column, index * _ROW, step, share, named=columns <= _NAMED_COLUMNS)
    foot = len(rows) * _ROW + 14
    for column in _ticks(columns):
        side = "end" if column == columns - 1 and columns > _NAMED_COLUMNS else "middle"
        x = _LEFT + step * (column + (1 if side == "end" else 0.5))
        body += _TICK.format(side=side, x=round(x, 3), y=foot, text=str(column))
    body += _TICK.format(side="end", x=100, y=foot + 15, text="teacher’s layer")
    said = "; ".join(
        f"layer {index}: " + ", ".join(f"{at} ({format_percent(share)})" for at, share in heaviest(row))
        for index, row in enumerate(rows[:MAX_ROWS])
    )
    return _SVG.format(
        id=ident, height=foot + 20, title=f"layer map, {map_words(layer_map)}", description=clean(said, 4000), body=body
    )


def _cell(x: float, y: int, step: float, share: float, *, named: bool) -> Markup:
    share = min(1.0, max(0.0, share))
    text = f"{100 * share:.0f}" if named and share >= 0.01 else ""
    return _CELL.format(
        x=round(x + 0.05, 3),
        y=y + 0.5,
        width=round(max(step - 0.1, 0.05), 3),
        height=_ROW - 1,
        share=round(_DENSEST * share, 3),
        middle=round(x + step / 2, 3),
        foot=y + 15,
        text=text,
    )


def _ticks(columns: int) -> list[int]:
    """All columns where they have room, else about eight and the last."""
    if columns <= _NAMED_COLUMNS:
        return list(range(columns))
    every = math.ceil(columns / 8)
    return [*range(0, columns - every // 2, every), columns - 1]
