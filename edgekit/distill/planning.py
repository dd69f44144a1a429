"""What a recipe would cost and whether it fits, before anything runs: `edgekit distill RECIPE --dry-run`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgekit import __version__
from edgekit.distill import costs
from edgekit.distill.accelerators import Accelerator, accelerator
from edgekit.distill.beginnings import read_config
from edgekit.distill.model_facts import check_smaller, facts_of, facts_of_config, facts_of_shape, shape_of_recipe
from edgekit.distill.prune_spec import Sizes, parse_prune, sizes_left
from edgekit.distill.recipe_parts import DistillRecipe, Machines, Stage, Student
from edgekit.distill.training_memory import training_memory
from edgekit.records import DistillPlan, Estimate, Figure, ModelFacts, PlannedStage, TrainingMemory, Unknown, weakest
from edgekit.shapes import Shape
from edgekit.units import format_bytes

Fits = Literal["yes", "no", "unknown"]
_NO_MACHINES = Unknown(
    reason="the recipe names no accelerators",
    settle='add `[cluster] accelerator = "h100-80gb", count = 8` to the recipe',
)
_WRITTEN = Unknown(
    reason="how fast a student writes goes by its latency, not by its FLOPs",
    settle="run some steps of the on-policy stage and multiply",
)
_LEAST_WRITTEN = 2
"""Tokens: a prompt of one, and an end."""
_TOKEN_BYTES = 8
"""An id and a weight (`stored_windows`)."""
_NOTED_BYTES = 16e9


def plan_distillation(recipe: DistillRecipe, *, teacher: Path | None = None) -> DistillPlan:
    """Cost and memory of every stage of `recipe`, of models that need not be there. Reads headers, trains nothing.

    Raises EdgekitError for an unknown accelerator, a student that is not smaller than its teacher, a spec that cannot
    be, and where the recipe names a teacher that is not there.
    """
    machines = recipe.cluster
    device = accelerator(machines.accelerator) if machines else None
    first = _first(recipe, teacher)
    students: list[ModelFacts] = []
    stages: list[PlannedStage] = []
    for student in recipe.students:
        before = students[-1] if students else first
        taught = first if student.taught_by == "original" else before
        made = _student(student, before, recipe.folder)
        check_smaller(made, taught)
        stages += [_stage(stage, made, taught, machines, device) for stage in student.stages]
        students.append(made)
    return DistillPlan(
        edgekit_version=__version__,
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        teacher=first,
        students=tuple(students),
        stages=tuple(stages),
        tokens=sum(stage.tokens for stage in stages),
        flops=costs.added([part for stage in stages for part in (stage.student_flops, stage.teacher_flops)]),
        accelerator_hours=_together([stage.accelerator_hours for stage in stages]),
        hours=_together([stage.hours for stage in stages]),
        accelerator=device.title if device else "",
        accelerators=machines.count if machines else 0,
        accelerator_memory_bytes=device.memory_bytes if device else 0.0,
        accelerator_source=device.source if device else "",
        mfu=machines.mfu if machines else None,
        fits=_all([stage.fits for stage in stages]),
        notes=tuple(_notes(recipe, (first, *students))),
    )


def _notes(recipe: DistillRecipe, models: Sequence[ModelFacts]) -> list[str]:
    given = [stage for student in recipe.students for stage in student.stages if stage.kind in ("logits", "features")]
    most = max((stage.tokens for stage in given), default=0)  # what models write takes no such windows
    notes = []
    if most * _TOKEN_BYTES > _NOTED_BYTES:
        notes.append(
            f"windows of training text are kept on the disk beside the student, {_TOKEN_BYTES} bytes a token: up to "
            f"{format_bytes(most * _TOKEN_BYTES)} where no token is seen twice"
        )
    if recipe.cluster is not None and recipe.cluster.count > 1:
        notes.append(
            "each process reads its own shards; a teacher that is asked before (a cache, samples), or held out against "
            f"and not taught by, is read whole by each, and so is every model that is scored alone: {_read(models)}"
        )
        notes.append("all of this is foreseen from shapes: nothing of many accelerators was run by edgekit's makers")
    if recipe.teacher.make is not None:
        notes.append("training the teacher itself is not counted")
    if any(student.taught_by == "previous" for student in recipe.students[1:]):
        notes.append("students are taught by the one before them: repeated distillation degrades")
    return notes


def _read(models: Sequence[ModelFacts]) -> str:
    """The teacher as it is stored (two bytes a weight), the largest student in float32."""
    most = 2.0 * models[0].parameters + 4.0 * max(model.parameters for model in models[1:])
    return f"up to {format_bytes(most)}"


# ---- models that are not there --------------------------------------------------------------------------------------


def _first(recipe: DistillRecipe, teacher: Path | None) -> ModelFacts:
    if teacher is not None:
        return facts_of(teacher, teacher.resolve().name, hashed=False)
    if recipe.teacher.make is not None:
        return facts_of_shape(shape_of_recipe(recipe.teacher.make), made="trained here")
    if recipe.teacher.shape is not None:
        return facts_of_shape(recipe.teacher.shape)
    path = recipe.folder / recipe.teacher.path
    return facts_of(path, path.resolve().name, hashed=False)


def _student(student: Student, before: ModelFacts, folder: Path) -> ModelFacts:
    """What `beginnings.student_of` would make."""
    kind, _, rest = student.source.partition(":")
    if kind == "prune":
        return _pruned(student, before)
    if kind == "config":
        path = folder / rest
        return facts_of_config(read_config(path), student.name, path, vocabulary=before.vocabulary)
    assert student.shape is not None
    return replace(facts_of_shape(student.shape, made=student.source), name=student.name)


def _pruned(student: Student, before: ModelFacts) -> ModelFacts:
    """What `pruning.carve` would make."""
    whole = Sizes(layers=before.layers, ffn=before.ffn, heads=before.heads, kv_heads=before.kv_heads)
    left = sizes_left(parse_prune(student.source), whole, before.architecture)
    shape = Shape(
        name=student.name,
        title=student.name,
        architecture=before.architecture,
        layers=left.layers,
        hidden=before.hidden,
        heads=left.heads,
        kv_heads=left.kv_heads,
        head_dim=before.head_dim,
        ffn=left.ffn,
        vocabulary=before.vocabulary,
        tied_embedding=before.tied_embedding,
    )
    return facts_of_shape(shape, made=student.source)


# ---- a stage --------------------------------------------------------------------------------------------------------


def _stage(
    stage: Stage, student: ModelFacts, teacher: ModelFacts, machines: Machines | None, device: Accelerator | None
) -> PlannedStage:
    asked = stage.tokens if stage.asks else 0
    own, theirs = _flops(stage, student, teacher, asked)
    count = machines.count if machines else 1
    # cached or not, a teacher that was asked is loaded: it is scored against after the stage
    memory = training_memory(student, teacher if stage.asks else None, stage, count)
    fits, reason = _fits(memory, device, stage, count)
    needed = costs.training_flops(student, stage.tokens, stage.length)
    spent = _WRITTEN if stage.on_policy and machines else _hours(needed, own, theirs, machines, device)
    return PlannedStage(
        student=student.name,
        kind=stage.kind,
        teacher=teacher.name if stage.asks or stage.kind == "task" else "",
        steps=stage.steps,
        tokens=stage.tokens,
        teacher_tokens=asked,
        student_flops=own,
        teacher_flops=theirs,
        accelerator_hours=spent,
        hours=spent if isinstance(spent, Unknown) else _scaled(spent, 1 / count),
        memory=memory,
        fits=fits,
        reason=reason,
        notes=tuple(_stage_notes(stage)),
    )


def _flops(stage: Stage, student: ModelFacts, teacher: ModelFacts, asked: int) -> tuple[Estimate, Estimate]:
    """The student's and the teacher's."""
    theirs = costs.forward_flops(teacher, asked, stage.length)
    if stage.on_policy is None:
        own = costs.training_flops(student, stage.tokens, stage.length, checkpointing=stage.gradient_checkpointing)
        return own, theirs
    own = costs.written_flops(student, stage.tokens, stage.length, checkpointing=stage.gradient_checkpointing)
    least = _LEAST_WRITTEN / stage.length
    return replace(own, low=own.low * least), replace(theirs, low=theirs.low * least)


def _stage_notes(stage: Stage) -> list[str]:
    notes = []
    if stage.kind == "task":
        asked, prompts = stage.synthesis.asked, stage.synthesis.prompts
        each = f"{asked.samples} samples of each question of {prompts}"
        each = each if prompts else f"{asked.each * asked.samples} samples of each template"
        notes.append(f"what the teacher writes ({each} and style) is not counted")
    if stage.on_policy is not None:
        notes.append("counted as if every prompt and completion filled its `length`: they take that at most")
    if stage.cache == "offline" and stage.alpha > 0:
        notes.append("the teacher's part is counted for every step; a cache asks it once for each window")
    return notes


def _hours(
    needed: Estimate, own: Estimate, theirs: Estimate, machines: Machines | None, device: Accelerator | None
) -> Figure:
    """Accelerator-hours: FLOPs ÷ (peak × the share of it that is reached). Published shares count what is `needed`, and
    not what checkpointing computes again (`own`): the low end goes by the one, the high end by the other.
    """
    if machines is None or device is None:
        return _NO_MACHINES
    least, whole = costs.added([needed, theirs]), costs.added([own, theirs])
    slow, fast = (share * device.bfloat16_flops * 3600 for share in machines.mfu)
    return Estimate(
        value=math.sqrt(least.value * whole.value / (slow * fast)),
        low=least.low / fast,
        high=whole.high / slow,
        basis=weakest(("predicted", "claimed")),
        note=f"at {machines.mfu[0]:.0%} to {machines.mfu[1]:.0%} of {device.bfloat16_flops / 1e12:.0f} TFLOP/s",
    )


def _fits(memory: TrainingMemory, device: Accelerator | None, stage: Stage, count: int) -> tuple[Fits, str]:
    if device is None:
        return "unknown", _NO_MACHINES.reason
    total, limit = memory.total, device.memory_bytes
    if stage.on_policy is not None and count > 1:
        return "no", "an on-policy stage runs in one process, on one accelerator"
    if stage.batch % count:
        return "no", f"{count} accelerators cannot share a batch of {stage.batch} windows evenly"
    if total.high <= limit:
        return "yes", ""
    words = f"{format_bytes(total.low)} to {format_bytes(total.high)} of {format_bytes(limit)}"
    if total.low > limit:
        return "no", f"it takes {words} on each"
    return "unknown", f"it takes {words} on each: a smaller `micro_batch` or more accelerators make it sure"


def _all(found: Sequence[Fits]) -> Fits:
    if "no" in found:
        return "no"
    return "unknown" if "unknown" in found else "yes"


def _together(parts: Sequence[Figure]) -> Figure:
    known = [part for part in parts if isinstance(part, Estimate)]
    if len(known) < len(parts):
        return next(part for part in parts if isinstance(part, Unknown))
    return Estimate(
        value=sum(part.value for part in known),
        low=sum(part.low for part in known),
        high=sum(part.high for part in known),
        basis=weakest(tuple(part.basis for part in known)),
        note=known[0].note if known else "",
    )


def _scaled(one: Estimate, factor: float) -> Estimate:
    return Estimate(
        value=one.value * factor, low=one.low * factor, high=one.high * factor, basis=one.basis, note=one.note
    )
