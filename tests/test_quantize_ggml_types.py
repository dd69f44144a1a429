"""The tables of llama.cpp's types, and the door to ggml's row functions."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.quantize.ggml_types import (
    FILE_TYPES,
    FTYPE_NUMBERS,
    NEED_IMATRIX,
    PLAIN,
    TENSOR_TYPES,
    check_file_type,
    check_tensor_type,
    dequantize_rows,
    quantize_rows,
    row_bytes,
)

RNG = np.random.default_rng(1)
WEIGHTS = RNG.normal(0, 0.02, (6, 512)).astype(np.float32)
IMPORTANCE = RNG.uniform(0.1, 3, 512).astype(np.float32)
WITH_ZEROS = np.where(np.arange(512) % 3 == 0, 0, IMPORTANCE).astype(np.float32)


SLOW_TABLES = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_s")
"""ggml builds lattices of up to 2048 points when such a type is first asked for: seconds each, once a process."""

KINDS = [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW_TABLES else []) for kind in TENSOR_TYPES]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quantized_comes_back_near(kind: str) -> None:
    data = quantize_rows(WEIGHTS, kind, IMPORTANCE)
    assert len(data) == 6 * row_bytes(kind, 512)
    back = dequantize_rows(data, kind, (6, 512))
    relative = float(((back - WEIGHTS) ** 2).mean() / (WEIGHTS**2).mean())
    bits = 8 * BLOCK[kind][1] / BLOCK[kind][0]
    if kind in PLAIN:
        assert relative < 1e-5
    else:  # no code beats the rate–distortion bound of a Gaussian, 2^(-2·bits); none of these is far above it
        assert 4**-bits <= relative <= 16 * 4**-bits


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0"])
def test_without_importance_the_bytes_are_those_of_the_reference_library(kind: str) -> None:
    """gguf-py has its own quantizers of these types (a second implementation, bit for bit the same)."""
    expected = gguf.quants.quantize(WEIGHTS, gguf.GGMLQuantizationType[kind.upper()]).tobytes()
    assert quantize_rows(WEIGHTS, kind) == expected


UNKNOWN_TO_THE_REFERENCE = ("q1_0", "q2_0", "nvfp4", "f32", "f16")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0] not in UNKNOWN_TO_THE_REFERENCE])
def test_dequantizing_agrees_with_the_reference_library(kind: str) -> None:
    data = quantize_rows(WEIGHTS, kind, IMPORTANCE)
    raw = np.frombuffer(data, np.uint8).reshape(6, -1)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind.upper()])
    np.testing.assert_allclose(dequantize_rows(data, kind, (6, 512)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["q4_k", "q6_k", "iq4_xs", "q4_0", "q5_1"])
def test_importance_lowers_the_weighted_error(kind: str) -> None:
    importance = np.where(np.arange(512) % 8 == 0, 50, 0.1).astype(np.float32)

    def weighted(data: bytes) -> float:
        error = dequantize_rows(data, kind, (6, 512)) - WEIGHTS
        return float((error**2 * importance).sum())

    assert weighted(quantize_rows(WEIGHTS, kind, importance)) < 0.9 * weighted(quantize_rows(WEIGHTS, kind))


@pytest.mark.parametrize("kind", ["iq3_xxs", "iq4_xs", "q4_k"])
def test_threads_give_the_same_bytes(kind: str) -> None:
    """The first call of an iq type builds tables: threads must not see them half built."""
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: quantize_rows(WEIGHTS, kind, IMPORTANCE), range(8)))
    assert set(together) == {quantize_rows(WEIGHTS, kind, IMPORTANCE)}


@pytest.mark.parametrize("kind", ["q4_k", "iq4_xs", "iq3_xxs", "q4_0"])
def test_columns_without_importance_do_no_harm(kind: str) -> None:
    back = dequantize_rows(quantize_rows(WEIGHTS, kind, WITH_ZEROS), kind, (6, 512))
    assert np.isfinite(back).all()
    zeros = np.zeros_like(WEIGHTS)
    assert not dequantize_rows(quantize_rows(zeros, kind, np.zeros(512, np.float32)), kind, (6, 512)).any()


def _with(value: float) -> np.ndarray:
    weights = WEIGHTS.copy()
    weights[2, 7] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "kind", "importance", "words"),
    [
        (_with(float("nan")), "q4_k", None, "not finite"),
        (_with(float("-inf")), "q8_0", None, "not finite"),
        (_with(1e38), "q8_0", None, "too large"),
        (WEIGHTS[:, :500], "q4_k", None, "no whole number"),
        (WEIGHTS[:0], "q4_k", None, "two dimensions"),
        (WEIGHTS[0], "q4_k", None, "two dimensions"),
        (WEIGHTS, "iq2_xxs", None, "needs an importance matrix"),
        (WEIGHTS, "q4_k", IMPORTANCE[:256], "does not fit"),
        (WEIGHTS, "q4_k", -IMPORTANCE, "not negative"),
        (WEIGHTS, "q4_k", IMPORTANCE * np.float32("nan"), "finite"),
        (WEIGHTS, "q9_z", None, "unknown tensor type"),
        (WEIGHTS, "q8_k", None, "unknown tensor type"),
    ],
)
def test_what_ggml_would_abort_on_is_refused(
    weights: np.ndarray, kind: str, importance: np.ndarray | None, words: str
) -> None:
    with pytest.raises(EdgekitError, match=words):
        quantize_rows(weights, kind, importance)


@pytest.mark.parametrize(("size", "shape"), [(18, (1, 64)), (36, (1, 32)), (0, (0, 32)), (18, (2, 16))])
def test_bytes_of_another_length_are_refused(size: int, shape: tuple[int, int]) -> None:
    with pytest.raises(EdgekitError):
        dequantize_rows(bytes(size), "q4_0", shape)


def test_types_that_need_importance_are_those_of_ggml() -> None:
    from edgekit.quantize.ggml_types import _library

    requires = _library().ggml_quantize_requires_imatrix
    requires.restype = ctypes.c_bool
    wanted = {name for name, number in TENSOR_TYPES.items() if requires(number)}
    assert wanted == set(NEED_IMATRIX)


def test_the_numbers_are_those_of_llama_cpp() -> None:
    import llama_cpp.llama_cpp as c

    from edgekit.quantize.ggml_types import _library

    for name, number in TENSOR_TYPES.items():
        assert _library().ggml_get_type_traits(number).contents.type_name.decode().lower() == name
    by_number = {
        value: key.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_").lower()
        for key, value in vars(c).items()
        if key.startswith("LLAMA_FTYPE_") and isinstance(value, int)
    }
    assert set(FTYPE_NUMBERS) == set(FILE_TYPES)
    for name, number in FTYPE_NUMBERS.items():
        assert by_number[number] == name
    assert set(FILE_TYPES.values()) <= set(TENSOR_TYPES)


def test_names_are_taken_as_llama_quantize_takes_them() -> None:
    assert check_file_type("Q4_K_M") == "q4_k_m"
    assert check_file_type("q4_k") == "q4_k_m"
    assert check_tensor_type("Q4_K") == "q4_k"
    with pytest.raises(EdgekitError) as caught:
        check_file_type("q4_km")
    assert "did you mean `q4_k_m`" in caught.value.hint


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.quantize import ggml_types

    ggml_types._library.cache_clear()
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setattr(ggml_types, "find_spec", lambda name: None)
    with pytest.raises(EdgekitError, match="not installed"):
        quantize_rows(WEIGHTS, "q4_0")
    ggml_types._library.cache_clear()
