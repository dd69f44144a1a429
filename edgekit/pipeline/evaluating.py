"""The third path: artifact → scored text, answered tasks, and what its parent and its teacher say → quality.

Everything is measured on the file that ships, in the runtime that ships it, under the configuration that is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import read_text
from edgekit.header import read_header
from edgekit.pipeline.gating import open_artifact
from edgekit.progress import Progress, silent
from edgekit.records import Answers, Artifact, Finding, HarnessRun, Parity, Quality, Settings, Unknown
from edgekit.storage import load_record

if TYPE_CHECKING:
    from edgekit.corpus import Bank
    from edgekit.records import ReferenceFile

DEFAULT_ITEMS = 2000
"""Answered by student and teacher they give retention within about three points either way."""

NOT_SCORED = Unknown(reason="no text was scored", settle="`edgekit evaluate ARTIFACT --reference REF`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text and where it came from."""

    content: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Which items are asked. `file` holds the user's own; `items = 0` asks as many as a saved teacher answered, or
    the default number; no `domains` are all of them.
    """

    items: int = 0
    domains: tuple[str, ...] = ()
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be found out of an artifact. `reference` is a model, or a file of what it said; `teacher` a model, or
    its saved answers. Without `text` none is scored, without `tasks` none is asked.
    """

    reference: Path | None = None
    teacher: Path | None = None
    text: Text | None = None
    context_tokens: int = 512
    chunks: int | None = None
    tasks: Tasks | None = None
    names: tuple[str, ...] = ()
    """Names that the model may call itself by."""
    by_layer: bool = False
    minutes: float = 10.0
    """For finding the layers."""
    threads: int = 0


def text_of(path: Path | None) -> Text:
    """The text file at `path`, or the held-out part of edgekit's own corpus. Raises EdgekitError when it is no text."""
    if path is not None:
        return Text(content=read_text(path), origin=path.name)
    from edgekit import corpus

    return Text(content=corpus.text("evaluation"), origin=corpus.EVALUATION_ORIGIN)


def text_kept(reference: Path | None) -> tuple[Text, int] | None:
    """The text that a saved reference was made on, and the tokens of its chunks; `None` of a model, or without one.
    Raises EdgekitError for a file that is damaged.
    """
    from edgekit import bench

    if reference is None or not bench.is_reference_file(reference):
        return None
    file = bench.open_reference_file(reference)
    return Text(content=bench.read_reference_text(file), origin=file.text_origin), file.context_tokens


def check(asked: Asked) -> None:
    """Raise EdgekitError for what can be seen of the models and files asked about before any of them runs."""
    from edgekit import bench
    from edgekit.bench.hashing import hash_text
    from edgekit.bench.reference_file import check_usable
    from edgekit.runtimes.cores import check_threads

    check_threads(asked.threads)
    if asked.reference is not None and bench.is_reference_file(asked.reference):
        if asked.by_layer:
            raise EdgekitError(
                f"`--by-layer` needs the model itself, not a file of what it said: `{asked.reference}`",
                hint="give the full-precision GGUF as `--reference`",
            )
        kept = bench.open_reference_file(asked.reference)
        if asked.text is not None:
            digest = hash_text(asked.text.content)
            check_usable(kept, text_sha256=digest, context_tokens=asked.context_tokens, chunks=asked.chunks)
    elif asked.reference is not None:
        if asked.reference.suffix.lower() == ".json":
            raise EdgekitError(
                f"answers and records are no reference: `{asked.reference}`", hint="answers: `--teacher`"
            )
        read_header(asked.reference)
    _, teacher = _tasks(asked)
    if isinstance(teacher, Path):
        if bench.is_reference_file(teacher):
            raise EdgekitError(f"a saved reference holds no answers: `{teacher}`", hint="it is for `--reference`")
        read_header(teacher)


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
    check(asked)
    if asked.by_layer and asked.reference is not None:
        from edgekit.quantize.pairing import open_pair

        open_pair(path, asked.reference, threads=asked.threads or 1)  # scoring comes first, and takes long
    return appraise(
        open_artifact(path, progress=progress), settings or Settings(), asked, resume=resume, progress=progress
    )


def appraise(
    artifact: Artifact, settings: Settings, asked: Asked, *, resume: Path | None = None, progress: Progress = silent
) -> Quality:
    """`evaluate` of an open artifact under `settings`: the KV type, attention and repacking that are judged."""
    from edgekit import bench

    settings = replace(settings, threads=asked.threads or settings.threads)
    reference = _reference(asked.reference, progress)
    bank, teacher = _tasks(asked)
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
    if bank is not None:
        quality = _answered(artifact, quality, bank, teacher, settings, asked, resume, progress)
    if isinstance(reference, Artifact):
        quality = _compared(artifact, quality, reference, asked, progress)
    return quality


def appraise_or_tell(artifact: Artifact, settings: Settings, asked: Asked, *, progress: Progress = silent) -> Quality:
    """`appraise`, but a run that breaks is a finding of what it leaves, so that `bench` still writes its report."""
    try:
        return appraise(artifact, settings, asked, progress=progress)
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


def _reference(path: Path | None, progress: Progress) -> Artifact | ReferenceFile | None:
    from edgekit import bench

    if path is None:
        return None
    return bench.open_reference_file(path) if bench.is_reference_file(path) else open_artifact(path, progress=progress)


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


def _tasks(asked: Asked) -> tuple[Bank | None, Path | Answers | None]:
    """The items to ask, and the teacher: its saved answers where it is a file of them."""
    if asked.tasks is None:
        return None, None
    from edgekit import bench, corpus
    from edgekit.corpus.bank import NAME as OWN_TASKS

    saved = load_record(asked.teacher, Answers) if asked.teacher and asked.teacher.suffix == ".json" else None
    if asked.tasks.file is not None:
        bank = corpus.read_bank(asked.tasks.file)
    else:
        if saved is not None and not saved.bank.startswith(f"{OWN_TASKS}-"):
            raise EdgekitError(
                f"the teacher answered tasks that are not edgekit's own: `{saved.bank}`",
                hint="name their file with `--tasks`",
            )
        answered = tuple(dict.fromkeys(answer.domain for answer in saved.answers)) if saved else ()
        bank = corpus.task_bank(
            items=asked.tasks.items or (len(saved.answers) if saved else DEFAULT_ITEMS),
            domains=asked.tasks.domains or answered or corpus.DOMAINS,
        )
    if saved is not None:
        bench.check_teacher(saved, bank)  # before a student is asked for an hour
    return bank, saved or asked.teacher


def _answered(
    artifact: Artifact,
    quality: Quality,
    bank: Bank,
    teacher: Path | Answers | None,
    settings: Settings,
    asked: Asked,
    resume: Path | None,
    progress: Progress,
) -> Quality:
    """Tasks, similarity and identity; the teacher answers first, so that what it cannot settle is known early."""
    from edgekit import bench, corpus

    prompts = (*corpus.open_prompts(), *corpus.identity_prompts())
    if isinstance(teacher, Path):
        opened = open_artifact(teacher, progress=progress)
        kept = teacher_journal(resume) if resume is not None else None
        teacher = bench.answer(opened, bank, prompts=prompts, threads=asked.threads, resume=kept, progress=progress)
    answers = bench.answer(artifact, bank, prompts=prompts, settings=settings, resume=resume, progress=progress)
    return replace(
        quality,
        tasks=bench.judge_answers(answers, teacher),
        similarity=bench.compare_responses(answers, teacher) if teacher is not None else None,
        identity=bench.probe_identity(answers, expected=asked.names),
    )


def _compared(artifact: Artifact, quality: Quality, reference: Artifact, asked: Asked, progress: Progress) -> Quality:
    """The chat template against the parent's, and the layers that the KLD comes from. A teacher of another shape is
    nobody's parent: its template may be another.
    """
    from edgekit.header.chat_template import compare_templates

    if _is_parent(reference, artifact):
        quality = replace(quality, template=compare_templates(Path(artifact.path), Path(reference.path)))
    if not asked.by_layer:
        return quality
    from edgekit.quantize.outliers import find_outliers

    assert asked.text is not None
    layers = find_outliers(
        Path(artifact.path),
        Path(reference.path),
        asked.text.content,
        minutes=asked.minutes,
        threads=asked.threads,
        artifact_sha256=artifact.sha256,
        reference_sha256=reference.sha256,
        progress=progress,
    )
    return replace(quality, layers=layers)


def _is_parent(reference: Artifact, artifact: Artifact) -> bool:
    """Whether the artifact was made of the reference, by what it says of its origin or by being of its shape."""
    if artifact.provenance is not None and artifact.provenance.parent_sha256 == reference.sha256:
        return True
    ours, theirs = artifact.header, reference.header
    return (ours.layers, ours.hidden, ours.heads, ours.kv_heads) == (
        theirs.layers,
        theirs.hidden,
        theirs.heads,
        theirs.kv_heads,
    )
