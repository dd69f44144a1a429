"""Where the KL divergence of a quantized artifact comes from, group by group, and what would take it away."""

from __future__ import annotations

from edgekit.records import Figure, Layers, LayerShare, Quality, Unknown
from edgekit.report.quality import NOT_RECORDED, Part, Shown, Table, digest, told
from edgekit.report.sweep_words import bare_text, short_text
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
    table = Table(
        title="all groups", head=("group", "types", "size", "KLD, nat", "share", "suggested"), rows=_rows(layers)
    )
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


def _rows(layers: Layers) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            clean(row.group, 60),
            clean(", ".join(row.types), 40),
            format_bytes(row.size_bytes),
            divergence_text(row.kld),
            format_percent(row.share),
            suggestion_text(row),
        )
        for row in layers.rows
    )


def divergence_text(figure: Figure) -> str:
    """`0.0041 (0.0035–0.0048)`, or why it is unknown."""
    return f"unknown: {clean(figure.reason)}" if isinstance(figure, Unknown) else bare_text(figure, "nat")


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
