"""Every record that crosses a door between rooms.

A record is a frozen dataclass of scalars, tuples, `None` and records, so that it can be hashed, compared, written as
JSON and read back years later. Units are in the names, SI inside. Records that become a file carry `kind` and
`version`; loading and validating them is `edgekit.storage`'s work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "measured-here", "projected", "predicted", "estimated", "claimed"]
"""Where a number comes from, strongest first (design §3)."""

BASES: tuple[Basis, ...] = ("measured", "measured-here", "projected", "predicted", "estimated", "claimed")

Status = Literal["pass", "fail", "unknown"]
Level = Literal["required", "advisory"]
KvType = Literal["f16", "q8_0", "q4_0"]
FlashAttention = Literal["auto", "on", "off"]


def weakest(bases: tuple[Basis, ...]) -> Basis:
    """The basis of a composite: the weakest among its parts."""
    return max(bases, key=BASES.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number that cannot lose its 90 % range or its origin. `low ≤ value ≤ high`, all finite."""

    value: float
    low: float
    high: float
    basis: Basis
    note: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"an estimate must be finite: {self.low} ≤ {self.value} ≤ {self.high}")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an estimate lies within its range: {self.low} ≤ {self.value} ≤ {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Not known, and why: a value with a reason, never `None`-means-fine. `settle` is the command or act that would
    settle it.
    """

    reason: str
    settle: str = ""


Figure = Estimate | Unknown


def exact(value: float, basis: Basis, note: str = "") -> Estimate:
    """An estimate without width, for figures that are counted and not sampled."""
    return Estimate(value=value, low=value, high=value, basis=basis, note=note)


# ---- the artifact -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of a model file. `type` is ggml's name in lower case (`q4_0`, `f32`), or an ONNX one that ggml lacks
    (`int4`, `i64`); `shape` is ggml's order (row length first).
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int
    shard: int = 0
    role: Literal["", "matrix", "scale", "table"] = ""
    """In an ONNX graph, whose names tell nothing: a matrix is multiplied with, a scale belongs to the blocks of one, of
    a table rows are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a model file says about itself, read without touching weights.

    Per-layer fields are tuples of length `layers`. `tensors` lists every tensor over all shards. `quant` is the
    file's own label in llama.cpp's words, lower case (`q4_0`, `q4_k_m`), from `general.file_type` or the commonest
    type.
    """

    kind: Literal["header"] = "header"
    version: Literal[1] = 1
    format: Literal["gguf", "onnx"] = "gguf"
    architecture: str
    name: str
    quant: str
    sha256: str
    """Of the header's bytes alone (all shards), so that `fit` needs no pass over the weights."""
    size_bytes: int
    """Of all shard files together."""
    shards: int = 1
    layers: int
    hidden: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    key_dim: int
    value_dim: int
    ffn: tuple[int, ...]
    vocabulary: int
    context_train: int
    sliding_window: tuple[int, ...] = ()
    """Window of each layer in tokens, 0 = full attention; empty when no layer has one."""
    experts: int = 0
    experts_used: int = 0
    tied_embedding: bool
    stand_in: bool = False
    """Random weights in a reference student's shape (design §7): true memory and speed, no quality."""
    tensors: tuple[TensorInfo, ...]
    metadata: tuple[tuple[str, str], ...] = ()
    """Short scalar metadata for the report, stringified and length-capped; untrusted text."""

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads", "ffn"):
            values = getattr(self, name)
            if len(values) != self.layers or min(values, default=1) < 1:
                raise ValueError(f"`{name}` needs a positive number for each of {self.layers} layers")
        dimensions = (self.layers, self.hidden, self.key_dim, self.value_dim, self.vocabulary)
        if min(dimensions) < 1 or any(
            size < 0 for size in (self.size_bytes, *(tensor.size_bytes for tensor in self.tensors))
        ):
            raise ValueError("sizes are positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What an artifact was made from, as the file itself says: lower-case hex SHA-256 of each, empty where it does not
    say. Whoever wrote the file wrote these.
    """

    parent_sha256: str = ""
    """The file it was quantized from, all shards."""
    checkpoint_sha256: str = ""
    """The checkpoint at the root of it."""
    imatrix_sha256: str = ""
    calibration_sha256: str = ""
    """The text that the importance matrix was computed on."""
    plan_sha256: str = ""
    """The plan of types that it follows."""
    edgekit_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file (or files) that would ship. `sha256` covers every shard's bytes in order; empty when only the header
    was read (`fit`).
    """

    kind: Literal["artifact"] = "artifact"
    version: Literal[1] = 1
    path: str
    sha256: str = ""
    shard_sha256: tuple[str, ...] = ()
    header: Header
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """That a file or folder was made, of what and how; lies beside it as `<name>.json` and is written last.

    `source_sha256` covers every byte of the source's weights, `options` are all that could change the result.
    """

    kind: Literal["export"] = "export"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    source: str
    source_sha256: str
    target: str
    options: tuple[tuple[str, str], ...] = ()
    path: str
    size_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCheck:
    """How far an export's logits are from the checkpoint's in torch at float32, over `positions` of the same tokens:
    most from one prompt, the last `decoded` through the key-value cache token by token. KLD in nats.
    """

    subject: str
    """What was compared with torch: `fp32`, or the precision that was asked for."""
    positions: int
    decoded: int
    kld_mean: float
    kld_max: float
    top1_agreement: float
    kld_bound: float
    """`kld_max` of an fp32 export, `kld_mean` of a quantized one, stays within it or there is no export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What made an ONNX folder, out of what, and how it was checked; `edgekit.json` in the folder."""

    kind: Literal["onnx-export"] = "onnx-export"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    precision: str
    exporter: str
    architecture: str
    parameters: int
    source: str
    source_sha256: str
    block_size: int = 0
    """Weights that share a scale; 0 where nothing is quantized in blocks."""
    head_bits: int = 32
    embedding_bits: int = 32
    method: str = ""
    tied_table_shared: bool = False
    """The tied embedding is stored once and read both as table and as LM head."""
    versions: tuple[tuple[str, str], ...]
    checks: tuple[LogitsCheck, ...]
    size_bytes: int
    peak_bytes: int
    """The largest resident set of any process that worked on it."""
    peaks: tuple[tuple[str, int], ...] = ()
    """The same of each kind of process, bytes."""
    elapsed_s: float


# ---- what is run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration a runtime is opened with; a device profile's `[workload]` is one of these.

    `threads = 0` means the physical cores of the big cluster of the machine it runs on; `output_rows = 0` is
    llama.cpp's own default (one row of logits per ubatch token).
    """

    context_tokens: int = 4096
    batch_tokens: int = 2048
    ubatch_tokens: int = 512
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    mmap: bool = True
    repack: bool = True
    threads: int = 0
    output_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a measurement runs. Tests are named as llama-bench names them: `pp512`, `tg128`, and `tg16@d4096` at a
    depth.
    """

    settings: Settings = Settings()
    prompt_tokens: tuple[int, ...] = (512,)
    generated_tokens: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (1024, 4096)
    depth_generated_tokens: int = 16
    depth_repetitions: int = 10
    repetitions_min: int = 10
    repetitions_max: int = 60
    processes: int = 3
    precision: float = 0.02
    """Stop when the exact binomial interval of the median is within ± this fraction."""
    sustained_s: float = 0.0
    timeout_s: float = 1800.0
    seed: int = 1


# ---- devices ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A hardware figure and who says so. `low`/`high` where the source gives a range."""

    value: float
    source: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Cores of one kind. `big` marks the cluster that inference threads belong on."""

    name: str
    cores: int
    max_ghz: float | None = None
    big: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One published (or the user's own) run on the device itself.

    `quant` is llama.cpp's file-type name in lower case; `bytes_per_token` the weights streamed per decoded token, in
    bytes. Speeds are tokens/s of the burst at depth `depth`; `None` where the source has none.
    """

    id: str
    model: str
    quant: str
    bytes_per_token: float
    backend: str = "cpu"
    runtime: str = "llama.cpp"
    threads: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    depth: int = 0
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    parameters: float | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One line of a gates table: `decode_tokens_per_s = { min = 50 }`. Exactly one of `min` and `max` is set."""

    metric: str
    min: float | None = None
    max: float | None = None
    level: Level = "required"
    min_basis: Basis | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A dated exception with a reason; printed in the verdict. `until` is an ISO date, the last day it holds."""

    metric: str
    until: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The gates a verdict is judged by, with the hash that the verdict carries."""

    gates: tuple[Gate, ...]
    waivers: tuple[Waiver, ...] = ()
    origin: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A target profile. A `class` profile stands for a population; its `members` are judged one by one."""

    name: str
    title: str
    tier: Literal["class", "device"]
    device_class: str
    population: str = ""
    members: tuple[str, ...] = ()
    soc: str = ""
    os: str = ""
    isa: str
    """Architecture and features that decide which tensors repack: `arm64+dotprod+i8mm`, `x86_64+avx2`."""
    ram_bytes: Sourced
    process_share: Sourced
    """The fraction of RAM one foreground process may hold before the OS kills it."""
    bandwidth_bytes_per_s: Sourced | None = None
    """Theoretical DRAM bandwidth."""
    read_bandwidth_bytes_per_s: Sourced | None = None
    """Measured read bandwidth, where someone published one."""
    clusters: tuple[Cluster, ...] = ()
    battery_wh: Sourced | None = None
    battery_usable: Sourced | None = None
    """The part of the nominal Wh that inference may use: health, temperature, reserve."""
    idle_power_w: Sourced | None = None
    sustained_power_w: Sourced | None = None
    sustained_speed: Sourced | None = None
    """Speed after ten minutes ÷ burst speed."""
    reference_student: str = ""
    settings: Settings = Settings()
    memory_metric: Literal["working_set", "unevictable"] = "working_set"
    anchors: tuple[Anchor, ...] = ()
    gates: Gates
    source: str = ""
    """Who says the SoC, cores, clusters, ISA and OS."""
    origin: str
    sha256: str


# ---- measured here ------------------------------------------------------------------------------------------------


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


# ---- computed for a device ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBreakdown:
    """Predicted memory of an artifact under `settings` on `isa`, in bytes; nothing was run.

    `weights` are the loaded weight bytes as stored, `repacked` the private copy in the kernels' layout, `dormant` the
    mapped source pages of repacked tensors (resident at first, never read again).
    """

    kind: Literal["memory"] = "memory"
    version: Literal[1] = 1
    isa: str
    settings: Settings
    weights_bytes: int
    repacked_bytes: int
    dormant_bytes: int
    kv_bytes: int
    compute_bytes: int
    """What generation touches of the compute buffer; llama.cpp reserves `reserved_bytes` more for logits of every
    prompt token, which take no memory until someone asks for them."""
    reserved_bytes: int = 0
    output_bytes: int
    runtime_bytes: int
    unevictable: Estimate
    working_set: Estimate
    resident: Estimate
    """Peak RSS, for information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthPoint:
    """Decode speed with `depth` tokens already in the KV cache."""

    depth: int
    tokens_per_s: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Speed of an artifact on a device not at hand. `method` says in a sentence how; `anchors` names the runs behind
    it.
    """

    kind: Literal["projection"] = "projection"
    version: Literal[1] = 1
    device: str
    bytes_per_token: float
    decode: Figure
    """tok/s of burst `tg128` at depth 0."""
    prefill: Figure
    """tok/s of `pp512`."""
    sustained: Figure
    """Decode tok/s after ten minutes."""
    depths: tuple[DepthPoint, ...] = ()
    bandwidth_bound: Figure
    """tok/s no kernel can exceed: theoretical bandwidth ÷ bytes per token."""
    method: str = ""
    anchors: tuple[str, ...] = ()
    devices_behind: int = 0
    calibrated: bool = False
    """False with fewer than five devices behind it, or two of its kernel family: it cannot pass a gate alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """Continuous use on one charge, with the speed and power it is stated at."""

    hours: Figure
    at_tokens_per_s: Figure
    power_w: Figure
    joules_per_token: Figure
    usable_wh: Figure


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a plan may take; every limit given must hold. `memory_bytes` is memory at run time, high end of its
    predicted range; `bits_per_weight` counts every tensor of the file.
    """

    memory_bytes: float | None = None
    file_bytes: float | None = None
    bits_per_weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """A tensor and the type it shall take; `kld` is its share of the plan's KLD, in nats per token."""

    name: str
    type: str
    size_bytes: int
    kld: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOn:
    """What a plan comes to on one device: memory by its own metric against the limit, and decode speed."""

    device: str
    memory: Estimate
    limit_bytes: float
    decode: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """A type for every tensor that can be quantized, the best for a budget by measured sensitivities.

    `kld` is the sum of the parts, `kld_joint` the plan measured as a whole. `used` is the share of the limit that
    `binding` names; `reason` says why no more of it is used.
    """

    kind: Literal["plan"] = "plan"
    version: Literal[1] = 1
    source_sha256: str
    imatrix_sha256: str = ""
    text_sha256: str = ""
    budget: Budget
    device: str = ""
    min_decode: float = 0.0
    tensors: tuple[PlannedTensor, ...]
    size_bytes: int
    """Of all tensors, those that stay as they are included."""
    bits_per_weight: float
    kld: Figure
    kld_joint: Figure = Unknown(reason="not measured")
    on: tuple[PlannedOn, ...] = ()
    binding: Literal["memory", "file", "bits", "speed", "types", ""] = ""
    used: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """One plan on the front of quality, size and speed: no other point is better in all of them."""

    label: str
    plan: QuantPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything known of the artifact on one device that needs no run there."""

    device: str
    device_title: str
    device_sha256: str
    settings: Settings
    memory: MemoryBreakdown | Unknown
    projection: Projection | Unknown
    battery: Battery | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verdict is judged on. `cases` holds one entry per device judged (a class: one per anchored device)."""

    kind: Literal["evidence"] = "evidence"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    artifact: Artifact
    cases: tuple[Case, ...]
    measurement: Measurement | None = None
    quality: Quality | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate, judged. `margin`: how far the value clears (+) or misses (−) the limit, as a fraction of it."""

    metric: str
    title: str
    unit: str
    operating_point: str
    level: Level
    min: float | None
    max: float | None
    figure: Figure
    status: Status
    reason: str
    margin: float | None = None
    physics: str = ""
    """The physical limit with its arithmetic, e.g. bandwidth ÷ bytes per token."""
    remedy: str = ""
    """What change would pass, in words with figures; for unknown checks what would settle it."""
    waiver: Waiver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one device. For a class, `members` holds a verdict per anchored device and `checks` is empty."""

    kind: Literal["verdict"] = "verdict"
    version: Literal[1] = 1
    device: str
    device_title: str
    status: Status
    reason: str
    checks: tuple[Check, ...] = ()
    members: tuple[Verdict, ...] = ()
    population: str = ""
    gates_sha256: str
    gates_origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The release gate report: what was found and how it was judged."""

    kind: Literal["report"] = "report"
    version: Literal[1] = 1
    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One precision of a sweep: its artifact, and its report (quality among the evidence) on the sweep's device.

    `failed` says why there is none: a target that could not be made, or a run that broke.
    """

    target: str
    """As asked: `gguf:q4_k_m`, `onnx:int4`, `gguf:f16`."""
    artifact: Artifact | None = None
    report: Report | None = None
    failed: Unknown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One checkpoint at several precisions, each judged for one device, and which of them to ship."""

    kind: Literal["sweep"] = "sweep"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    source: str
    source_sha256: str
    device: str
    device_title: str
    rows: tuple[SweepRow, ...]
    front: tuple[ParetoPoint, ...] = ()
    recommended: str = ""
    """A target of `rows`; empty where none can be recommended."""
    reason: str
