"""The worker as the bench sees it: open, run steps, finish. Every way out ends and collects the child process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from edgekit.errors import EdgekitError
from edgekit.records import Buffer, Finding, MemoryLimit, MemoryPeak, Runtime, Settings
from edgekit.runtimes.amx import amx_findings as amx_findings
from edgekit.runtimes.amx import amx_state as amx_state
from edgekit.runtimes.amx import deny_amx, note_broken_amx
from edgekit.runtimes.cores import big_cores, check_threads
from edgekit.runtimes.death import WorkerDied
from edgekit.runtimes.limits import explain_limited, in_scope, session_environment, watch_cache
from edgekit.runtimes.process import Child, spawn, worker_command
from edgekit.runtimes.protocol import (
    Done,
    Loaded,
    Message,
    ProtocolError,
    RawSample,
    Ready,
    Step,
    Timed,
    raw_sample,
)

TOUCHED_TOKENS = 3
"""Decoded to see which pages a token reads; more add nothing but the input embedding's rows."""

Opened = TypeVar("Opened")

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


class Worker:
    """A child process with the model loaded. Made by `open_worker`; raises WorkerDied from any method."""

    def __init__(self, child: Child, ready: Ready, loaded: Loaded, files: Sequence[Path]) -> None:
        self._child = child
        self._files = tuple(files)
        self._running = False
        self.load_s = loaded.load_ns / 1e9
        self.context_tokens = loaded.context_tokens
        self.vocabulary = loaded.vocabulary
        self.pid = child.process.pid
        self.runtime = describe_runtime(child, ready, loaded)
        self.buffers: tuple[Buffer, ...] = tuple(child.log.buffers)
        self.findings: tuple[Finding, ...] = amx_findings()

    def allow(self, seconds: float) -> None:
        """So much more time for the whole worker: what was spent waiting for the machine is not its own."""
        self._child.deadline += seconds

    def run(self, step: Step, *, again: bool = False) -> Iterator[RawSample]:
        """The samples of `step` as they arrive. Raises EdgekitError for a step that cannot be run in this context,
        WorkerDied when the worker ends first; samples already yielded stay valid.

        Leaving the iteration early waits for the rest of the step at the next call. `again` says that it only repeats
        what was just run: memory stands still, and is looked at seldom.
        """
        _check_step(step, self.context_tokens)
        self._catch_up()
        child = self._child
        read_before = child.sampler.read_bytes()
        child.command({"op": "run", "step": asdict(step)}, moves=not again)
        self._running = True
        decoded = expected = 0
        while True:
            message = child.expect(Timed, Done, doing=f"running `{step.test}`")
            if isinstance(message, Done):
                break
            expected += 1
            sample = self._sample(step, message, expected)
            decoded += len(sample.token_s)
            yield sample
        self._running = False
        child.sampler.end_phase()
        if decoded and not step.prompt and not step.warmup:
            child.sampler.count_decode(read_before, decoded)

    def _sample(self, step: Step, message: Message, count: int) -> RawSample:
        assert isinstance(message, Timed)
        most = step.duration_s * 1.5 + 10 if step.duration_s > 0 else step.repetitions
        if count > most:
            raise self._child.distrust("more samples than were asked for")
        try:
            return raw_sample(step, message)
        except ProtocolError as error:
            raise self._child.distrust(str(error)) from None

    def _catch_up(self) -> None:
        while self._running:
            message = self._child.expect(Timed, Done, doing="finishing the test before")
            self._running = not isinstance(message, Done)

    def finish(self, process: int = 0) -> MemoryPeak | None:
        """End the worker in good order. Its peaks as a record (`None` where the OS tells nothing); `process` is the
        index they carry.
        """
        self._catch_up()
        sampler = self._child.sampler
        sampler.end_phase()
        if sampler.clear_references():
            touch = Step(test="touch", generate=min(TOUCHED_TOKENS, self.context_tokens), warmup=True)
            for _ in self.run(touch):
                pass
            sampler.count_references([file.resolve() for file in self._files])
        peak = sampler.peak(process, buffers=self._child.log.buffers)
        self._child.command({"op": "quit"})
        self._child.close()
        return peak


@contextmanager
def open_worker(
    path: Path,
    settings: Settings,
    *,
    timeout_s: float,
    seed: int,
    runtime: str = "",
    memory_limit_bytes: int = 0,
    limit: MemoryLimit | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Worker]:
    """A fresh process with `path` loaded under `settings`; it is gone when the block ends, Ctrl-C included.

    `timeout_s` is the wall time of the whole worker, from here to `finish`. `runtime` is by default the one for what
    lies at `path`. `memory_limit_bytes` caps its address space (0: none beyond what the machine can give); `limit` is
    a device's share of memory (`limits.choose_limit`) that it must do with; `command` replaces the program, for tests
    of this door. Raises WorkerDied: `finding.code` tells a rejected model from a crash.
    """
    check_threads(settings.threads)
    files = model_files(path)
    start = {
        "op": "start",
        "parent": os.getpid(),
        "runtime": runtime or runtime_of(path),
        "path": str(path.absolute()),
        "readable": readable(path),
        "settings": asdict(settings),
        "limits": worker_limits(memory_limit_bytes, limit),
        "seed": seed,
    }
    try:
        with _opened(start, files, timeout_s, command, limit) as worker:
            yield worker
    except WorkerDied as died:
        if limit is None:
            raise
        raise explain_limited(died, limit) from None


@contextmanager
def _opened(
    start: dict[str, Any],
    files: Sequence[Path],
    timeout_s: float,
    command: Sequence[str] | None,
    limit: MemoryLimit | None,
) -> Iterator[Worker]:
    environment: dict[str, str] = {}
    if limit is not None and limit.means == "scope":
        command, environment = in_scope(limit, command or worker_command()), session_environment()
    elif limit is not None and limit.means == "rlimit":
        # the stack of each thread counts, and llama.cpp's AMX loader takes all cores unless told
        environment = {"OMP_NUM_THREADS": str(start["settings"]["threads"] or big_cores())}
    child, worker = start_child(timeout_s, command, lambda child: _start(child, start, files, limit), environment)
    try:
        yield worker
    finally:
        child.close()


def start_child(
    timeout_s: float,
    command: Sequence[str] | None,
    begin: Callable[[Child], Opened],
    environment: Mapping[str, str] | None = None,
) -> tuple[Child, Opened]:
    """A worker process on which `begin` went well, and its answer; begun anew without AMX where that killed it."""
    child = spawn(timeout_s, command, environment)
    try:
        try:
            return child, begin(child)
        except WorkerDied as death:
            if death.finding.code != "worker-illegal-instruction" or amx_state() == "denied":
                raise
            deny_amx()
            child.close()
            child = spawn(timeout_s, command, environment)
            begun = begin(child)
            note_broken_amx()  # it was AMX that had killed it
            return child, begun
    except BaseException:
        child.close()
        raise


def _start(child: Child, start: dict[str, Any], files: Sequence[Path], limit: MemoryLimit | None) -> Worker:
    child.command({**start, "amx": amx_state()})
    ready = child.expect(Ready, doing="starting")
    assert isinstance(ready, Ready)
    child.sampler.take_baseline()
    left = watch_cache(limit, files) if limit is not None else None
    child.command({"op": "load"})
    loaded = child.expect(Loaded, doing="loading the model")
    assert isinstance(loaded, Loaded)
    child.sampler.end_phase()
    worker = Worker(child, ready, loaded, files)
    worker.findings += () if left is None else (left,)
    return worker


def runtime_of(path: Path) -> str:
    """The key in `RUNTIMES` of what runs the artifact at `path`: an ONNX model's folder or graph, or a GGUF."""
    from edgekit.header.onnx_folder import is_onnx  # what the worker does not need it does not load

    return "ort" if is_onnx(path) else "llamacpp"


def readable(path: Path) -> list[str]:
    """What the worker that runs the artifact at `path` may read. Raises EdgekitError when what runs it is missing."""
    from edgekit.header.onnx_folder import folder_of

    if runtime_of(path) != "ort":
        return [str(file) for file in model_files(path)]
    if find_spec("onnxruntime") is None:
        raise EdgekitError(
            "a library that this needs is not installed: `onnxruntime`", hint="pip install 'edgekit[onnx]'"
        )
    return [str(place) for place in (folder_of(path), *model_files(path))]


def model_files(path: Path) -> tuple[Path, ...]:
    """The absolute path of `path` and, where its name says that it is one of several shards, of them all; every file
    of an ONNX model's folder. Raises EdgekitError when one is missing.
    """
    if runtime_of(path) == "ort":
        from edgekit.header.onnx_folder import folder_files

        return folder_files(path)
    first = path.absolute()  # not resolved: llama.cpp finds the shards by name, and caches link to nameless blobs
    try:
        first.stat()
    except OSError as error:
        raise EdgekitError(f"cannot read model ({(error.strerror or 'unreadable').lower()}): `{path}`") from None
    match = _SHARD.search(first.name)
    if match is None:
        return (first,)
    count = int(match[1])
    stem = first.name[: match.start()]
    shards = [first.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = next((shard for shard in shards if not shard.exists()), None)
    if missing is not None:
        raise EdgekitError(f"a shard of the model is missing: `{missing.name}`", hint="all shards lie side by side")
    return (first, *(shard for shard in shards if shard != first))


def worker_limits(address_space_bytes: int = 0, limit: MemoryLimit | None = None) -> dict[str, int]:
    """What the machine can give at this moment bounds the worker's private memory: a hostile header that asks for
    more is refused by the kernel instead of bringing down its neighbours. So does a `limit` that no group holds.
    """
    data_bytes = _memory_to_give()
    if limit is not None and limit.means == "rlimit":
        data_bytes = min(data_bytes or limit.limit_bytes, limit.limit_bytes)
    return {"address_space_bytes": address_space_bytes, "data_bytes": data_bytes}


def _memory_to_give() -> int:
    """Bytes available in RAM and swap (Linux), else 0 for no limit."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    figures = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line.endswith("kB")}
    return figures.get("MemAvailable", 0) + figures.get("SwapFree", 0)


def _check_step(step: Step, context_tokens: int) -> None:
    """Raises EdgekitError when `step` is empty or longer than the context."""
    longest = step.depth + (1 if step.duration_s > 0 else step.prompt + step.generate)
    if longest > context_tokens:
        raise EdgekitError(
            f"test `{step.test}` needs {longest} tokens of context, more than there are: `{context_tokens}`",
            hint="a larger context or a smaller depth",
        )
    if min(step.prompt, step.generate, step.depth) < 0 or step.repetitions < 1:
        raise EdgekitError(f"a test cannot have negative lengths or no repetition: `{step.test}`")
    if step.prompt + step.generate == 0 and step.duration_s <= 0:
        raise EdgekitError(f"a test needs tokens or a duration: `{step.test}`")


def describe_runtime(child: Child, ready: Ready, loaded: Loaded) -> Runtime:
    """The build that runs and what it does, as it and its log since the child's start (or a fresh log) say."""
    log = child.log
    kernels = sorted({buffer.name.lower() for buffer in log.buffers if buffer.role == "repacked"})
    if ready.build.startswith("onnxruntime "):
        version, _, build = ready.build.removeprefix("onnxruntime ").partition(" ")
        return Runtime(
            name="onnxruntime",
            version=version,
            build=build,
            backend="CPUExecutionProvider",
            cpu_features=ready.cpu_features,
            threads=loaded.threads,
            isolation=ready.isolation,
        )
    return Runtime(
        name="llama.cpp",
        version=_version_of("llama-cpp-python"),
        build=ready.build,
        backend=" + ".join(["cpu", *kernels]),
        cpu_features=_without_denied(ready.cpu_features),
        threads=loaded.threads,
        flash_attention=log.flash_attention,
        repacked_tensors=log.repacked_tensors,
        isolation=ready.isolation,
    )


def _without_denied(features: str) -> str:
    kept = features.split()
    return " ".join(name for name in kept if not (amx_state() == "denied" and name.startswith("AMX")))


def _version_of(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 40 ms that the worker's start would pay for

    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution
