"""A measurement on another machine: bring the files there, run, bring the figures back, leave nothing behind."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from edgekit.bench.host import probe_tree
from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.pipeline.edgekit_there import bench_there, edgekit_there, profile_file
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Finding, Host, Measurement, MemoryPeak, Runtime, Sample, Workload
from edgekit.targets.facts import fetch_facts
from edgekit.targets.foreign import ForeignRun, refuse_other_model
from edgekit.targets.readiness import Readiness, judge_readiness, wait_until_ready
from edgekit.targets.remote import Remote, TargetLost, clean_up, place
from edgekit.targets.runners import Picked, file_sha256, pick
from edgekit.targets.running import command_of, run_process
from edgekit.targets.variants import features_of
from edgekit.targets.where import Where, open_remote

READY_LIMIT_S = 300.0
"""As long as a phone may cool before a process; then it runs anyway, and the record says so."""


def measure_there(
    where: Where,
    artifact: Artifact,
    workload: Workload,
    *,
    on_device: str,
    runner: Path | None = None,
    progress: Progress = silent,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """`workload` on the machine `where`: by the edgekit that is there; else at depth 0 by the llama-bench there; by
    `runner`, a llama-bench that is brought there, where one is given (`AUTO`: the one built for its CPU). `on_device`
    names or is the path of a profile.

    A device that goes away, fills up or kills the run leaves what was measured before and a finding of level `fault`.
    Raises EdgekitError where it cannot be reached, nothing there can run, or the files do not fit.
    """
    if artifact.header.format != "gguf" or artifact.header.shards != 1:
        raise EdgekitError(f"only a GGUF of one file runs elsewhere: `{artifact.path}`", hint="join its shards first")
    with open_remote(where, artifact.sha256[:16]) as remote:
        run = _There(remote=remote, artifact=artifact, workload=workload, sleep=sleep, clock=clock, progress=progress)
        try:
            own = "" if runner else edgekit_there(remote)
            if own:
                return run.by_edgekit(own, on_device)
            run.look()
            run.all_processes(run.runner(runner))
        finally:
            left = clean_up(remote)
            if left:
                run.findings.append(Finding(level="warning", code="left-behind", message=left))
        return run.measurement(load_device(on_device).name)


@dataclass(slots=True, kw_only=True)
class _There:
    """What accumulates while the processes run there."""

    remote: Remote
    artifact: Artifact
    workload: Workload
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    progress: Progress
    host: Host | None = None
    features: frozenset[str] = frozenset()
    picked: Picked | None = None
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    first: ForeignRun | None = None
    samples: list[Sample] = field(default_factory=list)
    peaks: list[MemoryPeak] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def look(self) -> Readiness:
        """The device's state now; the first look says what it is."""
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            system, release, machine = fetch_facts(self.remote, Path(folder))
            if self.host is None:
                self.host = probe_tree(Path(folder), system=system, release=release, machine=machine)
                self.features = features_of(_text(Path(folder) / "proc/cpuinfo"))
            return judge_readiness(Path(folder))

    def by_edgekit(self, program: str, on_device: str) -> Measurement:
        """The measurement of the edgekit there, with what this side noticed."""
        ready = wait_until_ready(self.look, limit_s=READY_LIMIT_S, sleep=self.sleep, clock=self.clock)
        self.progress("measuring there", 0, 1, f"edgekit on {self.remote.name}")
        sha256 = file_sha256(profile_file(on_device))
        run = bench_there(self.remote, program, self.artifact, self.workload, on_device, sha256)
        noticed = [_not_ready(0, words) for words in ready.obstacles]
        words = f"ran on `{self.remote.name}` with the edgekit there, the model's hash checked there"
        told = Finding(level="note", code="elsewhere", message=words)
        return replace(run, findings=(*run.findings, told, *noticed))

    def runner(self, given: Path | None) -> str:
        """The path of llama-bench there, brought or found. Raises EdgekitError where there is none."""
        if given is not None:
            assert self.host is not None, "look comes first"
            system, machine = self.host.system, self.host.machine
            self.picked = pick(given, system=system, machine=machine, features=self.features, name=self.remote.name)
            if self.picked.words:
                self.findings.append(Finding(level="note", code="runner", message=self.picked.words))
            return place(self.remote, self.picked.path, "llama-bench", self.picked.sha256, executable=True)
        found = self.remote.script("command -v llama-bench").out.strip()
        if found.startswith("/") and "\n" not in found:
            return found
        raise EdgekitError(
            f"nothing on `{self.remote.name}` can run a model: `llama-bench`",
            hint="install edgekit there, or bring a llama-bench: `edgekit runner build`, then `--runner auto`",
        )

    def all_processes(self, program: str) -> None:
        """Fresh processes in turn, each when the device is ready; ends early when one breaks."""
        self.progress("copying the model", 0, 1, self.remote.name)
        model = place(self.remote, Path(self.artifact.path), "model.gguf", self.artifact.sha256)
        repetitions = math.ceil(self.workload.repetitions_min / self.workload.processes)
        command = command_of(program, model, self.workload, repetitions)
        for index in range(self.workload.processes):
            self.progress("measuring there", index, self.workload.processes, self.remote.name)
            try:
                ready = wait_until_ready(self.look, limit_s=READY_LIMIT_S, sleep=self.sleep, clock=self.clock)
            except TargetLost as lost:
                self.findings.append(_fault(lost))
                return
            self.findings += [_not_ready(index, words) for words in ready.obstacles]
            process = run_process(self.remote, command, index, timeout_s=self.workload.timeout_s)
            if process.peak is not None:
                self.peaks.append(process.peak)
            if process.fault is not None or process.run is None or not self.accept(process.run, index):
                self.findings += [process.fault] if process.fault else []
                return

    def accept(self, run: ForeignRun, index: int) -> bool:
        """Keep the samples of a process that ran what the first ran."""
        refuse_other_model(run, self.artifact)
        self.first = self.first or run
        same = (run.version, run.backend, run.settings) == (self.first.version, self.first.backend, self.first.settings)
        if not same:
            words = f"process {index} ran another configuration than the first: its samples are left out"
            self.findings.append(Finding(level="fault", code="runtime-changed", message=words))
            return False
        self.samples += [replace(sample, process=index) for sample in run.samples]
        return True

    def measurement(self, on_device: str) -> Measurement:
        assert self.host is not None, "look comes first"
        ran = self.first
        return Measurement(
            artifact_sha256=self.artifact.sha256,
            started_at=self.started_at,
            host=self.host,
            runtime=_runtime(ran, self.picked) if ran else None,
            workload=replace(self.workload, settings=ran.settings if ran else self.workload.settings, depths=()),
            samples=tuple(self.samples),
            peaks=tuple(self.peaks),
            energy_unknown="no energy counter is read on another machine",
            findings=(_told(self.remote), *self.findings),
            on_device=on_device,
            imported_from="llama-bench",
        )


def _runtime(ran: ForeignRun, picked: Picked | None) -> Runtime:
    return Runtime(
        name="llama.cpp",
        version=ran.version,
        build=ran.tool,
        backend=ran.backend,
        cpu_features=picked.features if picked else "",
        threads=ran.settings.threads,
    )


def _told(remote: Remote) -> Finding:
    words = f"ran on `{remote.name}` with llama-bench, the model's hash checked there; depths were not run"
    return Finding(level="note", code="elsewhere", message=words)


def _fault(lost: TargetLost) -> Finding:
    return Finding(level="fault", code="target-lost", message=lost.message, hint=lost.hint)


def _not_ready(index: int, words: str) -> Finding:
    hint = "let it cool and rest unplugged, and run again"
    return Finding(level="warning", code="not-ready", message=f"process {index} began while {words}", hint=hint)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
