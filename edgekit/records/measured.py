"""What was measured on this host: speed, memory and energy, and the circumstances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.run import Workload
from edgekit.records.state import DeviceState


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
    doubts: tuple[str, ...] = ()
    """What spoke against timing when it began, or was seen during it: heat, a capped clock, a charger."""


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
    huge_mapped_bytes: int | None = None
    """Bytes of the model file that were mapped by huge pages: their part of the working set is counted by 2 MB."""
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    hwm_bytes: int | None = None
    swap_bytes: int | None = None
    read_bytes_per_token: float | None = None
    """Bytes fetched from disk per decoded token: a thrashing model re-reads its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """What held the workers' memory down (`--limit-memory`). `scope` is a control group of systemd's, `group` one that
    edgekit itself was in, `rlimit` is RLIMIT_DATA. Only where `mapped` is true do mapped weights count, too.
    """

    limit_bytes: int
    means: Literal["scope", "group", "rlimit"]
    mapped: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """A counter's reading over a phase. `scope` says what the counter sees; scopes are never pooled."""

    scope: Literal["package", "rail", "board", "wall", "device"]
    counter: str
    test: str
    joules: float
    elapsed_s: float
    tokens: int
    error: float = 0.0
    """Half-width of its range as a fraction of `joules`, where the counter's steps tell one; 0 where they do not."""
    how: str = ""
    """Which of a battery's own figures it came from."""


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
    states: tuple[DeviceState, ...] = ()
    """The machine before repetitions, and during those that edgekit does not time itself."""
    memory_limit: MemoryLimit | None = None
    noise: Noise | None = None
    findings: tuple[Finding, ...] = ()
    on_device: str = ""
    """Name of the profile this host *is* (`--on-device`): basis becomes `measured`. Empty otherwise."""
    imported_from: str = ""
    """The tool that timed it (`llama-bench`, `PocketPal`) where edgekit's own loop did not. Its memory is of a context
    of its own. Where `host` tells no ISA, that it ran on `on_device` is the word of who imported it.
    """
