"""Settings searched for on this host and for a device: what was tried, what is advised, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.artifact import Artifact
from edgekit.records.comparison import Pair
from edgekit.records.measured import Finding, Host, MemoryPeak, Noise, Runtime
from edgekit.records.numbers import Estimate, Figure
from edgekit.records.run import Settings
from edgekit.records.verdict import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Settings that ran in turn with `against`. `rounds` are raw tok/s: `base` of `against`, `new` of the trial.

    `outcome` says what became of them; a trial that broke has no rounds and says how it ended.
    """

    settings: Settings
    against: Settings
    rounds: tuple[Pair, ...]
    outcome: str
    peak: MemoryPeak | None = None
    """Of the trial's process on this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedTarget:
    """The advised settings on one device. `memory` is by the device's memory metric, predicted for its instruction
    set, and so is what llama.cpp's defaults would take; `reserved` are bytes that stay allocated and untouched.
    """

    device: str
    device_title: str
    isa: str
    memory_metric: Literal["working_set", "unevictable"]
    limit: Estimate
    status: Status
    memory: Estimate
    memory_default: Estimate
    resident: Estimate
    resident_default: Estimate
    reserved_bytes: int
    reserved_default_bytes: int
    decode: Figure
    """tok/s under the advised settings; its note says at which operating point and how it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFlags:
    """The settings as a tool's own flags. `missing` says what the tool cannot be told."""

    tool: str
    text: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The best settings found for an artifact. `status` says whether they surely meet the memory limit: it is pass
    when the whole predicted range does on every device.

    `ratios` are of the advised settings ÷ llama.cpp's defaults on this host, from fresh runs after the search.
    """

    kind: Literal["tuning"] = "tuning"
    version: Literal[1] = 1
    edgekit_version: str
    artifact: Artifact
    device: str
    """Empty: this host, which no profile describes."""
    device_title: str
    device_sha256: str
    on_device: str
    host: Host
    runtime: Runtime | None
    started_at: str
    elapsed_s: float
    default: Settings
    """llama.cpp's own defaults at the same context."""
    settings: Settings | None
    """`None` where nothing meets the limit."""
    status: Status
    reason: str
    decode_ratio: Figure
    prefill_ratio: Figure
    kv_kld: Figure
    """Mean KL divergence in nats from the same file with an f16 cache; 0 where the cache is f16."""
    costs: tuple[str, ...]
    """What the advised settings cost the user against the defaults, in words."""
    targets: tuple[TunedTarget, ...]
    flags: tuple[ToolFlags, ...]
    points: int
    """Of the whole grid, and how many of them meet the limit: none of the others was run."""
    feasible: int
    trials: tuple[Trial, ...]
    confirming: tuple[Pair, ...]
    noise: Noise | None = None
    findings: tuple[Finding, ...] = ()
