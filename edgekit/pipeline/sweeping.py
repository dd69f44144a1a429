"""The classic exercise: one checkpoint at several precisions, each made, benched, evaluated and judged for a device.

Every step leaves its record in the folder, so that a sweep that was stopped goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from edgekit import __version__
from edgekit.bench import evaluate
from edgekit.devices import class_members, load_device
from edgekit.errors import EdgekitError, ExitCode
from edgekit.files import replacing
from edgekit.gate.recommending import recommend
from edgekit.pipeline.asking import Text, text_of
from edgekit.pipeline.gating import Overrides, bench, conclude, gather, open_artifact
from edgekit.pipeline.rescoring import rescored
from edgekit.progress import Progress, silent, under
from edgekit.quantize import workshop
from edgekit.quantize.targets import Target, parse_target
from edgekit.quantize.workshop import Making
from edgekit.records import (
    Answers,
    Artifact,
    Device,
    Gates,
    Lineage,
    Quality,
    Report,
    Sweep,
    SweepRow,
    Unknown,
    Workload,
)
from edgekit.storage import load_record, write_record

CLASSIC = ("gguf:f16", "gguf:q8_0", "gguf:q4_k_m", "onnx:int8", "onnx:int4")
"""What a sweep makes when no target is named: the precisions of the classic quantization exercise."""

REPORT_FILES = {"html": "sweep.html", "markdown": "sweep.md", "junit": "sweep.junit.xml"}

CONTEXT_TOKENS = 512
"""Of a chunk of text that quality is measured on."""

T = TypeVar("T", Answers, Quality, Report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """For what artifacts are benched and judged: `name` is the profile as the user named it."""

    name: str
    device: Device
    workload: Workload
    gates: Gates | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """How the quality of an artifact is found, beside the full-precision GGUF, and whether an earlier record of it
    (artifact and all) is what would be found now. `lineage` says whose student the checkpoint is, where that is known:
    answers of another teacher pass nothing then.
    """

    measure: Callable[[Artifact, Artifact, Progress], Quality]
    holds: Callable[[Quality, Artifact], bool]
    lineage: Lineage | None = None


def sweep(
    path: Path,
    device_name: str,
    targets: Sequence[str],
    folder: Path,
    *,
    making: Making,
    workload: Workload,
    text: Path | None = None,
    chunks: int = 40,
    gates: Gates | None = None,
    name: str = "",
    appraisal: Appraisal | None = None,
    progress: Progress = silent,
) -> Sweep:
    """Make every target of the checkpoint at `path` in `folder`, judge each for the device, and recommend one. Files
    are called by `name`, or as the checkpoint is.

    A target that cannot be made or run is a row with the reason; so is one that a run dies of. Quality is held against
    the full-precision GGUF on the text (edgekit's held-out corpus where none is given), or found as `appraisal` says.
    Raises EdgekitError for what concerns the whole: unknown targets or device, a source that cannot be read.
    """
    parsed = [parse_target(one) for one in dict.fromkeys(targets)]
    device, judged_on = load_device(device_name), text_of(text)
    source = workshop.open_source(path, progress=progress)
    source = replace(source, name=name or source.name)
    base = workshop.full_precision(source, folder, making, progress=progress)
    job = _Job(
        source=source,
        base=open_artifact(base, progress=progress),
        folder=folder,
        making=making,
        judging=Judging(name=device_name, device=device, workload=workload, gates=gates, threads=making.threads),
        appraisal=appraisal or _of_text(judged_on, chunks, making.threads),
    )
    rows: list[SweepRow] = []
    for number, target in enumerate(parsed):
        try:
            row = _row(job, target, under(f"[{number + 1}/{len(parsed)}] {target}", progress))
        except EdgekitError as error:
            row = SweepRow(target=str(target), failed=Unknown(reason=error.message, settle=error.hint))
        rows.append(row)
    recommended, reason = recommend(rows)
    found = Sweep(
        edgekit_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=str(path),
        source_sha256=source.sha256,
        device=device.name,
        device_title=device.title,
        rows=tuple(rows),
        recommended=recommended,
        reason=reason,
    )
    _write(found, folder)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is the same for every row."""

    source: workshop.Source
    base: Artifact
    folder: Path
    making: Making
    judging: Judging
    appraisal: Appraisal


def _row(job: _Job, target: Target, progress: Progress) -> SweepRow:
    made = workshop.make_target(job.source, target, job.folder, job.making, resume=True, progress=progress)
    place = Path(made.path)
    artifact = open_artifact(place, progress=progress)
    quality = kept(
        place.with_name(f"{place.name}.quality.json"),
        Quality,
        lambda old: old.artifact_sha256 == artifact.sha256 and job.appraisal.holds(old, job.base),
        lambda: job.appraisal.measure(artifact, job.base, progress),
    )
    report = benched(artifact, job.judging, progress)
    # judged anew, by today's profile, gates and predictions and with this quality: only what was measured is kept
    measured = report.evidence.measurement
    evidence = gather(artifact, job.judging.device, measurement=measured, quality=rescored(quality))
    known = replace(evidence, lineage=job.appraisal.lineage)
    judged = conclude(known, job.judging.device, job.judging.gates)
    return SweepRow(target=str(target), artifact=artifact, report=judged)


def benched(artifact: Artifact, judging: Judging, progress: Progress = silent) -> Report:
    """The run of `artifact` for a device: the one recorded beside it where it is the same, else run and recorded."""
    place = Path(artifact.path)
    return kept(
        place.with_name(f"{place.name}.{judging.device.name}.report.json"),
        Report,
        lambda old: _same_run(old, artifact, judging),
        lambda: next(
            bench(
                place,
                [judging.name],
                workload=judging.workload,
                overrides=Overrides(threads=judging.threads or None),
                gates=judging.gates,
                progress=progress,
            )
        ),
    )


def _of_text(text: Text, chunks: int, threads: int) -> Appraisal:
    """Quality on a text alone."""
    return Appraisal(
        measure=lambda artifact, base, progress: evaluate(
            artifact,
            base,
            text.content,
            context_tokens=CONTEXT_TOKENS,
            chunks=chunks,
            threads=threads,
            origin=text.origin,
            progress=progress,
        ),
        holds=lambda old, base: same_text(old, text, chunks, base.sha256),
    )


def kept(place: Path, kind: type[T], fits: Callable[[T], bool], work: Callable[[], T]) -> T:
    """The record at `place` where it is of the same thing, else what `work` finds, recorded there."""
    if place.exists():
        try:
            old = load_record(place, kind)
            if fits(old):
                return old
        except EdgekitError:
            pass  # half-written by hand or of another version: measured again
    found = work()
    write_record(place, found)
    return found


def same_text(
    old: Quality, text: Text, chunks: int, reference_sha256: str, *, context_tokens: int = CONTEXT_TOKENS
) -> bool:
    """Whether `old` is what evaluating would find: the same chunks, as many as are asked for or the text fills."""
    if old.context_tokens != context_tokens or not old.chunks:
        return False
    return (
        old.edgekit_version == __version__
        and old.reference_sha256 == reference_sha256
        and old.text_sha256 == hashlib.sha256(text.content.encode()).hexdigest()
        and len(old.chunks) == min(chunks, old.text_tokens // old.context_tokens)
    )


def _same_run(old: Report, artifact: Artifact, judging: Judging) -> bool:
    measurement, workload = old.evidence.measurement, judging.workload
    return (
        old.evidence.artifact.sha256 == artifact.sha256
        and old.evidence.edgekit_version == __version__
        and measurement is not None
        and not any(finding.level == "fault" for finding in measurement.findings)
        and replace(measurement.workload, settings=workload.settings) == workload
        and measurement.workload.settings.threads == judging.threads
        and {case.device_sha256 for case in old.evidence.cases} <= _profiles(judging.device)
    )


def _profiles(device: Device) -> set[str]:
    return {device.sha256, *(member.sha256 for member in class_members(device))}


def _write(found: Sweep, folder: Path) -> None:
    from edgekit.report import render_sweep

    write_record(folder / "sweep.json", found)
    for kind, name in REPORT_FILES.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(render_sweep(found, kind), encoding="utf-8")


def exit_code(found: Sweep) -> ExitCode:
    """0 when one is recommended, 1 when every judged row fails, 4 when nothing could be judged, else 3."""
    if found.recommended:
        return ExitCode.PASS
    statuses = [verdict.status for row in found.rows if row.report for verdict in row.report.verdicts]
    if not statuses:
        return ExitCode.BROKE
    return ExitCode.FAIL if all(status == "fail" for status in statuses) else ExitCode.UNKNOWN
