"""What a tensor in a type costs on a device: memory by the profile's metric, and time by its projection.

A class of devices is every one of its members at once: a plan for it must hold on each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.devices import class_members
from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.memory import largest_within, memory_budget, predict_memory, streamed_bytes
from edgekit.memory.tensors import Metric, memory_cost, retyped
from edgekit.projection import project_to
from edgekit.records import Device, Estimate, Figure, Header, MemoryBreakdown, Settings, TensorInfo, Unknown
from edgekit.units import format_bytes

BASE_FILE_TYPES = {
    "q2_k": "q2_k", "q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q6_k": "q6_k", "q8_0": "q8_0",
    "iq2_xs": "iq2_xs", "iq2_s": "iq2_m", "iq3_xxs": "iq3_xxs", "iq3_s": "iq3_s", "iq4_xs": "iq4_xs",
}  # fmt: skip
"""Tensor type → the file type that is mostly of it, where their names differ or could be taken for another."""

NUDGE = 0.01
"""Part of the streamed bytes by which one type is raised to see what it costs in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device (or a bare instruction set) that a plan must fit: settings, and the limit on its memory in bytes."""

    name: str
    isa: str
    settings: Settings
    limit_bytes: float
    unevictable: bool = False
    device: Device | None = None
    held_bytes: float = 0.0
    """Kept free for what no sum over tensors tells: huge pages hold what lies between tensors that are read."""

    def memory(self, header: Header) -> Estimate:
        """Predicted memory by the device's own metric."""
        os = self.device.os if self.device is not None else None
        memory: MemoryBreakdown = predict_memory(header, self.settings, self.isa, os=os)
        return memory.unevictable if self.unevictable else memory.working_set

    def excess(self, header: Header) -> float:
        """Bytes by which the high end of the range is over the limit; negative where it is within."""
        return self.memory(header).high - self.limit_bytes

    def cost(self, tensor: TensorInfo, header: Header) -> int:
        """Bytes by which `tensor` raises it."""
        metric: Metric = "unevictable" if self.unevictable else "working_set"
        return memory_cost(tensor, header, self.settings, self.isa, metric)

    def room(self, header: Header) -> int:
        """Bytes that the tensors of `header` may cost together for the high end of the range to be within the limit."""
        fixed = round(self.memory(header).value) - sum(self.cost(tensor, header) for tensor in header.tensors)
        return largest_within(self.limit_bytes - self.held_bytes, self.isa) - fixed

    def decode(self, header: Header) -> Figure:
        """Projected tok/s of burst decode."""
        if self.device is None:
            return Unknown(reason="no device named, so no speed is projected", settle="add `--for smartphone`")
        return project_to(self.device, header, self.settings).decode


def places_of(device: Device | None, memory_bytes: float | None, settings: Settings | None, isa: str) -> list[Place]:
    """Where a plan must fit: every member of a class, the device, or the bare `isa`; empty where neither is given.

    `memory_bytes` replaces the devices' own limit, `settings` their judged configuration.
    Raises EdgekitError for a limit on memory without anything that says how memory is used.
    """
    if device is not None:
        return [
            Place(
                name=one.name,
                isa=one.isa,
                settings=settings or one.settings,
                limit_bytes=memory_budget(one).low if memory_bytes is None else memory_bytes,
                unevictable=one.memory_metric == "unevictable",
                device=one,
            )
            for one in class_members(device) or (device,)
        ]
    if memory_bytes is None:
        return []
    if not isa:
        raise EdgekitError(
            f"memory at run time depends on the device: `{format_bytes(memory_bytes)}`",
            hint="name it with `--for smartphone`, or limit the file with `--bpw 4.5`",
        )
    return [Place(name=isa, isa=isa, settings=settings or Settings(), limit_bytes=memory_bytes)]


# ---- headers of plans -----------------------------------------------------------------------------------------------


def planned_header(header: Header, types: Mapping[str, str]) -> Header:
    """`header` with the tensors named in `types` as those types, labelled as `base_file_type` would have it."""
    tensors = tuple(
        retyped(tensor, types[tensor.name]) if tensor.name in types else tensor for tensor in header.tensors
    )
    grown = sum(new.size_bytes - old.size_bytes for new, old in zip(tensors, header.tensors, strict=True))
    return replace(header, tensors=tensors, size_bytes=header.size_bytes + grown, quant=base_file_type(tensors))


def base_file_type(tensors: Sequence[TensorInfo]) -> str:
    """The file type to name to the quantizer: that of the quantized type with most bytes, `f16` where none is.

    llama.cpp applies types per tensor only to files whose own type is quantized (`llama_tensor_get_type`).
    """
    weights: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) > 1 and BLOCK[tensor.type][0] > 1:
            weights[tensor.type] = weights.get(tensor.type, 0) + math.prod(tensor.shape)
    if not weights:
        return "f16"
    commonest = max(weights, key=lambda kind: weights[kind])
    return BASE_FILE_TYPES.get(commonest, commonest)


# ---- speed ----------------------------------------------------------------------------------------------------------


def offered_types(places: Sequence[Place], header: Header, names: Sequence[str], types: Sequence[str]) -> list[str]:
    """Those of `types` with which every device's speed can be projected well enough to pass a gate.

    Judged by a model wholly of that type. Where a device's speed cannot be projected in any type, as with no runs and
    no bandwidth known, it has no say.
    """
    offered = list(types)
    for place in places:
        known = [kind for kind in types if _projects(place, header, names, kind)]
        if known:
            offered = [kind for kind in offered if kind in known]
    return offered


def _projects(place: Place, header: Header, names: Sequence[str], kind: str) -> bool:
    if place.device is None:
        return False
    block = BLOCK[kind][0]
    fitting = {
        tensor.name: kind for tensor in header.tensors if tensor.name in set(names) and tensor.shape[0] % block == 0
    }
    if not fitting:
        return False
    projection = project_to(place.device, planned_header(header, fitting), place.settings)
    return isinstance(projection.decode, Estimate) and projection.calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCut:
    """A linear bound on time: Σ seconds per byte[type] · streamed bytes[type] ≤ `most_s`."""

    place: str
    seconds_per_byte: Mapping[str, float]
    most_s: float


def time_cut(place: Place, header: Header, types: Sequence[str], min_decode: float) -> TimeCut:
    """The time a token takes (at the low end of the projected speed), linearised at `header`'s types.

    Slopes are taken by streaming a little more of each type. Raises EdgekitError where the projection refuses.
    """
    by_type = dict(streamed_bytes(header))
    seconds = _slowest_s(place, header)
    slopes = {}
    for kind in types:
        values, size_bytes = BLOCK[kind]
        rows = max(1, round(NUDGE * sum(by_type.values()) / (size_bytes * 8)))
        extra = TensorInfo(
            name="blk.0.extra.weight", type=kind, shape=(values * 8, rows), size_bytes=size_bytes * 8 * rows
        )
        nudged = replace(header, tensors=(*header.tensors, extra), size_bytes=header.size_bytes + extra.size_bytes)
        slopes[kind] = (_slowest_s(place, nudged) - seconds) / extra.size_bytes
    at_rest = seconds - sum(slopes.get(kind, 0.0) * size for kind, size in by_type.items())
    return TimeCut(place=place.name, seconds_per_byte=slopes, most_s=1 / min_decode - at_rest)


def _slowest_s(place: Place, header: Header) -> float:
    decode = place.decode(header)
    if isinstance(decode, Unknown):
        raise EdgekitError(
            f"no speed can be promised on `{place.name}` ({decode.reason})", hint=decode.settle or "drop `--min-decode`"
        )
    return 1 / decode.low if decode.low > 0 else math.inf
