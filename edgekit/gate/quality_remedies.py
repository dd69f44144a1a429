"""For a check of quality that did not pass: what the figure is made of, and what would bring it up.

Other builds have other quality only once they are evaluated, so nothing is promised but what was measured: which
tensors the divergence comes from, and how much of it a larger type there takes away.
"""

from __future__ import annotations

from edgekit.gate.metrics import Metric
from edgekit.gate.onsite import Subject
from edgekit.gate.quality import quality_of, tasks_of
from edgekit.header.precision import is_full_precision
from edgekit.records import DomainScore, Estimate, Figure, Layers, LayerShare, Unknown
from edgekit.units import format_bytes, format_percent

_NAMED = 3
"""Groups of tensors that are named: what is worth a larger type is rarely in more."""


def quality_arithmetic(subject: Subject, metric: Metric) -> str:
    """The shares behind a retention."""
    tasks = tasks_of(subject.evidence)
    if not metric.retention or isinstance(tasks, Unknown):
        return ""
    whole = tasks.overall
    if not isinstance(whole.accuracy, Estimate) or not isinstance(whole.teacher_accuracy, Estimate):
        return ""
    shown = (
        f"student {format_percent(whole.accuracy.value)} right, teacher {format_percent(whole.teacher_accuracy.value)},"
        f" guessing {format_percent(whole.chance)}"
    )
    parts = [_domain(score) for score in tasks.domains if isinstance(score.retention, Estimate)]
    return f"{shown}; retained: {', '.join(parts)}" if len(parts) > 1 else shown


def _domain(score: DomainScore) -> str:
    assert isinstance(score.retention, Estimate)
    return f"{score.domain} {format_percent(score.retention.value)}"


def quality_remedy(subject: Subject, metric: Metric, figure: Figure) -> str:
    """Larger types for the tensors that were found out; else how to find them out, or whether quantizing did it."""
    if isinstance(figure, Unknown) or not metric.quantizing:
        return ""
    header, known = subject.evidence.artifact.header, quality_of(subject.evidence)
    if is_full_precision(header):
        return "the weights are at full precision: only more training brings it up"
    if not isinstance(known, Unknown) and known.layers is not None:
        return _larger_types(known.layers)
    if metric.retention:
        return (
            "answer the same items with the full-precision build: what it retains, this one lost by quantizing; "
            "the rest was lost in training"
        )
    if header.format == "gguf":
        return "`edgekit evaluate ARTIFACT --reference REF --by-layer` names the tensors that it comes from"
    return f"a larger precision: `edgekit sweep CHECKPOINT --device {subject.device.name}` evaluates several"


def _larger_types(layers: Layers) -> str:
    worth = [row for row in layers.rows if row.suggestion][:_NAMED]
    if not worth:
        return "no tensors stand out: a larger type for all of them, such as the next `--to gguf:…`"
    extra = sum(row.suggested_extra_bytes for row in worth)
    return f"{', '.join(map(_larger_type, worth))}: {format_bytes(extra)} more in all"


def _larger_type(row: LayerShare) -> str:
    return f"`{row.group}` as `{row.suggestion}` (now {format_percent(row.share)} of the divergence)"
