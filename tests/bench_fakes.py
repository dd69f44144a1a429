"""A worker that runs on a fake clock: the bench's own logic is real, only the model is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.records import (
    Artifact,
    Buffer,
    Finding,
    Header,
    Measurement,
    MemoryLimit,
    MemoryPeak,
    Runtime,
    Sample,
    Settings,
    TensorInfo,
)
from edgekit.runtimes import RawSample, Step, WorkerDied

RUNTIME = Runtime(
    name="llama.cpp", version="1", build="b1", backend="cpu", cpu_features="AVX2", threads=4, isolation="rlimits"
)
BUFFERS = (Buffer(name="CPU", role="kv", size_bytes=1024),)
PEAK_BYTES = 900_000_000


def header(*, context_train: int = 32768, weights_bytes: int = 800_000_000, shards: int = 1) -> Header:
    return Header(
        architecture="qwen2",
        name="fake",
        quant="q4_0",
        sha256="00" * 32,
        size_bytes=weights_bytes + 1000,
        shards=shards,
        layers=2,
        hidden=256,
        heads=(4, 4),
        kv_heads=(2, 2),
        key_dim=64,
        value_dim=64,
        ffn=(512, 512),
        vocabulary=1000,
        context_train=context_train,
        tied_embedding=True,
        tensors=(TensorInfo(name="token_embd.weight", type="q4_0", shape=(256, 1000), size_bytes=weights_bytes),),
    )


def artifact(**changes: int) -> Artifact:
    return Artifact(path="/nowhere/fake.gguf", sha256="11" * 32, shard_sha256=("11" * 32,), header=header(**changes))


@dataclass
class Clock:
    now_s: float = 1000.0
    slept_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds


@dataclass
class Opened:
    """One opened worker, as the test sees it afterwards."""

    path: Path
    settings: Settings
    timeout_s: float
    seed: int
    limit: MemoryLimit | None = None
    steps: list[Step] = field(default_factory=list)
    finished: bool = False
    closed: bool = False


def steady(step: Step, process: int, repetition: int) -> float:
    """100 tok/s for decode, 1000 tok/s for prefill."""
    return step.prompt / 1000 + step.generate / 100


@dataclass
class Fakes:
    """Opens fake workers. `seconds` says how long a repetition takes, `dies` what happens before a step."""

    clock: Clock = field(default_factory=Clock)
    seconds: Callable[[Step, int, int], float] = steady
    dies: Callable[[Step, int], None] = lambda step, process: None
    on_open: Callable[[int], None] = lambda process: None
    runtimes: Callable[[int], Runtime] = lambda process: RUNTIME
    peak_bytes: Callable[[int], int] = lambda process: PEAK_BYTES
    huge_bytes: Callable[[Path], int | None] = lambda path: None
    findings: tuple[Finding, ...] = ()
    read_bytes: float | None = None
    opened: list[Opened] = field(default_factory=list)

    @contextmanager
    def open_worker(
        self, path: Path, settings: Settings, *, timeout_s: float, seed: int, limit: MemoryLimit | None = None
    ) -> Iterator[FakeWorker]:
        process = len(self.opened)
        self.opened.append(Opened(path=path, settings=settings, timeout_s=timeout_s, seed=seed, limit=limit))
        try:
            self.on_open(process)
            yield FakeWorker(self, process)
        finally:
            self.opened[process].closed = True

    def steps(self, process: int) -> list[tuple[str, int, bool]]:
        return [(step.test, step.repetitions, step.warmup) for step in self.opened[process].steps]


class FakeWorker:
    def __init__(self, fakes: Fakes, process: int) -> None:
        self.fakes, self.process = fakes, process
        self.load_s = 1.0 + process / 10
        self.runtime = fakes.runtimes(process)
        self.buffers = BUFFERS
        self.findings = fakes.findings

    def allow(self, seconds: float) -> None:
        self.fakes.opened[self.process].timeout_s += seconds

    def run(self, step: Step, *, again: bool = False) -> Iterator[RawSample]:
        fakes = self.fakes
        fakes.opened[self.process].steps.append(step)
        count = int(step.duration_s) if step.duration_s else step.repetitions
        for repetition in range(count):
            fakes.dies(step, self.process)
            elapsed_s = 1.0 if step.duration_s else fakes.seconds(step, self.process, repetition)
            generated = 50 if step.duration_s else step.generate
            fakes.clock.now_s += elapsed_s
            yield RawSample(
                test=step.test,
                repetition=repetition,
                warmup=step.warmup,
                tokens=generated if step.duration_s else step.prompt + step.generate,
                elapsed_s=elapsed_s,
                token_s=tuple([elapsed_s / generated] * generated) if generated else (),
            )

    def finish(self, process: int = 0) -> MemoryPeak:
        self.fakes.opened[self.process].finished = True
        size_bytes = self.fakes.peak_bytes(self.process)
        return MemoryPeak(
            process=process,
            baseline_bytes=10_000_000,
            unevictable_bytes=size_bytes,
            working_set_bytes=size_bytes,
            huge_mapped_bytes=self.fakes.huge_bytes(self.fakes.opened[self.process].path),
            read_bytes_per_token=self.fakes.read_bytes,
        )


def died(code: str) -> WorkerDied:
    return WorkerDied(Finding(level="fault", code=code, message="it ended"))


def measurement(samples: list[Sample], **changes: object) -> Measurement:
    """A measurement with nothing but samples, for the summaries."""
    from edgekit.records import Host, Workload

    host = Host(
        system="Linux",
        release="6",
        machine="x86_64",
        cpu_model="fake",
        isa="x86_64+avx2",
        physical_cores=4,
        logical_cores=4,
        ram_bytes=16_000_000_000,
    )
    fields: dict[str, object] = {
        "artifact_sha256": "11" * 32,
        "started_at": "2026-11-22T00:00:00+00:00",
        "host": host,
        "runtime": RUNTIME,
        "workload": Workload(),
        "samples": tuple(samples),
    }
    return Measurement(**(fields | changes))  # type: ignore[arg-type]


def samples_of(test: str, rates: list[list[float]], tokens: int = 128) -> list[Sample]:
    """Samples at `rates` tok/s, a list for each process, with equal times per token."""
    made: list[Sample] = []
    for process, group in enumerate(rates):
        for repetition, rate in enumerate(group):
            made.append(
                Sample(
                    test=test,
                    process=process,
                    repetition=repetition,
                    tokens=tokens,
                    elapsed_s=tokens / rate,
                    token_s=tuple([1 / rate] * tokens),
                    started_s=float(len(made)),
                )
            )
    return made
