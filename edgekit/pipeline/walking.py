"""The whole walk: recipe → teacher and student → artifacts → measured, evaluated, judged → the release gate report.

Every step leaves its records in the folder, and a walk that was stopped, however hard, goes on where it stood when it
is called again with the same folder.
"""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from edgekit import __version__
from edgekit.bench.answering import identity_of
from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import EdgekitError, ExitCode, import_extra
from edgekit.files import lock, replacing
from edgekit.pipeline import sweeping
from edgekit.pipeline.asking import Asked, Prepared, prepare
from edgekit.pipeline.distilling import distill
from edgekit.pipeline.evaluating import appraise
from edgekit.pipeline.gating import conclude, gather, open_artifact
from edgekit.pipeline.lineages import lineage_of
from edgekit.pipeline.walk_job import REPORT_FILES, Job, beside, check_answers, known_teacher, prepare_job
from edgekit.progress import Progress, silent, under
from edgekit.quantize import workshop
from edgekit.records import (
    Answers,
    Artifact,
    Distillation,
    Evidence,
    Lineage,
    Quality,
    Report,
    Settings,
    Sweep,
    SweepRow,
    Walk,
    WalkStep,
)
from edgekit.storage import load_record, write_record


def run(
    recipe: DistillRecipe, out: Path, *, teacher: Path | None = None, threads: int = 0, progress: Progress = silent
) -> Walk:
    """Train, make, measure, evaluate, judge: everything that `recipe` says, in the folder `out`.

    `teacher` is the folder of a checkpoint in place of the recipe's, `threads` are those of training and of whatever
    runs here. What can be refused is refused before any training. Raises EdgekitError; a target that cannot be made or
    run is a row of the sweep with the reason.
    """
    prepare_job(recipe, out, threads, write=False)  # refused before there is a folder
    if threads:
        import_extra("torch", extra="distill").set_num_threads(threads)
    clock = _Clock()
    with _alone(out):
        job = prepare_job(recipe, out, threads)  # not before: its items would be asked by the walk at work there
        if recipe.gate.answers:
            answers = Path(beside(recipe, recipe.gate.answers))
            prepare(Asked(tasks=job.tasks, teacher=answers))  # are they to these items?
            check_answers(recipe, known_teacher(recipe, teacher, progress))  # and of this teacher?
        with clock.step("distill"):
            chain = distill(recipe, out / "distill", teacher=teacher, progress=progress)
        check_answers(recipe, chain.teacher.sha256)
        with clock.step("teacher"):
            taught = _teacher(job, chain, progress)
        with clock.step("artifacts"):
            found = _artifacts(job, chain, taught, progress)
            # after them: what quantized kernels find out of this machine (AMX that dies) is known for this run by then
            theirs = _teacher_run(job, taught, progress)
        with clock.step("report"):
            report = _report(job, chain, theirs, found.rows[0])
        return _leave(job, found, report, clock.steps)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One walk at a time in a folder. Raises EdgekitError where another is at work."""
    place = out / ".walk.lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = place.open("wb")
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise EdgekitError(f"cannot write ({reason}): `{out}`", hint="choose a writable place with `--out`") from None
    with stream as file:
        if not lock(file):
            raise EdgekitError(f"another walk is at work in `{out}`", hint="wait for it, or choose another `--out`")
        yield  # the file stays: whoever waits for one that is gone would not be alone


@dataclass(slots=True)
class _Clock:
    """How long each step took."""

    steps: list[WalkStep] = field(default_factory=list)

    @contextmanager
    def step(self, name: Literal["distill", "teacher", "artifacts", "report"]) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.steps.append(WalkStep(name=name, elapsed_s=time.monotonic() - started))


# ---- the teacher ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taught:
    """What the teacher answered, the file that holds it, and its own build, where it is run here."""

    answers: Answers
    file: Path
    artifact: Artifact | None = None


def _teacher(job: Job, chain: Distillation, progress: Progress) -> _Taught:
    """What its full-precision build answers; or its answers, where the recipe brings them."""
    if job.gating.answers:
        place = Path(beside(job.recipe, job.gating.answers))
        return _Taught(answers=load_record(place, Answers), file=place)
    told = under("teacher:", progress)
    source = workshop.open_source(Path(chain.teacher.path), progress=told)
    name = chain.teacher.name if chain.teacher.name != chain.student.name else f"{chain.teacher.name}-teacher"
    base = workshop.full_precision(replace(source, name=name), job.models, job.making, progress=told)
    artifact, place = open_artifact(base, progress=told), job.out / "teacher.json"
    prepared = prepare(Asked(tasks=job.tasks, threads=job.making.threads))
    assert prepared.bank is not None
    wanted = (artifact.sha256, identity_of(prepared.bank), __version__)
    answers = sweeping.kept(
        place,
        Answers,
        lambda old: (old.artifact_sha256, old.bank_sha256, old.edgekit_version) == wanted,
        lambda: _answers(job, artifact, prepared, told),
    )
    return _Taught(answers=answers, file=place, artifact=artifact)


def _teacher_run(job: Job, taught: _Taught, progress: Progress) -> Evidence | None:
    """Its build benched like the artifacts, and gathered as they are: under the device's own settings, whatever this
    machine ran with.
    """
    if taught.artifact is None:
        return None
    run = sweeping.benched(taught.artifact, job.judging, under("teacher:", progress)).evidence.measurement
    return gather(taught.artifact, job.judging.device, measurement=run)


def _answers(job: Job, artifact: Artifact, prepared: Prepared, progress: Progress) -> Answers:
    with _journal(job, artifact) as journal:
        quality = appraise(artifact, Settings(), prepared, resume=journal, progress=progress)
    assert quality.tasks is not None
    return quality.tasks.answers


@contextmanager
def _journal(job: Job, artifact: Artifact) -> Iterator[Path]:
    """Where answers are kept while they come; gone once all are there. One for each file and set of items, so that
    another run's is not gone on with.
    """
    asked = hashlib.sha256(repr((artifact.sha256, job.tasks, job.settings)).encode()).hexdigest()[:12]
    place = job.out / f".{Path(artifact.path).name}.{asked}.answered.jsonl"
    yield place
    for left in job.out.glob(f".{glob.escape(Path(artifact.path).name)}.*.answered.jsonl"):
        left.unlink(missing_ok=True)


# ---- the artifacts --------------------------------------------------------------------------------------------------


def _artifacts(job: Job, chain: Distillation, taught: _Taught, progress: Progress) -> Sweep:
    """Every target made, evaluated against the student at full precision and against the teacher, benched, judged."""
    return sweeping.sweep(
        Path(chain.student.path),
        job.judging.name,
        [str(target) for target in job.targets],
        job.models,
        making=job.making,
        workload=job.judging.workload,
        gates=job.judging.gates,
        name=chain.student.name,
        appraisal=sweeping.Appraisal(
            measure=lambda artifact, base, told: _quality(job, artifact, base, taught, told),
            holds=lambda old, base: _still_holds(job, old, base, taught),
            lineage=_lineage(job, chain, taught),
        ),
        progress=progress,
    )


def _lineage(job: Job, chain: Distillation, taught: _Taught) -> Lineage:
    """Whose student all of them are; the teacher's own build is run when they are."""
    own = gather(taught.artifact, job.judging.device) if taught.artifact is not None else None
    return Lineage(distillation=chain, teacher=own)


def _quality(job: Job, artifact: Artifact, base: Artifact, taught: _Taught, progress: Progress) -> Quality:
    asked = Asked(
        reference=Path(base.path),
        teacher=taught.file,
        text=job.text,
        context_tokens=job.gating.context,
        chunks=job.gating.chunks,
        tasks=job.tasks,
        names=job.gating.names,
        threads=job.making.threads,
    )
    with _journal(job, artifact) as journal:
        return appraise(artifact, job.settings, prepare(asked), resume=journal, progress=progress)


def _still_holds(job: Job, old: Quality, base: Artifact, taught: _Taught) -> bool:
    """Whether `old` is what would be found now: the same text, items, teacher and settings."""
    if old.tasks is None or old.identity is None or old.settings is None:
        return False
    used = Settings(
        kv_type=old.settings.kv_type, flash_attention=old.settings.flash_attention, repack=old.settings.repack
    )
    text = sweeping.same_text(old, job.text, job.gating.chunks, base.sha256, context_tokens=job.gating.context)
    return text and (used, old.tasks.teacher, old.identity.expected) == (job.settings, taught.answers, job.gating.names)


# ---- the report -----------------------------------------------------------------------------------------------------


def _report(job: Job, chain: Distillation, teacher: Evidence | None, row: SweepRow) -> Report | None:
    """On what ships, with how it came to be."""
    if row.report is None:
        return None
    mine = row.report.evidence
    evidence = replace(mine, lineage=lineage_of(mine, chain, teacher))
    return conclude(evidence, job.judging.device, job.judging.gates)


def _leave(job: Job, found: Sweep, report: Report | None, steps: Sequence[WalkStep]) -> Walk:
    """The record of the walk and the reports, in the folder."""
    from edgekit.report import render

    unmade = any(row.report is None for row in found.rows)
    walk = Walk(
        edgekit_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=job.recipe.name,
        recipe_sha256=job.recipe.sha256,
        ships=found.rows[0].target,
        report=report,
        sweep=found,
        steps=tuple(steps),
        exit_code=ExitCode.BROKE if unmade or report is None else report.exit_code,
    )
    if report is None:  # one of an earlier walk would pass for this one's
        for name in ("evidence.json", "report.json", *REPORT_FILES.values()):
            (job.out / name).unlink(missing_ok=True)
    else:
        write_record(job.out / "evidence.json", report.evidence)
        write_record(job.out / "report.json", report)
        for kind, name in REPORT_FILES.items():
            with replacing(job.out / name) as temporary:
                temporary.write_text(render(report, kind), encoding="utf-8")
    write_record(job.out / "walk.json", walk)
    return walk
