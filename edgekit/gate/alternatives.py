"""Other builds of the same student, from its header alone: leaner settings, smaller quants, smaller students.

What is tried is predicted by the very functions that predict the judged build, so a remedy is as sure as the verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from edgekit.energy import estimate_battery
from edgekit.errors import EdgekitError
from edgekit.gate.metrics import Metric
from edgekit.gate.onsite import Subject
from edgekit.header.ggml import BLOCK
from edgekit.memory import changed_settings, leaner_settings, predict_memory
from edgekit.projection.typemix import FALLBACK, LABELS
from edgekit.records import (
    Device,
    Estimate,
    Figure,
    Gate,
    Header,
    MemoryBreakdown,
    Projection,
    Settings,
    TensorInfo,
    Unknown,
)

SMALLER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs", "q3_k_m", "q2_k")
"""Labels of llama-quantize that are tried, largest first: the first that clears costs the least quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A header and settings, and in words how they differ from the judged build."""

    words: str
    header: Header
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A build with the figure it would have."""

    build: Build
    figure: Estimate


def first_clearing(subject: Subject, metric: Metric, gate: Gate, builds: Iterator[Build]) -> Found | None:
    """The first of `builds` whose whole range clears the gate, by the judged metric itself."""
    for build in builds:
        figure = figure_of(subject, metric, build)
        if isinstance(figure, Estimate) and clears(figure, gate):
            return Found(build=build, figure=figure)
    return None


def clears(figure: Estimate, gate: Gate) -> bool:
    """The rule of a pass: the whole range on the right side."""
    return (gate.min is None or figure.low >= gate.min) and (gate.max is None or figure.high <= gate.max)


def figure_of(subject: Subject, metric: Metric, build: Build) -> Figure:
    """The judged metric of another build, nothing measured; unknown where the projection could not pass alone."""
    gone = Unknown(reason="not needed here")
    memory: MemoryBreakdown | Unknown = gone
    projection: Projection | Unknown = gone
    if metric.about == "memory":
        memory = _predict(subject.device, build)
    else:
        projection = _project(subject.device, build)
        if isinstance(projection, Projection) and not projection.calibrated:
            projection = Unknown(reason="uncalibrated")
    artifact = replace(subject.evidence.artifact, header=build.header, sha256="")
    return metric.function(
        Subject(
            evidence=replace(subject.evidence, artifact=artifact, measurement=None),
            case=replace(
                subject.case,
                settings=build.settings,
                memory=memory,
                projection=projection,
                battery=estimate_battery(subject.device, projection),
            ),
            device=subject.device,
        )
    )


def _predict(device: Device, build: Build) -> MemoryBreakdown | Unknown:
    try:
        return predict_memory(build.header, build.settings, device.isa, os=device.os)
    except EdgekitError as error:
        return Unknown(reason=error.message)


@lru_cache(maxsize=256)  # decode, sustained decode and battery ask about the same builds
def _project(device: Device, build: Build) -> Projection | Unknown:
    from edgekit.projection import project_to

    try:
        return project_to(device, build.header, build.settings)
    except EdgekitError as error:
        return Unknown(reason=error.message)


# ---- what is tried ------------------------------------------------------------------------------------------------


def leaner(header: Header, settings: Settings, words: str = "") -> Iterator[Build]:
    """The same file under leaner settings, the least painful first; `words` names the file where it is another."""
    for lean in leaner_settings(settings):
        changes = changed_settings(lean, settings)
        yield Build(words=" and ".join(part for part in (words, changes) if part), header=header, settings=lean)


def smaller_quants(header: Header, settings: Settings) -> Iterator[Build]:
    """The same student quantized smaller, the largest first. How another ONNX export would turn out is not planned."""
    if header.format == "onnx":
        return
    for label in SMALLER:
        smaller = requantized(header, label)
        if smaller.size_bytes < 0.99 * header.size_bytes:
            yield Build(words=f"`{label}` made from the original weights", header=smaller, settings=settings)


def smaller_students(header: Header, settings: Settings) -> Iterator[Build]:
    """Reference students with fewer bytes, in the present quantization where stand-ins have it, largest first."""
    from edgekit.shapes.mix import QUANTS, plan_header  # reaches numpy: only once a check needs a remedy
    from edgekit.shapes.shape import SHAPES

    quant = header.quant if header.quant in QUANTS else "q4_0"
    planned = [(name, plan_header(shape, quant)) for name, shape in SHAPES.items() if name != "tiny"]
    for name, smaller in sorted(planned, key=lambda one: -one[1].size_bytes):
        if smaller.size_bytes < 0.9 * header.size_bytes:
            form = "" if header.format == "gguf" else "GGUF "
            yield Build(words=f"a `{name}` student in {form}`{quant}`", header=smaller, settings=settings)


# ---- another quantization of a header -----------------------------------------------------------------------------


def requantized(header: Header, label: str) -> Header:
    """`header` as llama-quantize would write it as `label`: the output matrix and part of the ffn_down and attn_v
    tensors take larger types (`edgekit.projection.typemix`).
    """
    tensors = tuple(_retyped(tensor, label, header) for tensor in header.tensors)
    saved = sum(old.size_bytes - new.size_bytes for old, new in zip(header.tensors, tensors, strict=True))
    return replace(header, quant=label, tensors=tensors, size_bytes=header.size_bytes - saved)


def _retyped(tensor: TensorInfo, label: str, header: Header) -> TensorInfo:
    if len(tensor.shape) < 2 or tensor.type == "f32" or "norm" in tensor.name:
        return tensor  # norms, biases, routers: never quantized
    kind = _type_for(tensor, label, header)
    if tensor.shape[0] % 256 and BLOCK[kind][0] == 256:
        kind = FALLBACK.get(kind, kind)
    per_block, block_bytes = BLOCK[kind]
    if tensor.shape[0] % per_block:
        return tensor
    return replace(tensor, type=kind, size_bytes=math.prod(tensor.shape) // per_block * block_bytes)


def _type_for(tensor: TensorInfo, label: str, header: Header) -> str:
    recipe = LABELS[label]
    if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and header.tied_embedding):
        return recipe.output
    block = re.match(r"blk\.(\d+)\.", tensor.name)
    place = (int(block[1]) + 0.5) / header.layers if block and header.layers else 1.0
    if "ffn_down" in tensor.name and place < recipe.down_share:
        return recipe.down
    if "attn_v" in tensor.name and place < recipe.value_share:
        return recipe.value
    return recipe.main
