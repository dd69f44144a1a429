"""What was measured on this host: speed and memory, and quality against a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.numbers import Figure, Unknown
from edgekit.records.run import Settings, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine a measurement ran on. Empty strings and zeros where the OS does not tell."""

    system: str
    release: str
    machine: str
    cpu_model: str
    isa: str
    physical_cores: int
    logical_cores: int
    ram_bytes: int
    governor: str = ""
    virtualized: str = ""
    power_source: Literal["mains", "battery", ""] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The build that ran and what it effectively did, as it reports it."""

    name: str
    version: str
    build: str
    backend: str
    cpu_features: str
    threads: int
    flash_attention: bool | None = None
    repacked_tensors: int | None = None
    isolation: str = ""
    """What fenced the worker in: `seccomp, landlock, rlimits`; empty when nothing did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repetition of one test, raw. `token_s` holds a time per generated token (decode tests only), in seconds."""

    test: str
    process: int
    repetition: int
    warmup: bool = False
    tokens: int
    elapsed_s: float
    token_s: tuple[float, ...] = ()
    started_s: float = 0.0
    """Since the measurement began, monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One line of llama.cpp's own buffer log. `role` is weights, repacked, kv, compute or output."""

    name: str
    role: Literal["weights", "repacked", "kv", "compute", "output", "other"]
    size_bytes: int
    mapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPeak:
    """Peaks of one worker process in bytes, its baseline before the load already taken off `unevictable` and
    `working_set`.

    `unevictable` = anonymous + swap. `working_set` = unevictable + mapped pages read on every token, with how that was
    found in `working_set_method`. `None` where the OS does not tell.
    """

    process: int
    baseline_bytes: int
    unevictable_bytes: int | None
    working_set_bytes: int | None
    working_set_method: str = ""
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    hwm_bytes: int | None = None
    swap_bytes: int | None = None
    read_bytes_per_token: float | None = None
    """Bytes fetched from disk per decoded token: a thrashing model re-reads its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """A counter's reading over a phase. `scope` says what the counter sees; scopes are never pooled."""

    scope: Literal["package", "rail", "board", "wall", "device"]
    counter: str
    test: str
    joules: float
    elapsed_s: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something the user should know. `fault` = the run broke or a figure is refused; `warning` = doubt; `note` =
    circumstance.
    """

    level: Literal["fault", "warning", "note"]
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The host's quiet before and during the run. `contaminated` lists the tests whose samples fail the checks of
    design §4.
    """

    others_cpu_before: float | None
    """Fraction of all CPUs busy with others' work just before the run."""
    others_cpu_during: float | None
    pressure_some_during: float | None
    """PSI `cpu some` share of the run's time."""
    contaminated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalPoint:
    """Clock and temperature at a moment of the run; `None` where the machine does not show it."""

    at_s: float
    frequency_mhz: float | None
    temperature_c: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One artifact run on this host: raw samples, peaks and circumstances. Summaries are computed when shown."""

    kind: Literal["measurement"] = "measurement"
    version: Literal[1] = 1
    artifact_sha256: str
    started_at: str
    host: Host
    runtime: Runtime | None
    workload: Workload
    samples: tuple[Sample, ...]
    load_s: tuple[float, ...] = ()
    peaks: tuple[MemoryPeak, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    energy: tuple[EnergyReading, ...] = ()
    energy_unknown: str = ""
    """Why no counter was read; never a silent zero."""
    thermal: tuple[ThermalPoint, ...] = ()
    noise: Noise | None = None
    findings: tuple[Finding, ...] = ()
    on_device: str = ""
    """Name of the profile this host *is* (`--on-device`): basis becomes `measured`. Empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChunk:
    """Raw scores of one chunk of text: sums over its scored `tokens`, in nats.

    `kld` is KL(reference ‖ artifact), `top1` the number of tokens on which both have the same likeliest one; `None`
    without a reference. `broken` tokens got logits that are no numbers: they count in `tokens` and disagree, and the
    sums leave them out.
    """

    tokens: int
    nll: float
    reference_nll: float | None = None
    kld: float | None = None
    top1: int | None = None
    broken: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Quality of the artifact against a reference, on one text; the raw scores are in `chunks`, in the text's order.

    The text is cut into chunks of `context_tokens`, the second half of each is scored (`llama-perplexity`'s way).
    `kld_mean` is nats per token, `perplexity_ratio` the artifact's ÷ the reference's, from the same chunks.
    """

    kind: Literal["quality"] = "quality"
    version: Literal[1] = 1
    reference: str
    """Name of the reference artifact; empty without one."""
    perplexity: Figure
    kld_mean: Figure
    top1_agreement: Figure
    reference_perplexity: Figure = Unknown(reason="not recorded")
    perplexity_ratio: Figure = Unknown(reason="not recorded")
    chunks: tuple[ScoredChunk, ...] = ()
    context_tokens: int = 0
    text_tokens: int = 0
    """Of the whole text, scored or not."""
    text_sha256: str = ""
    text_origin: str = ""
    artifact_sha256: str = ""
    reference_sha256: str = ""
    settings: Settings | None = None
    runtime: Runtime | None = None
    reference_runtime: Runtime | None = None
    host: Host | None = None
    started_at: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Two builds of one model on one text, such as a GGUF and an ONNX folder: `b` judged with `a` as its reference.

    `quality.perplexity` is b's, `quality.reference_perplexity` a's, `quality.kld_mean` KL(a ‖ b).
    """

    kind: Literal["parity"] = "parity"
    version: Literal[1] = 1
    a: str
    b: str
    quality: Quality
