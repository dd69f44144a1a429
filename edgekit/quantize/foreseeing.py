"""What making a target will write and take, said before anything is made (`edgekit quantize --dry-run`)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.memory.tensors import retyped
from edgekit.quantize.targets import Target
from edgekit.quantize.workshop import BASE_TYPE, Making, Source, place_of
from edgekit.records import Estimate, TensorInfo

NEED_MATRIX = ("iq1", "iq2", "q2_k_s")
"""llama.cpp refuses these without an importance matrix (`tensor_requires_imatrix` of `src/llama-quant.cpp`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intention:
    """One target: where it goes, its size, and what making it takes where that is known. Sizes in bytes."""

    target: str
    place: str
    exists: bool
    size_bytes: int
    disk_bytes: int
    """At the most while it is made, intermediates that stay included."""
    memory: Estimate | None = None
    time_s: Estimate | None = None
    notes: tuple[str, ...] = ()


def foresee(source: Source, target: Target, folder: Path, making: Making) -> Intention:
    """What `workshop.make_target` would do. Reads headers only; raises EdgekitError as it would for what they tell."""
    place = place_of(source, target, folder)
    if target.format == "onnx":
        return _foresee_onnx(source, target, place, making)
    if target.plain:
        size = _base_bytes(source, target.type)
        return Intention(target=str(target), place=str(place), exists=place.exists(), size_bytes=size, disk_bytes=size)
    size = _quantized_bytes(source, target, making)
    base = 0 if source.header else _base_bytes(source, BASE_TYPE)
    return Intention(
        target=str(target),
        place=str(place),
        exists=place.exists(),
        size_bytes=size,
        disk_bytes=size + base,
        notes=(f"the {BASE_TYPE} GGUF it is quantized from stays beside it",) if base else (),
    )


def _foresee_onnx(source: Source, target: Target, place: Path, making: Making) -> Intention:
    from edgekit.quantize.onnx import plan_export, read_source
    from edgekit.quantize.workshop import onnx_options, require_checkpoint

    checkpoint = require_checkpoint(source)
    plan = plan_export(
        read_source(checkpoint.path, exporter=making.exporter), target.type, making.exporter, onnx_options(making)
    )
    return Intention(
        target=str(target),
        place=str(place),
        exists=place.exists(),
        size_bytes=plan.out_bytes,
        disk_bytes=plan.disk_bytes,
        memory=plan.memory,
        time_s=plan.time_s,
        notes=plan.notes,
    )


def _base_bytes(source: Source, kind: str) -> int:
    """Tensors of the full-precision GGUF in `kind`."""
    if source.header is not None:
        return sum(retyped(tensor, kind).size_bytes for tensor in source.header.tensors)
    from edgekit.quantize.convert.plan import plan_tensors
    from edgekit.quantize.convert.settings import read_model

    assert source.checkpoint is not None
    planned = plan_tensors(source.checkpoint, read_model(source.checkpoint), kind)  # type: ignore[arg-type]
    return sum(tensor.size_bytes for tensor in planned)


def _quantized_bytes(source: Source, target: Target, making: Making) -> int:
    """By the quantizer's own dry run, on a file whose weights are a hole; types that it makes by an importance matrix
    alone, which there is not yet, by the type that most of their tensors get.
    """
    from edgekit.header import read_header
    from edgekit.quantize.convert import write_hollow
    from edgekit.quantize.ggml_types import FILE_TYPES, fits
    from edgekit.quantize.llama_quantize import planned_types

    with tempfile.TemporaryDirectory() as name:
        path = source.path
        if source.checkpoint is not None:
            path = write_hollow(source.checkpoint, Path(name) / "hollow.gguf")
        tensors: tuple[TensorInfo, ...] = read_header(path).tensors
        if target.type.startswith(NEED_MATRIX):
            kind = FILE_TYPES[target.type]
            wide = [len(tensor.shape) > 1 and fits(kind, tensor.shape[0]) for tensor in tensors]
            types = {t.name: kind if one else t.type for t, one in zip(tensors, wide, strict=True)}
        else:
            types = dict(
                planned_types(
                    path,
                    target.type,
                    imatrix=making.imatrix,
                    tensor_types=making.tensor_types,
                    output_type=making.output_type,
                    embedding_type=making.embedding_type,
                    pure=making.pure,
                )
            )
    return sum(retyped(tensor, types[tensor.name]).size_bytes for tensor in tensors)
