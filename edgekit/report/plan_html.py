"""The plan as one page: what it comes to, a map of types over the layers, tensors by kind, and the front."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from edgekit import __version__
from edgekit.records import Estimate, ParetoPoint, QuantPlan
from edgekit.report import plan_rows
from edgekit.report.charts import axis_over
from edgekit.report.html import render_page
from edgekit.report.plan_rows import Step, bits_of, kind_of, layer_of, steps
from edgekit.report.scatter import Dot, Limit, log_axis_over, scatter_chart
from edgekit.report.words import clean

MAX_CELLS = 20_000
_LEFT, _ROW = 28.0, 24
_SVG = Markup(
    '<svg class="chart map" role="img" aria-labelledby="{id}-t {id}-d" width="100%" height="{height}">'
    '<title id="{id}-t">types over the layers</title><desc id="{id}-d">{description}</desc>{body}</svg>'
)
_NAME = Markup('<text class="map-name" x="0" y="{y}">{name}</text>')
_CELL = Markup('<rect class="cell {css}" x="{x}%" y="{y}" width="{width}%" height="20" rx="2"/>')
_DIGIT = Markup('<text class="map-text middle {css}" x="{x}%" y="{y}">{text}</text>')
_TICK = Markup('<text class="tick-text {side}" x="{x}%" y="{y}">{text}</text>')


def render_plan_html(plan: QuantPlan, front: Sequence[ParetoPoint]) -> str:
    """One self-contained page that opens offline, in the report's own look."""
    points = steps(plan, front)
    return render_page(
        "plan.html.j2",
        __version__,
        plan=plan,
        rows=plan_rows,
        points=points,
        front_chart=lambda ident: front_chart(ident, points),
        speed_chart=lambda ident: speed_chart(ident, points, plan.min_decode),
        type_map=lambda ident: type_map(ident, plan),
        buckets=_buckets(plan),
    )


def front_chart(ident: str, points: Sequence[Step]) -> Markup:
    """Summed KLD against size over the front, both logarithmic, the plan ringed."""
    placed = [(step, step.kld) for step in points if isinstance(step.kld, Estimate)]
    if len(placed) < 2 or not any(kld.high > 0 for _, kld in placed):
        return Markup()
    x = log_axis_over([float(step.size_bytes) for step, _ in placed], "bytes")
    y = log_axis_over([end for _, kld in placed for end in (kld.low or kld.value, kld.value, kld.high)], "nat")
    dots = [_dot(step, kld) for step, kld in placed]
    path = [(float(step.size_bytes), kld.value) for step, kld in placed]
    return scatter_chart(ident, "quality against size", dots, x=x, y=y, x_title="size of all tensors", path=path)


def speed_chart(ident: str, points: Sequence[Step], floor: float) -> Markup:
    """Decode speed against size over the front, on the slowest device, with the floor asked for."""
    dots = [_dot(step, step.decode) for step in points if isinstance(step.decode, Estimate)]
    if len(dots) < 2:
        return Markup()
    x = log_axis_over([dot.x for dot in dots], "bytes")
    y = axis_over([*(dot.y.high for dot in dots), floor], "tok/s")
    limit = Limit(value=floor, label=f"asked ≥ {floor:g} tok/s") if floor else None
    return scatter_chart(ident, "decode speed against size", dots, x=x, y=y, x_title="size of all tensors", limit=limit)


def _dot(step: Step, figure: Estimate) -> Dot:
    shape = {"css": "device", "shape": "diamond"} if step.chosen else {"css": "host", "shape": "circle"}
    return Dot(label=step.label, x=float(step.size_bytes), y=figure, ring=step.chosen, **shape)  # type: ignore[arg-type]


# ---- the map of types ---------------------------------------------------------------------------------------------


def bucket_of(type_name: str) -> str:
    """The colour class of a type: by whole bits per weight, `b2` to `b8`, `b16` beyond, `b0` for an unknown one."""
    bits = bits_of(type_name)
    if bits is None:
        return "b0"
    return "b16" if bits > 9 else f"b{max(2, min(8, int(bits)))}"


def _buckets(plan: QuantPlan) -> tuple[tuple[str, str], ...]:
    """(colour class, its types) of the plan, from coarse to fine."""
    types = sorted({tensor.type for tensor in plan.tensors}, key=lambda name: (bits_of(name) or 0.0, name))
    found: dict[str, list[str]] = {}
    for name in types:
        found.setdefault(bucket_of(name), []).append(clean(name, 24))
    return tuple((css, ", ".join(names)) for css, names in found.items())


def type_map(ident: str, plan: QuantPlan) -> Markup:
    """A row for each kind of tensor and a cell for each layer, coloured by bits per weight, which it also names."""
    if len(plan.tensors) > MAX_CELLS:
        return Markup()
    layers = max((layer for tensor in plan.tensors if (layer := layer_of(tensor.name)) is not None), default=-1) + 1
    if not 0 < layers <= MAX_CELLS:
        return Markup()
    kinds = list(dict.fromkeys(kind_of(tensor.name) for tensor in plan.tensors))
    step, body = (100 - _LEFT) / layers, Markup()
    for index, kind in enumerate(kinds):
        body += _NAME.format(y=index * _ROW + 15, name=clean(kind, 13))
    for tensor in plan.tensors:
        layer, top = layer_of(tensor.name), kinds.index(kind_of(tensor.name)) * _ROW
        x, width = (_LEFT, 100 - _LEFT) if layer is None else (_LEFT + step * layer, step)
        css = bucket_of(tensor.type)
        body += _CELL.format(css=css, x=round(x, 3), y=top, width=round(max(width - 0.2, 0.1), 3))
        if layer is None or layers <= 40:
            shown = tensor.type if layer is None else css.removeprefix("b")
            body += _DIGIT.format(css=css, x=round(x + width / 2, 3), y=top + 15, text=clean(shown, 24))
    foot = len(kinds) * _ROW
    body += _TICK.format(side="start", x=_LEFT, y=foot + 12, text="layer 0")
    if layers > 1:
        body += _TICK.format(side="end", x=100, y=foot + 12, text=f"layer {layers - 1}")
    said = "; ".join(
        f"{row.kind}: {row.count} × {row.type}" + (f" (layers {row.layers})" if row.layers else "")
        for row in plan_rows.groups(plan)
    )
    return _SVG.format(id=ident, height=foot + 20, description=clean(said, 4000), body=body)
