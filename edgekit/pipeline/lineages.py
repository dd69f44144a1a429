"""How an artifact came to be, as evidence beside its own: made by a walk, computed anew whenever it is judged again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgekit.errors import EdgekitError
from edgekit.records import Case, Distillation, Evidence, Header, Lineage

CasesOf = Callable[[Header], tuple[Case, ...]]
"""What is known of a header on the devices judged, without running it there."""


def lineage_of(mine: Evidence, chain: Distillation, teacher: Evidence | None) -> Lineage:
    """The lineage of the artifact of `mine`: `teacher` is the evidence of its teacher's own build, where it ran."""
    return _compared(Lineage(distillation=chain, teacher=teacher), mine)


def computed_anew(evidence: Evidence, cases_of: CasesOf) -> Lineage | None:
    """The same lineage with what was computed of the teacher computed by this version, and the changes from what was
    measured: figures in a file are nobody's proof.
    """
    lineage = evidence.lineage
    if lineage is None or lineage.teacher is None:
        return lineage and _compared(lineage, evidence)
    teacher = replace(lineage.teacher, cases=cases_of(lineage.teacher.artifact.header), quality=None, lineage=None)
    return _compared(replace(lineage, teacher=teacher), evidence)


def _compared(lineage: Lineage, mine: Evidence) -> Lineage:
    """With artifact ÷ teacher of every metric, the machine's drift in the ranges; without, and why, where the runs were
    not alike (an ONNX graph and a GGUF do not run in one runtime) or one of them broke.
    """
    from edgekit import bench

    if lineage.teacher is None:
        return replace(lineage, changes=(), not_compared="")
    try:
        return replace(lineage, changes=bench.compare_recorded(lineage.teacher, mine, {}).changes, not_compared="")
    except EdgekitError as error:
        return replace(lineage, changes=(), not_compared=error.message)
