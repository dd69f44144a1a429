"""The whole chain: a teacher, and students that are made, taught stage by stage, and teach in their turn."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.checkpoint import open_checkpoint
from edgekit.distill import beginnings, costs, sharding
from edgekit.distill.alignment import align
from edgekit.distill.held_out import held_out
from edgekit.distill.loading import all_here, in_turn, load_model
from edgekit.distill.material import Material, held_out_material, some_windows, training_material
from edgekit.distill.model_facts import check_smaller, facts_of, facts_of_shape, tokenizer_of
from edgekit.distill.on_policy import check_possible
from edgekit.distill.on_policy_stage import run_on_policy_stage
from edgekit.distill.pruning import CALIBRATION_TOKENS, Carved
from edgekit.distill.recipe_parts import DistillRecipe, Stage, Student
from edgekit.distill.stages import Lesson, run_stage
from edgekit.distill.students import RECORD as STUDENT_RECORD
from edgekit.distill.students import make_student
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.records import Distillation, DistillCost, HeldOut, Host, Link, ModelFacts, StageResult, Unknown
from edgekit.storage import load_record, write_record

RECORD, START, TEACHER, LINK = "distillation.json", "start", "teacher.json", "start.json"
WINDOWS = "windows"
_VERSIONS = ("torch", "transformers", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A model that was scored on held-out text; `key` is of both."""

    key: str
    held_out: HeldOut


def distill_student(
    recipe: DistillRecipe,
    out: Path,
    *,
    teacher: Path | None = None,
    host: Host | None = None,
    progress: Progress = silent,
) -> Distillation:
    """Run `recipe` in the folder `out`; gives its record, which is `distillation.json` there.

    `teacher` takes the place of the recipe's own; `host` is the machine, for the record. The last student is a Hugging
    Face folder at `student.path` of the record. What stands in `out` from the same recipe is taken as it is: a chain
    that was killed goes on in the stage, and from the step, where it was. Under `accelerate launch` all processes share
    the work.

    Raises EdgekitError for whatever makes the recipe impossible here: no teacher, a teacher that is smaller than its
    student or has another tokenizer, no data, a bad line, a folder of another chain, a training that diverged.
    """
    started = _now()
    check_possible(recipe)
    with in_turn():
        first, trained = _first(recipe, teacher, progress)
    length = recipe.students[0].stages[0].length
    tokenizer = tokenizer_of(open_checkpoint(Path(first.path)))
    apart = held_out_material(recipe.data, recipe.folder, tokenizer, length=length, seed=recipe.seed)
    with in_turn():
        own = _scored(out / TEACHER, first, first, apart, progress)
    links: list[Link] = []
    for number, student in enumerate(recipe.students, 1):
        before = links[-1].student if links else first
        links.append(_link(recipe, student, out / f"{number}-{student.name}", first, before, apart, progress))
    record = Distillation(
        edgekit_version=__version__,
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        teacher=first,
        teacher_held_out=own,
        teacher_cost=trained,
        links=tuple(links),
        cost=costs.summed([stage.cost for link in links for stage in link.stages]),
        host=host,
        versions=tuple((name, found) for name in _VERSIONS if (found := _version(name))),
        started_at=started,
        finished_at=_now(),
    )
    return _kept(out / RECORD, record)


def _kept(path: Path, record: Distillation) -> Distillation:
    """The record in `path`: the one that stands there where nothing was done since it was written."""
    if path.is_file():
        found = load_record(path, Distillation)
        same = replace(record, started_at="", finished_at="", versions=(), edgekit_version="", host=None)
        if same == replace(found, started_at="", finished_at="", versions=(), edgekit_version="", host=None):
            return found
    if sharding.here().index == 0:
        write_record(path, record)
    all_here()
    return record


# ---- the teacher ----------------------------------------------------------------------------------------------------


def _first(recipe: DistillRecipe, teacher: Path | None, progress: Progress) -> tuple[ModelFacts, DistillCost | Unknown]:
    """The chain's first teacher, and what training it cost."""
    given = Unknown(reason="the teacher was given, not trained here")
    if teacher is not None:
        return facts_of(teacher, teacher.resolve().name, progress=progress), given
    if recipe.teacher.make is not None:
        folder = make_student(recipe.teacher.make, progress=progress)
        facts = facts_of(folder, recipe.teacher.make.name, made="trained here", progress=progress)
        return facts, _cost_of(recipe, facts, folder)
    if not recipe.teacher.path:
        raise EdgekitError(
            f"the recipe says what its teacher is like and not where it is: `{recipe.name}`",
            hint="give its folder with `--teacher`, or look at the cost with `--dry-run`",
        )
    path = recipe.folder / recipe.teacher.path
    return facts_of(path, path.resolve().name, progress=progress), given


def _cost_of(recipe: DistillRecipe, facts: ModelFacts, folder: Path) -> DistillCost | Unknown:
    """Of the teacher's own training; its time is in the record of those that were made since it is kept."""
    made = recipe.teacher.make
    assert made is not None
    try:
        kept = json.loads((folder / STUDENT_RECORD).read_text(encoding="utf-8"))
        seconds = float(kept["training_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return Unknown(reason="the teacher was trained before its time was kept")
    tokens = made.steps * made.batch * made.length
    return DistillCost(
        tokens=tokens,
        teacher_tokens=0,
        student_flops=costs.training_flops(facts, tokens, made.length),
        teacher_flops=costs.forward_flops(facts, 0, made.length),
        seconds=seconds,
        peak_bytes=0,
    )


# ---- a link ---------------------------------------------------------------------------------------------------------


def _link(
    recipe: DistillRecipe,
    student: Student,
    place: Path,
    first: ModelFacts,
    before: ModelFacts,
    apart: Material,
    progress: Progress,
) -> Link:
    teacher = first if student.taught_by == "original" else before
    _check_sizes(student, teacher)
    with in_turn():
        carved = _begun(recipe, student, before, place / START, progress)
        start = facts_of(place / START, student.name, made=student.source)
        check_smaller(start, teacher)
        begun = _scored(place / LINK, start, first, apart, progress)
    lesson = Lesson(
        data=recipe.data,
        folder=recipe.folder,
        seed=recipe.seed,
        first=first,
        teacher=teacher,
        kept=carved.kept_layers if before.sha256 == teacher.sha256 else (),
        held_out=apart,
        progress=progress,
        windows=place.parent / WINDOWS,
    )
    folder, results = place / START, []
    for number, stage in enumerate(student.stages, 1):
        results.append(_stage(lesson, stage, folder, place / f"{number}-{stage.kind}"))
        folder = Path(results[-1].path)
    learned = [result.layer_map for result in results if result.layer_map is not None]
    return Link(
        student=facts_of(folder, student.name, made=student.source),
        taught_by=teacher.name,
        source=student.source,
        start=begun,
        stages=tuple(results),
        layer_map=learned[-1] if learned else carved.layer_map,
        kept_layers=carved.kept_layers,
    )


def _stage(lesson: Lesson, stage: Stage, student: Path, place: Path) -> StageResult:
    if stage.on_policy is None:
        return run_stage(lesson, stage, student, place)
    return run_on_policy_stage(lesson, stage, stage.on_policy, student, place)


def _check_sizes(student: Student, teacher: ModelFacts) -> None:
    """Before anything is written, what a shape alone tells."""
    if student.shape is not None:
        check_smaller(facts_of_shape(student.shape), teacher)


def _begun(recipe: DistillRecipe, student: Student, before: ModelFacts, start: Path, progress: Progress) -> Carved:
    """The student before its first stage."""
    pruned = student.source.startswith("prune:")
    try:
        return beginnings.student_of(
            _source(student, recipe.folder),
            Path(before.path),
            start,
            shape=student.shape,
            windows=_calibration(recipe, student, Path(before.path), start, progress) if pruned else None,
            seed=recipe.seed,
            progress=progress,
        )
    except EdgekitError as error:
        if not error.message.startswith("the output exists"):
            raise
        raise EdgekitError(
            f"the folder holds a student that was made of something else: `{start}`",
            hint="name another folder with `--out`, or remove this one",
        ) from None


def _calibration(recipe: DistillRecipe, student: Student, model: Path, start: Path, progress: Progress) -> Windows:
    """Some of what the student will learn from, evenly spread: what matters for that is what stays."""
    found = training_material(
        recipe.data,
        recipe.folder,
        tokenizer_of(open_checkpoint(model)),
        length=student.stages[0].length,
        prompt_weight=recipe.data.prompt_weight,
        seed=recipe.seed,
        place=start.parent.parent / WINDOWS,
        progress=progress,
    ).windows
    return some_windows(found, min(len(found), max(1, CALIBRATION_TOKENS // found.length)))


def _source(student: Student, folder: Path) -> str:
    """A configuration's file lies beside the recipe."""
    kind, _, rest = student.source.partition(":")
    return f"config:{folder / rest}" if kind == "config" else student.source


def _scored(path: Path, model: ModelFacts, first: ModelFacts, apart: Material, progress: Progress) -> HeldOut:
    """A model before any training here, against the chain's first teacher; kept in `path`."""
    key = hashlib.sha256(f"1 {model.sha256} {first.sha256} {apart.sha256}".encode()).hexdigest()
    if path.is_file() and (found := load_record(path, Scored)).key == key:
        return found.held_out
    device = sharding.here().device
    compared: dict[str, Any] = {}
    if model.sha256 != first.sha256:
        shared = align(open_checkpoint(Path(first.path)), open_checkpoint(Path(model.path)))
        teacher = load_model(Path(first.path), frozen=True).to(device)
        compared = {"teacher": teacher, "teacher_name": first.name, "vocabulary": shared.vocabulary}
    found_now = held_out(
        load_model(Path(model.path), frozen=True).to(device),
        apart.windows,
        origin=apart.origin,
        text_sha256=apart.sha256,
        progress=progress,
        **compared,
    )
    write_record(path, Scored(key=key, held_out=found_now))
    return found_now


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


__all__ = ["RECORD", "distill_student"]
