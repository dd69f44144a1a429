"""A measurement on another machine: bring the files there, run, bring the figures back, leave nothing behind."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from edgekit.bench.host import probe_tree
from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.pipeline.edgekit_there import bench_there, edgekit_there, profile_file
from edgekit.progress import Progress, silent
from edgekit.records import (
    Artifact,
    DeviceState,
    EnergyReading,
    Finding,
    Host,
    Measurement,
    MemoryPeak,
    Runtime,
    Sample,
    Unknown,
    Workload,
)
from edgekit.summary import SUSTAINED
from edgekit.targets.facts import fetch_facts
from edgekit.targets.foreign import ForeignRun, refuse_other_model
from edgekit.targets.once import end_others
from edgekit.targets.readiness import Readiness, judge_readiness, wait_until_ready
from edgekit.targets.remote import Remote, TargetLost, place
from edgekit.targets.repeating import spread
from edgekit.targets.run_lock import RunLock, run_lock
from edgekit.targets.runners import Picked, file_sha256, pick
from edgekit.targets.running import TARGET_LOST, command_of, fault_of, process_key, run_process
from edgekit.targets.variants import features_of
from edgekit.targets.watching import NOTHING_SEEN, Watched, doubts_of, kept_states, metered
from edgekit.targets.where import Where, open_remote

READY_LIMIT_S = 300.0
"""As long as a phone may cool before a process; then it runs anyway, and the record says so."""

STEPS_S = 16 * 3600.0
"""Longer than two copies, their hashes, a run of edgekit there and a wait for it to cool may take together: what
`targets.remote`, `ssh`, `adb` and `edgekit_there` give them.
"""


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
    Raises EdgekitError where it cannot be reached, nothing there can run, the files do not fit, or another run of the
    model is at work there.
    """
    if artifact.header.format != "gguf" or artifact.header.shards != 1:
        raise EdgekitError(f"only a GGUF of one file runs elsewhere: `{artifact.path}`", hint="join its shards first")
    silent_s = STEPS_S + 4 * (workload.timeout_s + 1.5 * workload.sustained_s)
    with open_remote(where, artifact.sha256[:16]) as remote, run_lock(remote, silent_s=silent_s) as held:
        run = _There(held=held, artifact=artifact, workload=workload, sleep=sleep, clock=clock, progress=progress)
        try:
            own = "" if runner else edgekit_there(remote)
            if own:
                return run.by_edgekit(own, on_device)
            run.look()
            run.all_processes(run.runner(runner))
        except TargetLost as lost:
            run.findings.append(fault_of(lost))
            raise
        finally:
            run.leave()
        return run.measurement(load_device(on_device).name)


@dataclass(slots=True, kw_only=True)
class _There:
    """What accumulates while the processes run there."""

    held: RunLock
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
    states: list[DeviceState] = field(default_factory=list)
    energy: list[EnergyReading] = field(default_factory=list)
    no_energy: dict[str, None] = field(default_factory=dict)
    """Why it was not metered, each reason once."""
    watched: Watched = NOTHING_SEEN
    """Of the last process."""
    watched_since_s: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def remote(self) -> Remote:
        return self.held.remote

    def leave(self) -> None:
        """Clean up there, unless the same command is to go on with what stands there."""
        hint = ""
        if any(finding.code == TARGET_LOST for finding in self.findings):
            left = f"`{self.remote.folder}` stays on `{self.remote.name}`, where the connection was lost"
            hint = "run the same command again: it goes on there, and cleans up"
        else:
            left = self.held.clean_up()
        if left:
            self.findings.append(Finding(level="warning", code="left-behind", message=left, hint=hint))

    def ready(self, key: str) -> Readiness:
        """The state in which what `key` names begins: nothing else of ours at work there, and waited for."""
        end_others(self.remote, key)
        return wait_until_ready(self.look, limit_s=READY_LIMIT_S, sleep=self.sleep, clock=self.clock)

    def look(self) -> Readiness:
        """The device's state now; the first look says what it is."""
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            system, release, machine = fetch_facts(self.remote, Path(folder), load=self.host is not None)
            if self.host is None:
                self.host = probe_tree(Path(folder), system=system, release=release, machine=machine)
                self.features = features_of(_text(Path(folder) / "proc/cpuinfo"))
            return judge_readiness(Path(folder))

    def by_edgekit(self, program: str, on_device: str) -> Measurement:
        """The measurement of the edgekit there, with what this side noticed."""
        obstacles: list[str] = []

        def begins(key: str) -> None:
            obstacles.extend(self.ready(key).obstacles)
            self.progress("measuring there", 0, 1, f"edgekit on {self.remote.name}")

        self.progress("copying the model", 0, 1, self.remote.name)
        sha256 = file_sha256(profile_file(on_device))
        run = bench_there(self.remote, program, self.artifact, self.workload, on_device, sha256, begins)
        found = any(finding.code == "resumed" for finding in run.findings)  # how it was when that began nobody looked
        noticed = [] if found else [_not_ready(0, words) for words in obstacles]
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
        self.progress("measuring there", 0, self.workload.repetitions_min, self.remote.name)
        asked = self.workload
        if not self.one_process(command_of(program, model, asked, 1), 0, asked.timeout_s):
            return
        found = spread(asked, self.samples, self.watched, self.states[0] if self.states else None)
        self.findings.append(found.told)
        count = 1 + len(found.repetitions)
        for index, repetitions in enumerate(found.repetitions, start=1):
            self.progress("measuring there", index, count, self.remote.name)
            if not self.one_process(command_of(program, model, asked, repetitions), index, asked.timeout_s):
                return
        rate = self.decode_rate()
        if self.workload.sustained_s > 0 and rate is not None:
            tokens = max(self.workload.generated_tokens)
            self.progress("sustained, there", 0, 1, self.remote.name)
            only = replace(self.workload, prompt_tokens=(), generated_tokens=(tokens,))
            command = command_of(program, model, only, math.ceil(self.workload.sustained_s * rate / tokens) + 1)
            timeout_s = self.workload.timeout_s + 1.5 * self.workload.sustained_s
            self.one_process(command, count, timeout_s, sustained=True)

    def decode_rate(self) -> float | None:
        """Tokens/s of the longest decode test so far."""
        test = f"tg{max(self.workload.generated_tokens, default=0)}"
        rates = [sample.tokens / sample.elapsed_s for sample in self.samples if sample.test == test]
        return median(rates) if rates else None

    def one_process(self, command: list[str], index: int, timeout_s: float, *, sustained: bool = False) -> bool:
        """Run one when the device is ready, and keep what it brought; False when the run cannot go on."""
        brought = self.picked.sha256 if self.picked else ""
        try:
            ready = self.ready(process_key(command, index, sha256=brought, timeout_s=timeout_s))
            self.held.renew()
        except EdgekitError as error:
            self.findings.append(fault_of(error))
            return False
        process = run_process(self.remote, command, index, sha256=brought, timeout_s=timeout_s)
        doubts = () if process.found else ready.obstacles  # how it was when that one began nobody looked
        self.findings += [_not_ready(index, words) for words in doubts]
        if process.peak is not None:
            self.peaks += [] if sustained else [process.peak]
        self.watch(process.watched, ready, index)
        if process.fault is not None or process.run is None:
            self.findings += [process.fault] if process.fault else []
            return False
        if process.found:
            self.findings.append(_resumed(index, process.run))
        seen = doubts_of(process.watched)
        self.findings += [_disturbed(index, words) for words in seen]
        return self.accept(process.run, index, (*doubts, *seen), process.watched, sustained)

    def watch(self, watched: Watched, ready: Readiness, index: int) -> None:
        """Keep what was seen of the device; times count from the first look that it took itself."""
        self.watched = watched
        if ready.state is not None:
            self.states.append(replace(ready.state, process=index, before=f"process {index}"))
        if watched.states and self.watched_since_s is None:
            self.watched_since_s = watched.states[0].at_s
        self.states += kept_states(watched, self.watched_since_s or 0.0)

    def accept(self, run: ForeignRun, index: int, doubts: tuple[str, ...], watched: Watched, sustained: bool) -> bool:
        """Keep the samples of a process that ran what the first ran, and what its last test drew."""
        refuse_other_model(run, self.artifact)
        self.first = self.first or run
        if _circumstances(run) != _circumstances(self.first):
            words = f"process {index} ran another configuration than the first: its samples are left out"
            self.findings.append(Finding(level="fault", code="runtime-changed", message=words))
            return False
        samples = [replace(sample, process=index, doubts=doubts) for sample in run.samples]
        if sustained:
            samples = in_a_row(samples)
        self.samples += samples
        test = samples[-1].test
        reading = metered(watched, [sample for sample in samples if sample.test == test], test)
        if isinstance(reading, Unknown):
            self.no_energy[reading.reason] = None
        else:
            self.energy.append(reading)
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
            energy=tuple(self.energy),
            energy_unknown="" if self.energy else "; ".join(self.no_energy) or "nothing was run to its end",
            states=tuple(self.states),
            findings=(_told(self.remote), *self.findings),
            on_device=on_device,
            imported_from="llama-bench",
        )


def _circumstances(run: ForeignRun) -> tuple[object, ...]:
    """What must be the same in every process; llama-bench makes each test's context as long as the test."""
    return run.version, run.backend, replace(run.settings, context_tokens=0)


def in_a_row(samples: Sequence[Sample]) -> list[Sample]:
    """The repetitions of one decode test as windows of a sustained run: llama-bench pauses between none of them."""
    at_s, found = 0.0, []
    for sample in samples:
        found.append(replace(sample, test=SUSTAINED, started_s=at_s))
        at_s += sample.elapsed_s
    return found


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


def _disturbed(index: int, words: str) -> Finding:
    hint = "its samples are marked; let it cool and rest unplugged, and run again"
    return Finding(level="warning", code="disturbed", message=f"process {index}: {words}", hint=hint)


def _resumed(index: int, run: ForeignRun) -> Finding:
    words = f"process {index} had run to its end when the connection was lost (begun {run.started_at or 'then'})"
    return Finding(level="note", code="resumed", message=f"{words}, and was not run again")


def _not_ready(index: int, words: str) -> Finding:
    hint = "let it cool and rest unplugged, and run again"
    return Finding(level="warning", code="not-ready", message=f"process {index} began while {words}", hint=hint)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
