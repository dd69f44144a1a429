"""Weights in blocks: equal to onnxruntime's own quantizers, and what the search gains."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quantize.onnx import blocks

nbits = pytest.importorskip("onnxruntime.capi._pybind_state", reason="onnxruntime is not installed")


def weights(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = (random.standard_normal((rows, columns)) * random.uniform(0.01, 2, columns)).astype(np.float32)
    values[: rows // 2, 0] = 0  # blocks of nothing
    values[:, 1] = np.abs(values[:, 1])
    return values


def reference(values: np.ndarray, bits: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """`DefaultWeightOnlyQuantizer.qbits_block_quant` of onnxruntime, symmetric."""
    rows, columns = values.shape
    count = -(-rows // block_size)
    padded = np.pad(values, ((0, count * block_size - rows), (0, 0)))
    packed = np.zeros((columns, count, block_size * bits // 8), np.uint8)
    scales = np.zeros((columns, count), np.float32)
    zeros = np.zeros((columns, (count + 8 // bits - 1) // (8 // bits)), np.uint8)
    quantize = {4: nbits.quantize_matmul_4bits, 8: nbits.quantize_matmul_8bits}[bits]
    quantize(packed, padded, scales, zeros, block_size, columns, rows, True)
    return packed, scales


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "block_size"), [(256, 32), (288, 32), (256, 128), (96, 16)])
def test_rtn_equals_onnxruntime_bit_for_bit(bits: int, rows: int, block_size: int) -> None:
    values = weights(rows, 300)
    packed, scales = blocks.quantize_matrix(values, bits=bits, block_size=block_size, method="rtn", threads=2)
    want_packed, want_scales = reference(values, bits, block_size)
    np.testing.assert_array_equal(scales, want_scales)
    np.testing.assert_array_equal(packed, want_packed)


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weights(256, 1000)
    whole = blocks.quantize_matrix(values, bits=4, block_size=32, method="search", threads=1)
    monkeypatch.setattr(blocks, "_CHUNK_BYTES", 4 * 256 * 7)
    pieces = blocks.quantize_matrix(values, bits=4, block_size=32, method="search", threads=4)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [256, 250])
def test_dequantizing_gives_the_weights_back_within_half_a_step(rows: int) -> None:
    values = weights(rows, 64)
    packed, scales = blocks.quantize_matrix(values, bits=8, block_size=32, method="rtn")
    back = blocks.dequantize(packed, scales, bits=8)[:, :rows].T
    step = np.abs(np.repeat(scales, 32, axis=1)[:, :rows].T)
    # the largest value of a block may lie at +128, which is one more than there is
    assert (np.abs(back - values) <= step * 1.001).all()
    assert np.abs(back - values).mean() < 0.3 * step.mean()


def test_search_errs_less_than_rounding() -> None:
    values = weights(512, 256)

    def error(method: str) -> float:
        packed, scales = blocks.quantize_matrix(values, bits=4, block_size=32, method=method)
        return float(np.square(blocks.dequantize(packed, scales, bits=4).T - values).mean())

    assert error("search") < 0.9 * error("rtn")


def test_columns_equal_quantize_dynamic() -> None:
    from onnxruntime.quantization.quant_utils import QuantType, compute_data_quant_params, quantize_onnx_initializer

    del QuantType, quantize_onnx_initializer
    values = weights(128, 40)
    quants, scales = blocks.quantize_columns(values)
    from onnx import TensorProto

    for column in range(40):
        zero, scale = compute_data_quant_params(values[:, column], TensorProto.INT8, True)
        assert zero == 0
        np.testing.assert_allclose(scales[column], scale, rtol=1e-6)
    assert quants.min() >= -127
    np.testing.assert_allclose(quants * scales, values, atol=scales.max() / 2)
