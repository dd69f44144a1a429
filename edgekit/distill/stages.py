"""One stage of a student: what it learns from, who says how, the training, and what the student is worth after it.

A stage leaves a folder: `model/` is the student after it, `stage.json` (written last) the record with the key of all
that it was made of. Run again it is taken as it stands; killed before, it goes on from its training's checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.distill import checkpointing, costs, sharding
from edgekit.distill.alignment import Alignment, align
from edgekit.distill.held_out import held_out
from edgekit.distill.loading import all_here, in_turn, load_model, save_model
from edgekit.distill.material import Material, held_out_questions, training_material
from edgekit.distill.model_facts import facts_of, tokenizer_of
from edgekit.distill.objectives import Softly, features_objective, logits_objective, task_objective
from edgekit.distill.recipe_parts import Data, Stage
from edgekit.distill.settings import Objective, ParameterGroup, TrainSettings
from edgekit.distill.sparse_rows import CacheSettings
from edgekit.distill.speaking import cached_teacher
from edgekit.distill.trainer import train
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, ExitCode, import_extra
from edgekit.files import read_whole, replacing
from edgekit.progress import Progress
from edgekit.records import DistillCost, LayerMap, ModelFacts, StageResult, Training
from edgekit.storage import load_record, write_record

if TYPE_CHECKING:
    from edgekit.distill.mapping import FeatureMatch

FORMAT_VERSION = 1
"""Raised when the same settings give another student."""
RECORD, MODEL, TRAINING, CACHE, SAMPLES = "stage.json", "model", "training", "cache", "samples.jsonl"
SECONDS = "teacher-seconds.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What all stages of a student share. `first` is the chain's first teacher, to which the KLD is held out; `kept`
    the teacher's layers that a student carved out of its very teacher has.
    """

    data: Data
    folder: Path
    seed: int
    first: ModelFacts
    teacher: ModelFacts
    kept: tuple[int, ...] = ()
    held_out: Material
    progress: Progress
    windows: Path | None = None
    """Where windows of long text are kept for all stages."""


@dataclass(slots=True, kw_only=True)
class _Taught:
    """What a training needs: the objective, modules beside the student, and what there is to tell of it."""

    objective: Objective
    extra: tuple[ParameterGroup, ...] = ()
    match: FeatureMatch | None = None
    teacher: Any = None
    asked_tokens: int = 0
    """That the teacher reads for the cache."""
    seconds: float = 0.0


def run_stage(lesson: Lesson, stage: Stage, student: Path, place: Path) -> StageResult:
    """Train the student in the folder `student` through `stage`, in the folder `place`; gives its record.

    Raises EdgekitError where `place` holds another stage, teacher and student do not fit, data are missing or bad, or
    the training diverged (what was reached stays).
    """
    lesson.progress(f"{place.name}: data", 0, 0)
    material = _material(lesson, stage, student, place)
    kept = lesson.kept if stage.kind == "features" else ()
    key = key_of(lesson, stage, student, material.sha256, kept)
    found = made_before(place, key)
    if found is not None:
        return scored_anew(lesson, found, place)
    import_extra("torch", extra="distill").manual_seed(lesson.seed)  # the projection's start
    model = load_model(student, shared=True)
    alignment = align(open_checkpoint(Path(lesson.teacher.path)), open_checkpoint(student))
    alignment.check_ids(material.windows.ids)
    taught = _taught(lesson, stage, model, material.windows, alignment, place)
    training = train(
        model,
        material.windows,
        taught.objective,
        settings_of(stage, lesson.seed),
        out=place / TRAINING,
        extra=taught.extra,
        about=key,
        progress=partial(renamed, lesson.progress, f"{place.parent.name} {place.name}"),
    )
    if training.stopped is not None:
        raise diverged(stage, training, place)
    return finish(
        lesson,
        stage,
        place,
        key,
        model,
        alignment,
        training,
        teacher=taught.teacher,
        cost=_cost(lesson, stage, student, taught, training, material),
        layer_map=None if taught.match is None else taught.match.layer_map(),
        notes=material.notes,
    )


def diverged(stage: Stage, training: Training, place: Path) -> EdgekitError:
    """What to say of a training that stopped."""
    return EdgekitError(
        f"the {stage.kind} stage stopped: {training.stopped}: `{place}`",
        hint="lower its `learning_rate` or lengthen its `warmup`, and remove this folder; earlier stages are kept",
        code=ExitCode.BROKE,
    )


def made_before(place: Path, key: str) -> StageResult | None:
    """The stage that stands in `place`, whole; None where there is none. Raises EdgekitError where it is another's."""
    if not (place / RECORD).is_file():
        return None
    found = load_record(place / RECORD, StageResult)
    if found.key != key:
        raise EdgekitError(
            f"the folder holds a stage that was made of something else: `{place}`",
            hint="name another folder with `--out`, or remove this one",
        )
    standing = hash_checkpoint(open_checkpoint(place / MODEL))
    if standing != found.student_sha256:
        raise EdgekitError(f"the student is not the one of its record: `{place / MODEL}`", hint="remove this folder")
    return replace(found, path=str(place / MODEL))  # the folder may have been moved


def scored_anew(lesson: Lesson, found: StageResult, place: Path) -> StageResult:
    """The same stage, its student held against the text and the teacher of this chain: both may have changed since
    without changing what it learned from.
    """
    same = (lesson.held_out.sha256, lesson.first.sha256)
    if (found.held_out.text_sha256, found.held_out.teacher_sha256) == same:
        return found
    student = Path(found.path)
    alignment = align(open_checkpoint(Path(lesson.first.path)), open_checkpoint(student))
    model = load_model(student, frozen=True).to(sharding.here().device)
    result = replace(found, held_out=_scored(lesson, model, None, alignment))
    all_here()  # nobody reads the old record after this
    if sharding.here().index == 0:
        write_record(place / RECORD, result)
    all_here()
    return result


def finish(
    lesson: Lesson,
    stage: Stage,
    place: Path,
    key: str,
    model: Any,
    alignment: Alignment,
    training: Training,
    *,
    teacher: Any,
    cost: DistillCost,
    layer_map: LayerMap | None = None,
    notes: tuple[str, ...] = (),
) -> StageResult:
    """Score the trained `model` and leave it, and its record, in `place`. `teacher` is the model that taught it, if one
    is loaded.
    """
    scored = sharding.inside(model, _scored, lesson, model, teacher, alignment)
    sha256 = save_model(model, Path(lesson.first.path), place / MODEL)
    result = StageResult(
        kind=stage.kind,
        key=key,
        student_sha256=sha256,
        teacher=lesson.teacher.name if stage.asks or stage.kind == "task" else "",
        settings=_told(stage),
        training=training,
        held_out=scored,
        cost=cost,
        layer_map=layer_map,
        path=str(place / MODEL),
        notes=notes,
    )
    if sharding.here().index == 0:
        write_record(place / RECORD, result)
        checkpointing.discard(place / TRAINING)
    all_here()
    return result


def _scored(lesson: Lesson, model: Any, teacher: Any, alignment: Alignment) -> Any:
    """Held out against the chain's first teacher, who need not be who taught."""
    first = teacher
    if teacher is None or lesson.first.sha256 != lesson.teacher.sha256:
        first = load_model(Path(lesson.first.path), frozen=True).to(next(model.parameters()).device)
    return held_out(
        model,
        lesson.held_out.windows,
        teacher=first,
        teacher_name=lesson.first.name,
        vocabulary=alignment.vocabulary,
        origin=lesson.held_out.origin,
        teacher_sha256=lesson.first.sha256,
        text_sha256=lesson.held_out.sha256,
        progress=lesson.progress,
    )


# ---- what is learned from -------------------------------------------------------------------------------------------


def _material(lesson: Lesson, stage: Stage, student: Path, place: Path) -> Material:
    tokenizer = tokenizer_of(open_checkpoint(student))
    weight = lesson.data.prompt_weight if stage.prompt_weight is None else stage.prompt_weight
    if stage.kind != "task":
        with in_turn():
            return training_material(
                lesson.data,
                lesson.folder,
                tokenizer,
                length=stage.length,
                prompt_weight=weight,
                seed=lesson.seed,
                place=lesson.windows,
                progress=lesson.progress,
            )
    from edgekit.distill.task_material import task_material

    with in_turn():
        found = task_material(
            stage.synthesis,
            Path(lesson.teacher.path),
            student,
            tokenizer,
            place / SAMPLES,
            teacher_sha256=lesson.teacher.sha256,
            templates=stage.synthesis.asked.templates or lesson.data.templates,
            folder=lesson.folder,
            besides=held_out_questions(lesson.data, lesson.folder),
            length=stage.length,
            prompt_weight=weight,
            seed=lesson.seed,
            progress=lesson.progress,
        )
        return replace(found, seconds=spent(place, "samples", found.seconds))


def spent(place: Path, what: str, seconds: float) -> float:
    """Seconds that the teacher's part took, kept in `place`: a run that goes on finds it done, and takes none."""
    path, known = place / SECONDS, 0.0
    try:
        found = json.loads(read_whole(path, 4096) or b"{}")
        known = float(found[what])
        known = known if 0 < known < math.inf else 0.0
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        found = {}
    if not seconds > known:
        return known
    if sharding.here().index == 0:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found | {what: seconds}))
    return seconds


def _taught(lesson: Lesson, stage: Stage, student: Any, windows: Windows, alignment: Alignment, place: Path) -> _Taught:
    softly = Softly(
        loss=stage.loss,
        alpha=stage.alpha,
        mix=stage.mix,
        temperature=stage.temperature.at,
        vocabulary=alignment.vocabulary,
    )
    if not stage.asks:
        return _Taught(objective=task_objective(None, softly))
    beside_it = stage.kind == "features" or stage.cache == "online"  # else it is asked before, whole
    model = load_model(Path(lesson.teacher.path), frozen=True, shared=beside_it)
    beside = ParameterGroup(name="teacher", module=model, learning_rate=None)
    if stage.kind == "features":
        from edgekit.distill.mapping import FeatureMatch

        match = FeatureMatch(student.config, model.config, stage.mapping, stage.feature_loss, lesson.kept or None)
        groups = match.groups(stage.learning_rate, stage.mapping_learning_rate)
        objective = features_objective(model, match, softly, weight=stage.feature_weight)
        return _Taught(objective=objective, extra=(beside, *groups), match=match, teacher=model)
    if stage.cache == "online":
        return _Taught(objective=logits_objective(model, softly), extra=(beside,), teacher=model)
    started = time.monotonic()
    model.to(sharding.here().device)
    cache = _cached(lesson, stage, model, windows, alignment, place)
    return _Taught(
        objective=logits_objective(cache, softly),
        teacher=model,
        asked_tokens=len(windows) * windows.length,
        seconds=spent(place, "cache", time.monotonic() - started),
    )


def _cached(lesson: Lesson, stage: Stage, model: Any, windows: Windows, alignment: Alignment, place: Path) -> Any:
    coolest, hottest = stage.temperature.ends
    with in_turn():
        return cached_teacher(
            model,
            open_checkpoint(Path(lesson.teacher.path)),
            windows.ids[:, :-1],
            place / CACHE,
            alignment=alignment,
            settings=CacheSettings(coolest=coolest, hottest=hottest, seed=lesson.seed),
            progress=lesson.progress,
        )


def settings_of(stage: Stage, seed: int) -> TrainSettings:
    """How long and how fast it trains."""
    return TrainSettings(
        steps=stage.steps,
        batch=stage.batch,
        micro_batch=stage.micro_batch,
        learning_rate=stage.learning_rate,
        warmup=stage.warmup,
        floor=stage.floor,
        weight_decay=stage.weight_decay,
        gradient_norm=stage.gradient_norm,
        precision=stage.precision,
        gradient_checkpointing=stage.gradient_checkpointing,
        compile=stage.compile,
        seed=seed,
        checkpoint_every=stage.checkpoint_every,
    )


# ---- what is told ---------------------------------------------------------------------------------------------------


def key_of(lesson: Lesson, stage: Stage, student: Path, material_sha256: str, kept: tuple[int, ...] = ()) -> str:
    """Of all that the stage's student depends on; how often a checkpoint is written is not among it."""
    said = stage.said
    said.pop("checkpoint_every")
    made = {
        "version": FORMAT_VERSION,
        "stage": said,
        "seed": lesson.seed,
        "student": hash_checkpoint(open_checkpoint(student)),
        "teacher": lesson.teacher.sha256 if stage.asks else "",
        "windows": material_sha256,
        "kept": kept,
    }
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _told(stage: Stage) -> tuple[tuple[str, str], ...]:
    """The settings that this kind of stage takes, in words."""
    from edgekit.distill.recipe_fields import STAGE

    said = stage.said
    names = [name for name in STAGE[stage.kind] if name in said and said[name] is not None and name != "kind"]
    heat = stage.temperature
    moved = f"{heat.start:g} to {heat.end:g}, {heat.schedule}" if heat.end is not None else f"{heat.start:g}"
    found = [(name, str(said[name])) for name in names] + ([("temperature", moved)] if stage.alpha > 0 else [])
    policy = said.get("on_policy", {})
    return (*found, *((name, str(policy[name])) for name in policy if policy[name] != ()))


def _cost(
    lesson: Lesson, stage: Stage, folder: Path, taught: _Taught, training: Training, material: Material
) -> DistillCost:
    student = facts_of(folder, "student", hashed=False)
    asked = taught.asked_tokens or (training.tokens if stage.asks else 0)
    asked += material.teacher_tokens
    return DistillCost(
        tokens=training.tokens,
        teacher_tokens=asked,
        student_flops=costs.training_flops(
            student, training.tokens, stage.length, checkpointing=stage.gradient_checkpointing
        ),
        teacher_flops=costs.forward_flops(lesson.teacher, asked, stage.length),
        seconds=training.seconds + taught.seconds + material.seconds,
        peak_bytes=training.peak_bytes,
    )


def renamed(progress: Progress, stage: str, _: str, done: float, total: float, detail: str = "") -> None:
    """`progress` under another name."""
    progress(stage, done, total, detail)
