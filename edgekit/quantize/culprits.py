"""What a search for the origin of KLD found, as a record and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.quantize.cells import mean_over_chunks
from edgekit.quantize.mending import MENDED
from edgekit.quantize.pairing import Pair, differing_settings
from edgekit.quantize.parts import Part, label_of, layer_of
from edgekit.records import Estimate, Figure, Finding, LayerShare, Unknown
from edgekit.units import format_bytes, format_percent

BEYOND_WEIGHTS = 5.0
"""An artifact with so many times the KLD of its tensors has another fault: what the kernels round about doubles the
KLD of the finest types, and adds a few per cent to that of the coarse ones.
"""

_NOT_MENDED = Unknown(reason="no other type is suggested")


@dataclass(frozen=True, slots=True)
class Mending:
    """A type for a group, if there is one: what it costs, and the group's KLD in it where that was measured. `damaged`:
    the type is not what is wrong.
    """

    type: str = ""
    extra_bytes: int = 0
    kld: Figure = _NOT_MENDED
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, chunk by chunk: the parts, worst first, with what mends those that stand out; the artifact as
    it is (`whole`), and its tensors all at once in the full-precision model (`weights`).
    """

    parts: tuple[Part, ...]
    mended: tuple[Mending | None, ...]
    whole: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def together(self) -> list[float]:
        """The sum of the parts."""
        return [math.fsum(values) for values in zip(*(part.kld for part in self.parts), strict=True)]


def method_of(parts: Sequence[Part]) -> str:
    """How it was measured, in words."""
    several = sum(len(part.names) > 1 for part in parts)
    how = "one tensor at a time is made, in the full-precision model, what it is in the artifact"
    return f"{how}; for want of time, {several} groups of one kind in neighbouring layers are" if several else how


def rows_of(pair: Pair, found: Found) -> tuple[LayerShare, ...]:
    """A row for each part, in their order."""
    held = {one.ours.name: one.ours for one in pair.changed}
    total = math.fsum(part.mean for part in found.parts)
    rows = []
    for part, mending in zip(found.parts, found.mended, strict=True):
        mending = mending or Mending()
        rows.append(
            LayerShare(
                group=label_of(part.names),
                layer=layer_of(part.names),
                tensors=part.names,
                types=tuple(sorted({held[name].type for name in part.names})),
                size_bytes=sum(held[name].size_bytes for name in part.names),
                kld=mean_over_chunks(part.kld),
                share=part.mean / total if total > 0 else 0.0,
                suggestion=mending.type,
                suggested_extra_bytes=mending.extra_bytes,
                suggested_kld=mending.kld,
            )
        )
    return tuple(rows)


def findings_of(pair: Pair, found: Found) -> Iterable[Finding]:
    """What a reader should know: what quantizing does not do, then the parts that stand out."""
    yield from _faults(pair, math.fsum(found.whole), math.fsum(found.weights))
    for row, mending in zip(rows_of(pair, found), found.mended, strict=True):
        if mending:
            yield _culprit(row, mending)


def _culprit(row: LayerShare, mending: Mending) -> Finding:
    message = f"`{row.group}` ({', '.join(row.types)}) stands out: {format_percent(row.share)} of the KLD of all groups"
    if mending.damaged:
        hint = "its values are further from the reference's than its type makes them: make the artifact anew"
        return Finding(level="warning", code="damaged-tensor", message=message, hint=hint)
    hint = ""
    if row.suggestion:
        hint = f"as `{row.suggestion}` it takes {format_bytes(row.suggested_extra_bytes)} more"
        if isinstance(row.kld, Estimate) and isinstance(row.suggested_kld, Estimate) and row.kld.value > 0:
            hint += f" and brings {format_percent(row.suggested_kld.value / row.kld.value)} of that, measured"
        else:
            hint += f" and brings less than {format_percent(MENDED)} of that, by its error"
    return Finding(level="note", code="quantization-outlier", message=message, hint=hint)


def _faults(pair: Pair, whole: float, weights: float) -> Iterable[Finding]:
    """What quantizing does not do."""
    other = [one.ours.name for one in pair.changed if not one.quantized]
    if other:
        yield Finding(
            level="warning",
            code="changed-tensors",
            message=f"{len(other)} tensors are not quantized and yet not the reference's, first: `{other[0]}`",
            hint="the artifact was damaged, or was not made of this reference alone",
        )
    settings = differing_settings(pair)
    for key, ours, theirs in settings:
        yield Finding(
            level="warning",
            code="changed-settings",
            message=f"`{key}` is {ours} in the artifact, in the reference: `{theirs}`",
            hint="the model runs with another setting than it was trained with",
        )
    if whole > BEYOND_WEIGHTS * weights and not settings:
        yield Finding(
            level="warning",
            code="beyond-the-weights",
            message=f"the artifact's tensors lose only {format_percent(weights / whole)} of what it loses itself",
            hint="the rest is in its metadata, or in this llama.cpp's kernels for its types",
        )
    if pair.artifact.stand_in or pair.reference.stand_in:
        message = "stand-in weights are random numbers: these figures time the tool and say nothing of a model"
        yield Finding(level="warning", code="stand-in-quality", message=message)
