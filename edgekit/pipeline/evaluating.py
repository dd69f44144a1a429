"""The third path: artifact → scored text, answered tasks, and what its parent and its teacher say → quality.

Everything is measured on the file that ships, in the runtime that ships it, under the configuration that is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.errors import EdgekitError, ExitCode
from edgekit.header.provenance import shape_digest
from edgekit.pipeline.asking import Asked, Prepared, Text, prepare
from edgekit.pipeline.gating import open_artifact
from edgekit.progress import Progress, silent
from edgekit.records import (
    Artifact,
    ChatTemplate,
    Finding,
    HarnessRun,
    Layers,
    Parity,
    Quality,
    ReferenceFile,
    Settings,
    Unknown,
)

if TYPE_CHECKING:
    from edgekit.corpus import Bank

NOT_SCORED = Unknown(reason="no text was scored", settle="`edgekit evaluate ARTIFACT --reference REF`")


def evaluate(
    path: Path,
    asked: Asked,
    *,
    settings: Settings | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> Quality:
    """How good the artifact at `path` is. `resume` keeps answered items while the tasks run, so that a killed run goes
    on. Raises EdgekitError before the long work for what can be seen before.
    """
    prepared = prepare(asked)
    if asked.by_layer and asked.reference is not None:
        from edgekit.quantize.pairing import open_pair

        open_pair(path, asked.reference, threads=asked.threads or 1)  # scoring comes first, and takes long
    return appraise(
        open_artifact(path, progress=progress), settings or Settings(), prepared, resume=resume, progress=progress
    )


def appraise(
    artifact: Artifact,
    settings: Settings,
    prepared: Prepared,
    *,
    resume: Path | None = None,
    progress: Progress = silent,
) -> Quality:
    """`evaluate` of an open artifact under `settings`: the KV type, attention and repacking that are judged."""
    from edgekit import bench

    asked = prepared.asked
    settings = replace(settings, threads=asked.threads or settings.threads)
    reference: Artifact | ReferenceFile | None = prepared.kept
    if reference is None and asked.reference is not None:
        reference = open_artifact(asked.reference, progress=progress)
    quality = _unscored(artifact, settings)
    if asked.text is not None:
        quality = bench.evaluate(
            artifact,
            reference,
            asked.text.content,
            context_tokens=asked.context_tokens,
            chunks=asked.chunks,
            settings=settings,
            origin=asked.text.origin,
            progress=progress,
        )
    if prepared.bank is not None:
        quality = _answered(artifact, quality, prepared.bank, prepared, settings, resume, progress)
    if reference is not None and _is_parent(reference, artifact):
        quality = replace(quality, template=_template(artifact, reference))
    if asked.by_layer and isinstance(reference, Artifact):
        quality = replace(quality, layers=_layers(artifact, reference, asked, progress))
    return quality


def appraise_or_tell(
    artifact: Artifact, settings: Settings, prepared: Prepared, *, progress: Progress = silent
) -> Quality:
    """`appraise`, but a run that breaks is a finding of what it leaves, so that `bench` still writes its report."""
    try:
        return appraise(artifact, settings, prepared, progress=progress)
    except EdgekitError as error:
        if error.code != ExitCode.BROKE:
            raise
        broken = Finding(level="fault", code="quality-broke", message=error.message, hint=error.hint)
        return replace(_unscored(artifact, settings), findings=(broken,))


def save_reference(
    path: Path, asked: Asked, out: Path, *, force: bool = False, progress: Progress = silent
) -> ReferenceFile:
    """What the model at `path` says of the text, in a file that stands for it wherever a reference is asked for."""
    from edgekit import bench

    assert asked.text is not None
    return bench.save_reference(
        open_artifact(path, progress=progress),
        asked.text.content,
        out,
        context_tokens=asked.context_tokens,
        chunks=asked.chunks,
        threads=asked.threads,
        origin=asked.text.origin,
        force=force,
        progress=progress,
    )


def parity(
    a: Path,
    b: Path,
    text: Text,
    *,
    context_tokens: int = 512,
    chunks: int | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> Parity:
    """How alike two builds of one model are on `text`, such as a GGUF and an ONNX folder; `a` takes the reference's
    part.
    """
    from edgekit import bench

    return bench.compare_outputs(
        open_artifact(a, progress=progress),
        open_artifact(b, progress=progress),
        text.content,
        context_tokens=context_tokens,
        chunks=chunks,
        threads=threads,
        origin=text.origin,
        progress=progress,
    )


def harness(
    path: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    shots: int | None = None,
    include: Path | None = None,
    run_task_code: bool = False,
    settings: Settings | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> HarnessRun:
    """The artifact's scores on tasks of lm-evaluation-harness. Raises EdgekitError."""
    from edgekit import bench

    return bench.run_harness(
        open_artifact(path, progress=progress),
        tasks,
        limit=limit,
        fewshot=shots,
        include_path=include,
        run_task_code=run_task_code,
        settings=settings,
        threads=threads,
        progress=progress,
    )


def teacher_journal(resume: Path) -> Path:
    """Where a teacher's answers are kept beside the student's `resume`, while both are asked."""
    return resume.with_name(f"{resume.name}.teacher")


# ---- the parts ------------------------------------------------------------------------------------------------------


def _unscored(artifact: Artifact, settings: Settings) -> Quality:
    from edgekit.bench import probe_host

    return Quality(
        edgekit_version=__version__,
        reference="",
        perplexity=NOT_SCORED,
        kld_mean=NOT_SCORED,
        top1_agreement=NOT_SCORED,
        artifact_sha256=artifact.sha256,
        settings=settings,
        host=probe_host(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _answered(
    artifact: Artifact,
    quality: Quality,
    bank: Bank,
    prepared: Prepared,
    settings: Settings,
    resume: Path | None,
    progress: Progress,
) -> Quality:
    """Tasks, similarity and identity; the teacher answers first, so that what it cannot settle is known early."""
    from edgekit import bench, corpus

    asked, teacher = prepared.asked, prepared.teacher
    prompts = (*corpus.open_prompts(), *corpus.identity_prompts())
    if isinstance(teacher, Path):
        opened = open_artifact(teacher, progress=progress)
        kept = teacher_journal(resume) if resume is not None else None
        teacher = bench.answer(opened, bank, prompts=prompts, threads=asked.threads, resume=kept, progress=progress)
    answers = bench.answer(artifact, bank, prompts=prompts, settings=settings, resume=resume, progress=progress)
    kin = bench.kin_finding(answers, teacher) if teacher is not None else None
    return replace(
        quality,
        findings=(*quality.findings, kin) if kin is not None else quality.findings,
        tasks=bench.judge_answers(answers, teacher),
        similarity=bench.compare_responses(answers, teacher) if teacher is not None else None,
        identity=bench.probe_identity(answers, expected=asked.names),
    )


def _template(artifact: Artifact, parent: Artifact | ReferenceFile) -> ChatTemplate | None:
    """The chat template against the parent's; `None` where a saved reference does not tell of it."""
    from edgekit.header.chat_template import compare_hashes, compare_templates

    if isinstance(parent, Artifact):
        return compare_templates(Path(artifact.path), Path(parent.path))
    return None if parent.templates is None else compare_hashes(Path(artifact.path), parent.templates, parent.model)


def _layers(artifact: Artifact, reference: Artifact, asked: Asked, progress: Progress) -> Layers:
    """The layers that the KLD comes from."""
    from edgekit.quantize.outliers import find_outliers

    assert asked.text is not None
    return find_outliers(
        Path(artifact.path),
        Path(reference.path),
        asked.text.content,
        minutes=asked.minutes,
        threads=asked.threads,
        artifact_sha256=artifact.sha256,
        reference_sha256=reference.sha256,
        progress=progress,
    )


def _is_parent(reference: Artifact | ReferenceFile, artifact: Artifact) -> bool:
    """Whether the artifact was made of the reference, by what it says of its origin or by being of its shape. A teacher
    of another shape is nobody's parent: its template may be another.
    """
    if isinstance(reference, ReferenceFile):
        sha256, shape = reference.artifact_sha256, reference.shape_sha256
    else:
        sha256, shape = reference.sha256, shape_digest(reference.header)
    if artifact.provenance is not None and artifact.provenance.parent_sha256 == sha256:
        return True
    return shape_digest(artifact.header) == shape
