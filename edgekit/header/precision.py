"""Whether a model file holds full precision: asked of its matrices, since a label names only most of them."""

from __future__ import annotations

from edgekit.records import Header

FULL_PRECISION = ("f64", "f32", "f16", "bf16", "fp32", "fp16")
"""Types of floats: ggml's, and how `Header.quant` calls ONNX models of them."""

_INDICES = ("i64", "i32", "i16")
"""Types that weights are not quantized to: an ONNX graph looks positions up in tables of them."""


def quantized_types(header: Header) -> tuple[str, ...]:
    """The types of the matrices that are no floats, those with the most bytes first; empty of a full-precision build.
    In an ONNX graph, where names and shapes tell nothing, of what is multiplied with or looked up.
    """
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        weights = tensor.role in ("matrix", "table") if header.format == "onnx" else len(tensor.shape) > 1
        if weights and tensor.type not in (*FULL_PRECISION, *_INDICES):
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size_bytes
    return tuple(sorted(sizes, key=sizes.__getitem__, reverse=True))


def is_full_precision(header: Header) -> bool:
    """Whether its label and every matrix say floats; a header without tensors says nothing."""
    return header.quant in FULL_PRECISION and bool(header.tensors) and not quantized_types(header)


def stored_as(header: Header) -> str:
    """`Header.quant`, and where that promises floats and not every matrix is of them the type that most of the others
    have.
    """
    quantized = quantized_types(header)
    return quantized[0] if header.quant in FULL_PRECISION and quantized else header.quant
