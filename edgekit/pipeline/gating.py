"""The main path: model file → header → measurement here → projection to each device → verdict → report.

Read this first. Every step leaves a record (`edgekit.records`), and every later step can start from a record on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from edgekit import __version__
from edgekit.devices import class_members, load_device
from edgekit.energy import estimate_battery
from edgekit.errors import EdgekitError, ExitCode
from edgekit.gate import exit_code, faults, judge
from edgekit.gate.gates import make_gates
from edgekit.gate.metrics import METRICS
from edgekit.header import read_header
from edgekit.header.provenance import read_provenance
from edgekit.memory import FitRow, WhatFits, fit_table, predict_memory, process_budget, what_fits
from edgekit.pipeline.asking import Prepared
from edgekit.pipeline.foreseeing import foresee_quality
from edgekit.pipeline.lineages import computed_anew
from edgekit.pipeline.rescoring import rescored
from edgekit.progress import Progress, silent
from edgekit.projection import project_to
from edgekit.records import (
    Artifact,
    Case,
    Device,
    Evidence,
    Gates,
    Header,
    Measurement,
    MemoryBreakdown,
    Quality,
    Report,
    Settings,
    Unknown,
    Verdict,
    Workload,
)

Elsewhere = Callable[[Artifact, Workload, str], Measurement]
"""How an artifact is measured on the device of that name, where that is not done here: `elsewhere.measure_there`."""

Appraise = Callable[[Artifact, Settings], Quality]
"""How the quality of an artifact is measured under the settings it is judged with: `evaluating.appraise`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Settings the user asked for in place of the profile's judged configuration; `None` keeps the profile's."""

    context_tokens: int | None = None
    batch_tokens: int | None = None
    ubatch_tokens: int | None = None
    kv_type: str | None = None
    flash_attention: str | None = None
    mmap: bool | None = None
    repack: bool | None = None
    threads: int | None = None
    output_rows: int | None = None

    def applied_to(self, settings: Settings) -> Settings:
        changed = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}
        return replace(settings, **changed)


def load_targets(names: Sequence[str]) -> list[Device]:
    """The named profiles, each once. Raises EdgekitError for none, and for two profiles that share a name."""
    if not names:
        raise EdgekitError("no device named", hint="add `--device smartphone`; `edgekit devices` lists the profiles")
    found: dict[str, Device] = {}
    for name in names:
        device = load_device(name)
        if found.setdefault(device.name, device).sha256 != device.sha256:
            raise EdgekitError(f"two different profiles have one name: `{device.name}`", hint="rename one of the files")
    return list(found.values())


def host_device(on_device: str, names: Sequence[str]) -> str:
    """The name of the profile this host *is*, from what the user wrote; empty where nothing was.

    Raises EdgekitError when it is not one of the devices judged, and for a class: one machine is not a population.
    """
    if not on_device:
        return ""
    for written, device in zip(names, map(load_device, names), strict=True):
        if on_device in (written, device.name):
            if device.tier == "class":
                raise EdgekitError(
                    f"one machine is no class of devices: `{on_device}`",
                    hint="name the profile of that machine; `edgekit devices` lists them",
                )
            return device.name
    raise EdgekitError(
        f"`--on-device` names a device that is not judged: `{on_device}`", hint=f"add `--device {on_device}` as well"
    )


def bench(
    model: Path | None,
    devices: Sequence[str],
    *,
    workload: Workload,
    overrides: Overrides | None = None,
    gates: Gates | None = None,
    on_device: str = "",
    quality: Quality | None = None,
    appraise: Appraise | None = None,
    elsewhere: Elsewhere | None = None,
    limit_memory: int | Literal["", "device"] = "",
    progress: Progress = silent,
) -> Iterator[Report]:
    """Measure `model` (or each device's reference student) here, project it to every device and judge it there.

    Yields a report for each device as soon as it is concluded. `on_device` names the profile this host *is*: its own
    figures are then judged, with basis `measured`, and its run takes the profile's thread count. `quality` is a
    record of this artifact, `appraise` measures one under every configuration that is judged. With `elsewhere` the run
    is not made here but on the machine that is `on_device`. `limit_memory` holds the workers here to so many bytes, or
    to each device's share of memory for a process. A run that breaks is
    part of its report (exit code 4), not an exception; raises EdgekitError for input that cannot be benched at all.
    """
    from edgekit.bench import measure
    from edgekit.runtimes import choose_limit
    from edgekit.shapes import cached_stand_in

    overrides, quality = overrides or Overrides(), rescored(quality)
    targets = load_targets(devices)
    here = host_device(on_device, devices)
    artifacts: dict[Path, Artifact] = {}
    measured: dict[tuple[Path, Settings, str, int], Measurement] = {}
    appraised: dict[Settings, Quality] = {}
    for device in targets:
        path = model or cached_stand_in(device.reference_student, "q4_0", progress=progress)
        if path not in artifacts:
            artifacts[path] = open_artifact(path, progress=progress)
        mine = here if here == device.name else ""
        settings = settings_here(device, overrides, mine)
        if appraise is not None:  # first: it refuses weights that would only be found broken after minutes
            alike = _bearing_on_quality(settings)
            if alike not in appraised:
                appraised[alike] = appraise(artifacts[path], alike)
            quality = appraised[alike]
        held_bytes = int(process_budget(device).value) if limit_memory == "device" else limit_memory or 0
        key = (path, settings, mine, held_bytes)
        if key not in measured:
            chosen, limit = replace(workload, settings=settings), choose_limit(held_bytes) if held_bytes else None
            measured[key] = (
                elsewhere(artifacts[path], chosen, mine)
                if elsewhere
                else measure(artifacts[path], chosen, progress=progress, on_device=mine, memory_limit=limit)
            )
        measurement = measured[key]
        evidence = gather(artifacts[path], device, overrides=overrides, measurement=measurement, quality=quality)
        yield conclude(evidence, device, gates)


def _bearing_on_quality(settings: Settings) -> Settings:
    """`settings` with only what changes logits: devices that differ in no more share one evaluation."""
    return Settings(kv_type=settings.kv_type, flash_attention=settings.flash_attention, repack=settings.repack)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the header alone says of a model on a device. `table` and `nearest` vary the device's own configuration."""

    kind: Literal["fit"] = "fit"
    version: Literal[1] = 1
    evidence: Evidence
    verdict: Verdict
    table: tuple[FitRow, ...]
    nearest: WhatFits | Unknown
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What `bench` would run for one device, and for how long (low and high, adaptive repetitions not counted; `None`
    where another machine runs it: how fast that one is, this one does not know).
    """

    device: str
    artifact: str
    to_write_bytes: int
    """Of the stand-in, where it is not in the cache yet; 0 for a model."""
    processes: tuple[tuple[str, ...], ...]
    """The tests of each fresh worker process, in order."""
    settings: Settings
    notes: tuple[str, ...]
    low_s: float | None
    high_s: float | None
    quality: tuple[str, ...] = ()
    """What is done about quality, a line a part; empty where another device's is taken."""


def settings_here(device: Device, overrides: Overrides, on_device: str = "") -> Settings:
    """What runs on this host: the judged configuration, on this host's own big cores unless it is the device itself."""
    settings = device.settings if on_device == device.name else replace(device.settings, threads=0)
    return overrides.applied_to(settings)


def plan(
    model: Path | None,
    devices: Sequence[str],
    *,
    workload: Workload,
    overrides: Overrides | None = None,
    on_device: str = "",
    elsewhere: bool = False,
    prepared: Prepared | None = None,
) -> list[Intent]:
    """What `bench` with the same arguments would do; nothing is written or run but a tenth of a second of probing.
    `prepared` is what is asked about the model's quality, under every configuration that is judged; with `elsewhere`
    the rest is run on another machine.
    """
    from edgekit.bench import plan_run
    from edgekit.bench.duration import expected_duration_s, read_bandwidth_bytes_per_s
    from edgekit.shapes import load_shape, plan_header

    targets, here = load_targets(devices), host_device(on_device, devices)
    bandwidth = read_bandwidth_bytes_per_s()
    quality = foresee_quality(model, prepared, bandwidth) if model and prepared else None
    intents: list[Intent] = []
    appraised = set[Settings]()
    for device in targets:
        header = read_header(model) if model else plan_header(load_shape(device.reference_student), "q4_0")
        settings = settings_here(device, overrides or Overrides(), here)
        runs = plan_run(replace(workload, settings=settings), header)
        low_s, high_s = expected_duration_s(runs, header, bandwidth)
        found = quality if quality and _bearing_on_quality(settings) not in appraised else None
        appraised.add(_bearing_on_quality(settings))
        intents.append(
            Intent(
                device=device.name,
                artifact=str(model or f"{device.reference_student} q4_0 (stand-in weights)"),
                to_write_bytes=0 if model else header.size_bytes,
                processes=tuple(
                    tuple(f"{step.test} × {step.repetitions}" for step in process.steps if not step.warmup)
                    for process in (*runs.main, *runs.after)
                ),
                settings=settings,
                notes=tuple(note.message for note in runs.notes),
                low_s=None if elsewhere else low_s + (found.low_s if found else 0.0),
                high_s=None if elsewhere else high_s + (found.high_s if found else 0.0),
                quality=found.lines if found else (),
            )
        )
    return intents


def fit(model: Path, device_name: str, *, overrides: Overrides | None = None, gates: Gates | None = None) -> Fit:
    """Memory and speed of `model` on a device from its header alone: no weights read, nothing run.

    Judged by the device's memory gates alone, or by all of `gates` where they are given.
    """
    overrides = overrides or Overrides()
    device = load_device(device_name)
    # the table varies what the user asked for; the judge compares that with the profile's own configuration
    asked = replace(device, settings=overrides.applied_to(device.settings), gates=gates or device.gates)
    header = read_header(model)
    members = tuple(memory_gated(member) for member in class_members(device))
    artifact = Artifact(path=str(model), header=header)
    evidence = gather(artifact, device, overrides=overrides, members=members)
    verdict = judge(evidence, memory_gated(device), gates, members=members, remedies=False)  # `nearest` is the remedy
    return Fit(
        evidence=evidence,
        verdict=verdict,
        table=fit_table(header, asked),
        nearest=_nearest(header, asked),
        exit_code=exit_code((verdict,), broke=False),
    )


def _nearest(header: Header, device: Device) -> WhatFits | Unknown:
    """What would fit; of an ONNX model it is unknown on instruction sets where its memory is."""
    try:
        return what_fits(header, device)
    except EdgekitError as error:
        if header.format != "onnx":
            raise
        return Unknown(reason=error.message, settle=error.hint)


def memory_gated(device: Device) -> Device:
    """`device` with only those of its gates that a header alone can settle."""
    kept = tuple(gate for gate in device.gates.gates if METRICS[gate.metric].about == "memory")
    gates = make_gates(kept, device.gates.waivers, origin=f"{device.gates.origin}, memory only")
    return replace(device, gates=gates)


def open_artifact(path: Path, *, progress: Progress = silent) -> Artifact:
    """The model file at `path` (or the first of its shards): its header, what it says of its origin, and the SHA-256 of
    every shard.
    """
    from edgekit.bench import hash_artifact

    header = read_header(path)
    return replace(hash_artifact(path, header, progress=progress), provenance=read_provenance(header))


def gather(
    artifact: Artifact,
    device: Device,
    *,
    overrides: Overrides | None = None,
    measurement: Measurement | None = None,
    quality: Quality | None = None,
    members: Sequence[Device] | None = None,
) -> Evidence:
    """Everything the gate may know: a case per anchored device of a class, or one for a concrete device.

    `members` are those of a class, where they are loaded already.
    """
    targets = (class_members(device) if members is None else members) or (device,)
    return Evidence(
        edgekit_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        artifact=artifact,
        cases=tuple(
            case_of(artifact.header, target, (overrides or Overrides()).applied_to(target.settings))
            for target in targets
        ),
        measurement=measurement,
        quality=quality,
    )


def case_of(header: Header, device: Device, settings: Settings) -> Case:
    """What is known of `header` on `device` under `settings` without running it there."""
    projection = project_to(device, header, settings)
    return Case(
        device=device.name,
        device_title=device.title,
        device_sha256=device.sha256,
        settings=settings,
        memory=_memory_or_reason(header, settings, device),
        projection=projection,
        battery=estimate_battery(device, projection),
    )


def _memory_or_reason(header: Header, settings: Settings, device: Device) -> MemoryBreakdown | Unknown:
    try:
        return predict_memory(header, settings, device.isa, os=device.os)
    except EdgekitError as error:
        return Unknown(reason=error.message, settle=error.hint)


def conclude(evidence: Evidence, device: Device, gates: Gates | None = None) -> Report:
    """Judge the evidence for one device."""
    verdict = judge(evidence, device, gates)
    return Report(evidence=evidence, verdicts=(verdict,), exit_code=exit_code((verdict,), broke=broke(evidence)))


def broke(evidence: Evidence) -> bool:
    """The run itself failed: a worker died, or a figure had to be refused as a measuring fault."""
    return bool(faults(evidence))


def regate(
    evidence: Evidence, devices: Sequence[str], gates: Gates | None = None, quality: Quality | None = None
) -> list[Report]:
    """Judge recorded evidence again, without the model.

    What was measured is kept. What was computed is computed anew from the recorded header and settings, by this version
    and today's profiles: a stored projection is nobody's proof, and an old one may hold a mended fault. So are figures
    of quality, from their raw scores.
    """
    evidence = replace(evidence, quality=rescored(quality or evidence.quality))
    recorded = {case.device: case.settings for case in evidence.cases}
    reports = []
    for device in load_targets(devices):
        targets = class_members(device) or (device,)
        judged = [(target, recorded.get(target.name, target.settings)) for target in targets]

        def cases_of(header: Header, judged: Sequence[tuple[Device, Settings]] = tuple(judged)) -> tuple[Case, ...]:
            return tuple(case_of(header, target, settings) for target, settings in judged)

        anew = replace(
            evidence,
            cases=cases_of(evidence.artifact.header),
            lineage=computed_anew(evidence, cases_of),
            edgekit_version=__version__,
        )
        reports.append(conclude(anew, device, gates))
    return reports


def overall(reports: Sequence[Report]) -> ExitCode:
    """The exit code over several devices: 4 > 1 > 3 > 0."""
    return exit_code(
        tuple(verdict for report in reports for verdict in report.verdicts),
        broke=any(broke(report.evidence) for report in reports),
    )
