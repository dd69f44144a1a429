"""What a file's matrices say of its precision, whatever its label promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gate_records as r
import pytest

from edgekit.header.precision import is_full_precision, quantized_types, stored_as
from edgekit.records import Header, TensorInfo


def header(quant: str, *types: str, role: Any = "", form: Any = "gguf") -> Header:
    tensors = tuple(
        TensorInfo(name=f"blk.{n}.ffn_up.weight", type=kind, shape=(256, 64), size_bytes=100 * (n + 1), role=role)
        for n, kind in enumerate(types)
    )
    norm = TensorInfo(name="output_norm.weight", type="i8", shape=(256,), size_bytes=9)
    return replace(r.HEADER, quant=quant, tensors=(norm, *tensors) if types else (), format=form)


def test_a_label_that_the_matrices_do_not_bear_out_is_not_believed() -> None:
    mixed = header("f16", "f16", "q2_k", "q4_k")
    assert not is_full_precision(mixed)
    assert quantized_types(mixed) == ("q4_k", "q2_k")
    assert stored_as(mixed) == "q4_k"


@pytest.mark.parametrize("types", [("f16", "f32"), ("bf16",), ("f32",)])
def test_floats_are_full_precision(types: tuple[str, ...]) -> None:
    plain = header("f16", *types)
    assert is_full_precision(plain)
    assert stored_as(plain) == "f16"


def test_a_quantized_label_or_no_tensors_are_not() -> None:
    assert not is_full_precision(header("q4_0", "f16"))
    assert stored_as(header("q4_0", "f16", "q4_0")) == "q4_0"
    assert not is_full_precision(header("f16"))


def test_an_onnx_graph_looks_positions_up_in_integers() -> None:
    graph = header("fp16", "f16", "i64", role="table", form="onnx")
    assert is_full_precision(graph)
    assert not is_full_precision(header("fp32", "f32", "i8", role="matrix", form="onnx"))
    # constants of shapes are no weights
    assert is_full_precision(header("fp32", "f32", role="matrix", form="onnx"))
