"""Types for a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.numbers import Estimate, Figure, Unknown


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
