"""Quantizing a small hand-made graph: the operators compute what the blocks stand for, in every layout."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import EdgekitError
from edgekit.quantize.onnx import blocks
from edgekit.quantize.onnx.graph import quantize_graph

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

VOCABULARY = 96


def recipe(bits: int, *, method: str = "rtn", block_size: int = 32) -> dict[str, object]:
    return {"bits": bits, "head_bits": 8, "block_size": block_size, "method": method, "threads": 1}


def write_graph(
    folder: Path, hidden: int, *, head_transposed: bool = False, head: bool = True
) -> dict[str, np.ndarray]:
    """logits = (table[input_ids] @ body) @ table.T as an exporter writes it; its weights."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(3)
    table = random.standard_normal((VOCABULARY, hidden)).astype(np.float32)
    body = (random.standard_normal((hidden, hidden)) / np.sqrt(hidden)).astype(np.float32)
    weights = {"table": table, "body": body}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], "embed"),
        helper.make_node("MatMul", ["x", "body"], ["y"], "body_product"),
    ]
    if not head:
        nodes.append(helper.make_node("Transpose", ["y"], ["table_t"], "turn", perm=[0, 2, 1]))
    elif head_transposed:
        nodes.append(helper.make_node("Transpose", ["table"], ["table_t"], "turn", perm=[1, 0]))
    else:
        weights["table_t"] = np.ascontiguousarray(table.T)
    nodes.append(helper.make_node("MatMul", ["y", "table_t"], ["logits"], "head_product"))
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["batch", "length", VOCABULARY if head else "length"]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return weights


def quantized(folder: Path, out: Path, settings: dict[str, object], *, tied: bool) -> dict[str, object]:
    out.mkdir()
    return quantize_graph(
        report=lambda *_: None, model=str(folder / "model.onnx"), out=str(out), tied=tied, recipe=settings
    )


def logits_of(model: Path, ids: list[int]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": np.array([ids], np.int64)})[0][0]


def restored(weight: np.ndarray, bits: int, block_size: int = 32) -> np.ndarray:
    packed, scales = blocks.quantize_matrix(weight, bits=bits, block_size=block_size, method="rtn")
    return blocks.dequantize(packed, scales, bits=bits)[:, : len(weight)].T


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("hidden", [256, 288, 272], ids=["even blocks", "odd blocks", "half a block"])
@pytest.mark.parametrize("head_transposed", [False, True])
def test_the_graph_computes_with_the_blocks(
    tmp_path: Path, tied: bool, bits: int, hidden: int, head_transposed: bool
) -> None:
    """Odd numbers of blocks crash onnxruntime's own quantizers, and a padded block must not shift a table's rows."""
    weights = write_graph(tmp_path, hidden, head_transposed=head_transposed)
    found = quantized(tmp_path, tmp_path / "out", recipe(bits), tied=tied)
    assert found["tied_table_shared"] == (tied and hidden % 32 == 0)
    ids = [0, 5, VOCABULARY - 1, 17]
    table = restored(weights["table"].T, 8).T
    want = table[ids] @ restored(weights["body"], bits) @ table.T
    got = logits_of(tmp_path / "out" / "model.onnx", ids)
    # activations are rounded to 8 bits on the way, twice
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()
    plain = weights["table"][ids] @ weights["body"] @ weights["table"].T
    assert np.corrcoef(got.ravel(), plain.ravel())[0, 1] > 0.99


def test_a_shared_table_is_stored_once(tmp_path: Path) -> None:
    write_graph(tmp_path, 256)
    quantized(tmp_path, tmp_path / "shared", recipe(8), tied=True)
    quantized(tmp_path, tmp_path / "twice", recipe(8), tied=False)
    table = VOCABULARY * 256 * 1.125
    sizes = [(tmp_path / name / "model.onnx.data").stat().st_size for name in ("shared", "twice")]
    assert sizes[1] - sizes[0] >= table
    assert sizes[0] < 256 * 256 * 1.125 + table + 4 * 4096


def test_no_zero_points_since_they_do_not_load_with_a_tied_table(tmp_path: Path) -> None:
    write_graph(tmp_path, 256)
    quantized(tmp_path, tmp_path / "out", recipe(4), tied=True)
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    operators = {node.op_type: node for node in model.graph.node}
    assert len(operators["MatMulNBits"].input) == 3
    assert len(operators["GatherBlockQuantized"].input) == 3
    assert {node.op_type for node in model.graph.node} == {"MatMulNBits", "GatherBlockQuantized"}


def test_dynamic_integers_equal_quantize_dynamic(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_graph(tmp_path, 256)
    found = quantized(tmp_path, tmp_path / "out", recipe(0), tied=True)
    assert found["tied_table_shared"] is False
    logging.getLogger().setLevel(logging.ERROR)  # it logs at WARNING that the model was not pre-processed
    theirs = tmp_path / "theirs.onnx"
    quantize_dynamic(
        tmp_path / "model.onnx", theirs, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
    ours = onnx.load(tmp_path / "out" / "model.onnx")
    reference = onnx.load(theirs)
    tensors = [{t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (ours, reference)]
    for name in ("body_quantized", "body_scale", "body_zero_point", "table_t_quantized", "table_t_scale"):
        np.testing.assert_array_equal(tensors[0][name], tensors[1][name], err_msg=name)
    # the same products; only the table differs (8-bit blocks here, float there)
    ids = [1, 2, 3]
    got, want = logits_of(tmp_path / "out" / "model.onnx", ids), logits_of(theirs, ids)
    assert np.abs(got - want).max() < 0.04 * np.abs(want).max()


def test_a_graph_without_a_head_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path, 256, head=False)
    with pytest.raises(EdgekitError, match="no head"):
        quantized(tmp_path, tmp_path / "out", recipe(4), tied=False)
