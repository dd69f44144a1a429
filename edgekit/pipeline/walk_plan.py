"""What a walk would do, and what of it stands already; nothing is run or written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.students import place_of
from edgekit.pipeline.distilling import foresee_distillation
from edgekit.pipeline.walk_job import REPORT_FILES, Job, check_answers, known_teacher, prepare_job
from edgekit.quantize import workshop
from edgekit.quantize.targets import Target
from edgekit.records import DistillPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenStep:
    """A step, where its outcome goes, and whether something stands there; if it is of the same recipe, the walk sees
    when it gets there.
    """

    what: str
    place: str
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a walk would do, and what its training costs."""

    kind: Literal["foreseen-walk"] = "foreseen-walk"
    version: Literal[1] = 1
    recipe: str
    recipe_sha256: str
    out: str
    steps: tuple[ForeseenStep, ...]
    training: DistillPlan


def foresee(recipe: DistillRecipe, out: Path, *, teacher: Path | None = None) -> Foreseen:
    """The steps of `run` with the same arguments; nothing is written. Raises EdgekitError as it does."""
    job = prepare_job(recipe, out, 0, write=False)
    if recipe.gate.answers:
        check_answers(recipe, known_teacher(recipe, teacher))
    places = list(_steps(job, teacher))
    return Foreseen(
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        out=str(out),
        steps=tuple(ForeseenStep(what=what, place=str(place), done=place.exists()) for what, place in places),
        training=foresee_distillation(recipe, teacher=teacher),
    )


def _steps(job: Job, teacher: Path | None) -> Iterator[tuple[str, Path]]:
    recipe, gating, models = job.recipe, job.gating, job.models
    if teacher is None and recipe.teacher.make is not None:
        yield (
            f"train the teacher {recipe.teacher.make.name}, {recipe.teacher.make.steps} steps",
            place_of(recipe.teacher.make),
        )
    for number, student in enumerate(recipe.students, 1):
        folder = job.out / "distill" / f"{number}-{student.name}"
        yield f"make {student.name} of {student.source}", folder / "start"
        for at, stage in enumerate(student.stages, 1):
            what = f"{student.name}, {stage.kind}: {stage.steps} steps of {stage.batch} × {stage.length} tokens"
            yield what, folder / f"{at}-{stage.kind}" / "stage.json"
    name = recipe.students[-1].name
    if not gating.answers:
        items = f"{gating.items} items" if gating.items else "all items"
        yield f"the teacher as GGUF {workshop.BASE_TYPE}, benched, and asked {items}", job.out / "teacher.json"
    source = workshop.Source(path=models, name=name, sha256="")
    for target in dict.fromkeys((Target(format="gguf", type=workshop.BASE_TYPE), *job.targets)):
        judged = f"{gating.bench} bench, evaluated, judged for {job.judging.device.name}"
        what = judged if target in job.targets else "what the others are held against"
        ships = ", ships" if target == job.targets[0] else ""
        yield f"{target}{ships}: {what}", workshop.place_of(source, target, models)
    yield "the release gate report", job.out / REPORT_FILES["html"]
