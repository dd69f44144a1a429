"""An on-policy stage of a chain: as `stages.run_stage`, on what the student writes itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgekit.checkpoint import open_checkpoint
from edgekit.distill import costs
from edgekit.distill.alignment import align
from edgekit.distill.loading import load_model
from edgekit.distill.material import held_out_questions
from edgekit.distill.model_facts import facts_of, tokenizer_of
from edgekit.distill.on_policy import Written, train_on_policy
from edgekit.distill.on_policy_prompts import Prompts, prompts_of
from edgekit.distill.recipe_parts import OnPolicy, Stage
from edgekit.distill.stages import (
    TRAINING,
    Lesson,
    diverged,
    finish,
    key_of,
    made_before,
    renamed,
    scored_anew,
    settings_of,
)
from edgekit.distill.trl_trainer import trl_version
from edgekit.records import DistillCost, StageResult


def run_on_policy_stage(lesson: Lesson, stage: Stage, policy: OnPolicy, student: Path, place: Path) -> StageResult:
    """Train the student in the folder `student` through `stage`, in the folder `place`; gives its record.

    Raises EdgekitError as `run_stage` does, and where TRL is not installed.
    """
    lesson.progress(f"{place.name}: data", 0, 0)
    tokenizer = tokenizer_of(open_checkpoint(student))
    apart, templates = held_out_questions(lesson.data, lesson.folder), lesson.data.templates
    prompts = prompts_of(policy, tokenizer, length=stage.length, templates=templates, seed=lesson.seed, besides=apart)
    key = key_of(lesson, stage, student, prompts.sha256)
    found = made_before(place, key)
    if found is not None:
        return scored_anew(lesson, found, place)
    note = f"TRL {trl_version()}, DistillationTrainer"
    alignment = align(open_checkpoint(Path(lesson.teacher.path)), open_checkpoint(student))
    model, teacher = load_model(student), load_model(Path(lesson.teacher.path), frozen=True)
    written = train_on_policy(
        model,
        teacher,
        tokenizer,
        prompts,
        settings_of(stage, lesson.seed),
        policy,
        temperature=stage.temperature.start,
        out=place / TRAINING,
        about=key,
        progress=partial(renamed, lesson.progress, f"{place.parent.name} {place.name}"),
    )
    if written.training.stopped is not None:
        raise diverged(stage, written.training, place)
    return finish(
        lesson,
        stage,
        place,
        key,
        model,
        alignment,
        written.training,
        teacher=teacher,
        cost=_cost(lesson, stage, student, written),
        notes=(note, _told(prompts, written)),
    )


def _told(prompts: Prompts, written: Written) -> str:
    return f"{prompts.note}: {written.tokens} tokens in {written.training.steps} steps"


def _cost(lesson: Lesson, stage: Stage, student: Path, written: Written) -> DistillCost:
    """Every token is read once more by the student, as it writes."""
    facts, tokens = facts_of(student, "student", hashed=False), written.training.tokens
    return DistillCost(
        tokens=tokens,
        teacher_tokens=tokens,
        student_flops=costs.written_flops(facts, tokens, stage.length, checkpointing=stage.gradient_checkpointing),
        teacher_flops=costs.forward_flops(lesson.teacher, tokens, stage.length),
        seconds=written.training.seconds,
        peak_bytes=written.training.peak_bytes,
        written_tokens=written.tokens,
    )
