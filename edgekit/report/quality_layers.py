"""Where the KL divergence of a quantized artifact comes from, group by group, and what would take it away."""

from __future__ import annotations

from edgekit.records import Estimate, Figure, Layers, LayerShare, Quality, Unknown
from edgekit.report.quality import NOT_RECORDED, Part, Shown, Table, digest, told
from edgekit.report.sweep_words import short_text
from edgekit.report.words import Fact, clean
from edgekit.units import format_bytes, format_percent

READING = (
    "Every group of tensors alone was put into the reference as it is quantized here. The sum differs from all groups "
    "at once where errors compound or cancel; the artifact as it runs adds what its kernels round off."
)
DRAWN = 10
"""Groups that a chart and a table show openly; the rest is folded away."""


def layers_part(quality: Quality) -> Part | None:
    """The groups, the worst first; `None` where nobody looked for them."""
    layers = quality.layers
    if layers is None:
        return None
    scale, unit = _scale(layers)
    head = ("group", "types", "size", f"KLD, {unit}", "share", "suggested")
    table = Table(title="all groups", head=head, rows=_rows(layers, scale))
    few = len(layers.rows) <= DRAWN
    worst = Table(title=table.title, head=table.head, rows=table.rows[:DRAWN])
    sums = (
        Shown(label="sum over the groups", figure=layers.sum, unit="nat"),
        Shown(label="all groups at once", figure=layers.weights, unit="nat"),
        Shown(label="the artifact as it runs", figure=layers.whole, unit="nat"),
    )
    return Part(
        key="layers",
        title=f"where the KL divergence comes from: {len(layers.rows)} groups",
        reading=READING,
        table=worst,
        rows=tuple(one.fact for one in sums if one.figure != NOT_RECORDED),
        notes=suggestions(layers),
        folded=() if few else (table,),
        behind=told(
            (
                Fact(label="groups", value=layers.method),
                Fact(label="groups scored on", value=f"{layers.chunks} chunks of text{digest(layers.text_sha256)}"),
                Fact(label="groups swapped into", value=digest(layers.reference_sha256).lstrip(", ")),
            )
        ),
    )


def _scale(layers: Layers) -> tuple[float, str]:
    """Nats in the unit of the table, and its name: one in which the largest group needs no power of ten."""
    most = max((row.kld.high for row in layers.rows if isinstance(row.kld, Estimate)), default=1.0)
    units = ((1.0, "nat"), (1e-3, "1e-3 nat"), (1e-6, "1e-6 nat"))
    return next((one for one in units if most >= 0.1 * one[0]), units[-1])


def _rows(layers: Layers, scale: float) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            clean(row.group, 60),
            clean(", ".join(row.types), 40),
            format_bytes(row.size_bytes),
            _divergence(row.kld, scale),
            format_percent(row.share),
            suggestion_text(row),
        )
        for row in layers.rows
    )


def _divergence(figure: Figure, scale: float) -> str:
    """`4.1 (3.5–4.8)` in the unit of the table, or why it is unknown."""
    if isinstance(figure, Unknown):
        return f"unknown: {clean(figure.reason)}"
    value, low, high = (end / scale for end in (figure.value, figure.low, figure.high))
    return f"{value:.3g} ({low:.3g}{' to ' if low < 0 else '–'}{high:.3g})"


def suggestion_text(row: LayerShare) -> str:
    """`q6_k, +3 MB`; empty where nothing stands out."""
    if not row.suggestion:
        return ""
    sign = "−" if row.suggested_extra_bytes < 0 else "+"
    return clean(f"{row.suggestion}, {sign}{format_bytes(abs(row.suggested_extra_bytes))}", 60)


def suggestions(layers: Layers) -> tuple[str, ...]:
    """A sentence for every group with a suggested type."""
    return tuple(_sentence(row) for row in layers.rows if row.suggestion)


def _sentence(row: LayerShare) -> str:
    group, types, suggested = clean(row.group, 60), clean(", ".join(row.types), 40), clean(row.suggestion, 30)
    more = format_bytes(row.suggested_extra_bytes)
    brings = f"`{group}` in `{types}` brings {format_percent(row.share)} of the sum"
    return f"{brings}; in `{suggested}` it would bring {_left(row)} for {more} more"


def _left(row: LayerShare) -> str:
    """What the suggested type was measured to bring, where it was."""
    if isinstance(row.suggested_kld, Unknown) or isinstance(row.kld, Unknown):
        return "far less of it"
    return f"{short_text(row.suggested_kld, 'nat')} in place of {short_text(row.kld, 'nat')}"
