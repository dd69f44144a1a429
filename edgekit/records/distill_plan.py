"""What a recipe of distillation would cost, and whether it fits what it is meant to run on; nothing run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.distillation import ModelFacts, StageKind
from edgekit.records.numbers import Estimate, Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes on each process while a stage trains: its shards of `weights`, `gradients` and `optimizer` state, its shard
    of the `teacher`, what is `gathered` whole while it is used, `activations`, a chunk of `logits`, and the `runtime`.
    """

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    gathered: float
    activations: Estimate
    logits: Estimate
    runtime: Estimate
    total: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage, foreseen. `hours` are of the clock on all accelerators together, `accelerator_hours` their product
    with the number of them.
    """

    student: str
    kind: StageKind
    teacher: str
    steps: int
    tokens: int
    teacher_tokens: int
    student_flops: Estimate
    teacher_flops: Estimate
    accelerator_hours: Figure
    hours: Figure
    memory: TrainingMemory
    fits: Literal["yes", "no", "unknown"]
    reason: str = ""
    """Why it does not fit, or why that is not known."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillPlan:
    """All stages of a recipe and their sums. Models have no `path` and `sha256` where they are not there yet."""

    kind: Literal["distill-plan"] = "distill-plan"
    version: Literal[1] = 1
    edgekit_version: str
    recipe: str
    recipe_sha256: str
    teacher: ModelFacts
    students: tuple[ModelFacts, ...]
    stages: tuple[PlannedStage, ...]
    tokens: int
    flops: Estimate
    accelerator_hours: Figure
    hours: Figure
    accelerator: str = ""
    accelerators: int = 0
    accelerator_memory_bytes: float = 0.0
    accelerator_source: str = ""
    mfu: tuple[float, float] | None = None
    fits: Literal["yes", "no", "unknown"]
    notes: tuple[str, ...] = ()
