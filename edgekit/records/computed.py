"""What is computed for a device without running anything there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.numbers import Estimate, Figure
from edgekit.records.run import Settings


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
    huge_page_bytes: int = 0
    """What a kernel counts in use beyond the working set where it maps the file by huge pages, of which one byte in use
    keeps the whole: Linux, where the file system caches large folios (xfs, ext4 since 6.16)."""
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
