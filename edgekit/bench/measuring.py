"""Run a workload in fresh worker processes and keep everything they say: `measure`.

A run that breaks is a measurement too: what was sampled stays, and a finding of level `fault` says how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from edgekit import runtimes
from edgekit.bench import checks, noise, thermal
from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.bench.plan import EXTRA_REPETITIONS, Plan, ProcessPlan, extra_process, plan_run
from edgekit.bench.readying import ReadyGate, marked
from edgekit.energy import EnergyMeter
from edgekit.progress import Progress, silent
from edgekit.records import (
    Artifact,
    Buffer,
    Finding,
    Host,
    Measurement,
    MemoryLimit,
    MemoryPeak,
    Noise,
    Runtime,
    Sample,
    Settings,
    ThermalPoint,
    Workload,
)
from edgekit.runtimes import RawSample, Step, Worker, WorkerDied
from edgekit.summary import SUSTAINED
from edgekit.units import format_rate

STAGE = "measuring"


class OpenWorker(Protocol):
    """`runtimes.open_worker`, or a stand-in for it in tests."""

    def __call__(
        self, path: Path, settings: Settings, *, timeout_s: float, seed: int, limit: MemoryLimit | None = None
    ) -> AbstractContextManager[Worker]: ...


def measure(
    artifact: Artifact,
    workload: Workload,
    *,
    progress: Progress = silent,
    on_device: str = "",
    memory_limit: MemoryLimit | None = None,
    open_worker: OpenWorker = runtimes.open_worker,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    root: Path = Path("/"),
) -> Measurement:
    """Run `workload` on `artifact` here: raw samples, memory peaks, energy, noise and circumstances.

    `on_device` names the profile that this host *is*; `memory_limit` is what the workers must do with. A worker that
    dies ends the run: the measurement then holds what was sampled and a finding of level `fault`. Raises EdgekitError
    when the runtime declines the model or the settings before anything was measured. `open_worker`, `clock`, `sleep`
    and `root` are doors for tests.
    """
    plan = plan_run(workload, artifact.header)
    run = _Run(
        artifact=artifact,
        workload=workload,
        progress=progress,
        memory_limit=memory_limit,
        open_worker=open_worker,
        clock=clock,
        root=root,
        meter=EnergyMeter.find(root),
        gate=ReadyGate(root=root, on_device=bool(on_device), clock=clock, sleep=sleep),
        total=sum(process.repetitions for process in plan.main + plan.after),
    )
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    host = probe_host(root)
    idle_before = noise.watch_before(root, sleep, clock)
    before = noise.read_counters(root, clock)
    run.started_s = run.gate.started_s = clock()
    run.gated = run.gate.watches()
    run.all_processes(plan)
    after = noise.read_counters(root, clock)
    quiet, warnings = noise.judge_noise(idle_before, before, after, run.samples, on_device=bool(on_device))
    run.findings += [*plan.notes, *warnings, *noise.host_notes(host), *run.closing_notes()]
    return run.measurement(host, started_at, quiet, on_device)


@dataclass(slots=True, kw_only=True)
class _Run:
    """What accumulates while the processes run."""

    artifact: Artifact
    workload: Workload
    progress: Progress
    memory_limit: MemoryLimit | None
    open_worker: OpenWorker
    clock: Callable[[], float]
    root: Path
    meter: EnergyMeter
    gate: ReadyGate
    gated: bool = False
    total: int
    done: int = 0
    processes: int = 0
    started_s: float = 0.0
    runtime: Runtime | None = None
    buffers: tuple[Buffer, ...] = ()
    samples: list[Sample] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    peaks: list[MemoryPeak] = field(default_factory=list)
    thermal: list[ThermalPoint] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def measurement(self, host: Host, started_at: str, quiet: Noise, on_device: str) -> Measurement:
        """All of it as a record."""
        return Measurement(
            artifact_sha256=self.artifact.sha256,
            started_at=started_at,
            host=replace(host, isa=isa_that_ran(host, self.runtime)) if self.runtime is not None else host,
            runtime=self.runtime,
            workload=self.workload,
            samples=tuple(self.samples),
            load_s=tuple(self.load_s),
            peaks=tuple(self.peaks),
            buffers=self.buffers,
            energy=tuple(self.meter.readings),
            energy_unknown=self.meter.unknown,
            thermal=tuple(self.thermal),
            states=tuple(self.gate.states),
            memory_limit=self.memory_limit,
            noise=quiet,
            findings=tuple(self.findings),
            on_device=on_device,
        )

    def all_processes(self, plan: Plan) -> None:
        """The planned processes, adaptive ones between them; ends early when one breaks."""
        if not all(self.one_process(process) for process in plan.main):
            return
        while unsettled := self.unsettled(plan):
            process = extra_process(self.workload, unsettled)
            self.total += process.repetitions
            if not self.one_process(process):
                return
        all(self.one_process(process) for process in plan.after)

    def one_process(self, plan: ProcessPlan) -> bool:
        """Run one fresh worker; False when the run cannot go on."""
        index, self.processes = self.processes, self.processes + 1
        timeout_s = self.workload.timeout_s + plan.duration_s
        seed = self.workload.seed + index
        self.progress(STAGE, self.done, self.total, "loading")
        try:
            with self.open_worker(
                Path(self.artifact.path), plan.settings, timeout_s=timeout_s, seed=seed, limit=self.memory_limit
            ) as worker:
                if not self.accept(worker, plan, index):
                    return False
                for step in plan.steps:
                    self.one_step(worker, step, index)
                self.keep_peak(worker.finish(index), plan)
        except WorkerDied as died:
            return self.survive(died, plan)
        return True

    def accept(self, worker: Worker, plan: ProcessPlan, index: int) -> bool:
        """Note how the worker came up; refuse one that runs something else than the first."""
        if self.runtime is None:
            self.runtime, self.buffers = worker.runtime, worker.buffers
            self.findings += worker.findings
        other = checks.compare_runtimes(self.runtime, worker.runtime, index)
        if other is not None:
            self.findings.append(other)
            return False
        if plan.judged:
            self.load_s.append(worker.load_s)
        return True

    def one_step(self, worker: Worker, step: Step, index: int) -> None:
        """Run a step and keep its samples, with the energy they took where the whole step is timed work."""
        self.progress(STAGE, self.done, self.total, f"{step.test}, filling the cache" if step.depth else step.test)
        metered = not step.warmup and step.depth == 0
        if metered:
            self.meter.start()
        samples: list[Sample] = []
        for piece in self.pieces(step):
            doubts = () if step.warmup else self.gate.before(step.test, index, self.meter.pausing, worker.allow)
            for raw in worker.run(piece, again=bool(samples)):
                number = raw.repetition if piece is step else len(samples)
                samples.append(self.keep_sample(replace(raw, repetition=number), index, doubts))
                self.tell(step, samples)
                self.read_thermal()
        if metered:
            self.meter.stop(step.test, samples)

    def pieces(self, step: Step) -> list[Step]:
        """The repetitions of a step one by one, where the machine shows a state to wait for between them."""
        apart = self.gated and not step.warmup and step.duration_s <= 0
        return [replace(step, repetitions=1)] * step.repetitions if apart else [step]

    def keep_sample(self, raw: RawSample, index: int, doubts: tuple[str, ...] = ()) -> Sample:
        ended_s = self.clock() - self.started_s
        sample = Sample(
            test=raw.test,
            process=index,
            repetition=raw.repetition,
            warmup=raw.warmup,
            tokens=raw.tokens,
            elapsed_s=raw.elapsed_s,
            token_s=raw.token_s,
            started_s=max(0.0, ended_s - raw.elapsed_s),
            doubts=doubts,
        )
        self.samples.append(sample)
        return sample

    def tell(self, step: Step, samples: list[Sample]) -> None:
        """One step further; a sustained run counts its seconds."""
        speed = f"{step.test} {format_rate(samples[-1].tokens / samples[-1].elapsed_s)}"
        if step.duration_s > 0:
            passed_s = samples[-1].started_s + samples[-1].elapsed_s - samples[0].started_s
            self.progress(step.test, passed_s, step.duration_s, speed)
            return
        self.done += 1
        self.progress(STAGE, self.done, self.total, speed)

    def read_thermal(self) -> None:
        at_s = self.clock() - self.started_s
        if self.thermal and at_s - self.thermal[-1].at_s < thermal.EVERY_S:
            return
        point = thermal.read_thermal(at_s, self.root)
        if point is not None:
            self.thermal.append(point)

    def keep_peak(self, peak: MemoryPeak | None, plan: ProcessPlan) -> None:
        """Peaks count at the judged settings only, and when they can be true."""
        if peak is None or not plan.judged:
            return
        fault = checks.refuse_peak(peak, self.artifact.header, plan.settings)
        if fault is None:
            self.peaks.append(peak)
        else:
            self.findings.append(fault)

    def survive(self, died: WorkerDied, plan: ProcessPlan) -> bool:
        """Whether the run goes on without this worker. A model or setting declined at the very start is bad input;
        what a limit of memory leaves no room for beyond the judged settings is left out.
        """
        declined = died.finding.code.endswith("-rejected")
        if declined and not self.samples:
            raise died
        larger = plan.settings != self.workload.settings and died.finding.code == "memory-limit"
        if (declined or larger) and not plan.judged:
            finding = died.finding
            self.findings.append(
                Finding(level="warning", code=finding.code, message=f"left out: {finding.message}", hint=finding.hint)
            )
            return True
        self.findings.append(died.finding)
        return False

    def timed(self, test: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.test == test and not sample.warmup]

    def unsettled(self, plan: Plan) -> dict[str, int]:
        """Tests at depth 0 that need more repetitions, and how many at once."""
        missing = {}
        for step in plan.main[0].steps:
            samples = self.timed(step.test)
            if not checks.is_settled(samples, self.workload):
                missing[step.test] = min(EXTRA_REPETITIONS, self.workload.repetitions_max - len(samples))
        return missing

    def closing_notes(self) -> list[Finding]:
        """Notes on precision and on processes that disagree."""
        tests = dict.fromkeys(s.test for s in self.samples if "@" not in s.test and s.test != SUSTAINED)
        notes = [checks.precision_note(test, self.timed(test), self.workload) for test in tests]
        limited = checks.limit_notes(self.memory_limit, self.peaks, self.artifact.header)
        return [note for note in notes if note is not None] + [
            *checks.compare_peaks(self.peaks),
            *limited,
            *marked(self.samples),
        ]
