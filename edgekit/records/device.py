"""Device profiles and gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.numbers import Basis
from edgekit.records.run import Settings

Level = Literal["required", "advisory"]


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
