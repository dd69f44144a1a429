"""Floats of an ONNX model that are no numbers are found, wherever the graph keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_models import make_graph, make_weights, save_graph, write_model

from edgekit.errors import ExitCode
from edgekit.header import onnx_values
from edgekit.header.container import Unusable
from edgekit.header.onnx_values import broken_tensor
from edgekit.records import Settings
from edgekit.runtimes import WorkerDied, open_scorer

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
Place = Callable[[np.ndarray], object]  # how a tensor of the graph keeps its values


def added(folder: Path, values: np.ndarray, place: Place, *, multiplied: bool = False) -> Path:
    """The tiny model with one more tensor, as a constant that nothing uses, or as a matrix beside the head."""
    write_model(folder)
    model = make_graph(make_weights())
    model.graph.initializer.append(place(values))
    if multiplied:
        model.graph.node.append(onnx.helper.make_node("MatMul", ["added", "head"], ["unused"]))
        model.graph.node[-1].input[:] = ["head", "added"]
    onnx.save(model, folder / "model.onnx")
    return folder


def as_bytes(values: np.ndarray) -> object:
    return onnx.numpy_helper.from_array(values, "added")


def as_list(values: np.ndarray) -> object:
    """In the list of its own type; 16-bit floats stand among the whole numbers."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.helper.make_tensor("added", kind, values.shape, values.ravel().tolist())


def as_bfloat16(values: np.ndarray) -> object:
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return onnx.helper.make_tensor("added", onnx.TensorProto.BFLOAT16, values.shape, bits.tobytes(), raw=True)


def drawn(dtype: type) -> np.ndarray:
    """Ordinary values, with the largest and smallest that there are."""
    limits = np.finfo(dtype)
    values = np.random.default_rng(1).normal(0, 1, (7, 9)).astype(dtype)
    values[0, :6] = [0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_subnormal]
    return values


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("place", [as_bytes, as_list])
def test_one_value_is_enough(tmp_path: Path, dtype: type, place: Place) -> None:
    whole, nan, infinite = (drawn(dtype) for _ in range(3))
    nan[6, 8], infinite[3, 3] = np.nan, -np.inf
    assert broken_tensor(added(tmp_path / "whole", whole, place, multiplied=True)) == ""
    assert broken_tensor(added(tmp_path / "nan", nan, place)) == "added"
    assert broken_tensor(added(tmp_path / "infinite", infinite, place, multiplied=True)) == "added"
    assert broken_tensor(added(tmp_path / "mask", infinite, place)) == ""  # a constant may be


def test_half_as_many_bits_of_the_exponent(tmp_path: Path) -> None:
    values = drawn(np.float32)
    values[0, 2:4] = 3e38, -3e38
    assert broken_tensor(added(tmp_path / "whole", values, as_bfloat16)) == ""
    values[5, 5] = np.nan
    assert broken_tensor(added(tmp_path / "nan", values, as_bfloat16)) == "added"


def test_external_data_are_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks that end within a tensor."""
    monkeypatch.setattr(onnx_values, "BLOCK_BYTES", 1000)
    weights = make_weights()
    assert broken_tensor(write_model(tmp_path / "whole", weights)) == ""
    for name in ("embed", "layers.1.down"):
        sick = {key: values.copy() for key, values in weights.items()}
        sick[name][-1, -1] = np.nan
        folder = write_model(tmp_path / name, sick)
        assert broken_tensor(folder) == broken_tensor(folder / "model.onnx") == name


def test_values_in_two_ways_are_not_read(tmp_path: Path) -> None:
    def twice(values: np.ndarray) -> object:
        tensor = as_list(values)
        tensor.float_data.extend([])  # type: ignore[attr-defined]
        tensor.raw_data = values.tobytes()  # type: ignore[attr-defined]
        return tensor

    with pytest.raises(Unusable, match="`added` holds its values in a way"):
        broken_tensor(added(tmp_path / "model", drawn(np.float32), twice))


def test_such_a_model_is_not_scored(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")
    weights = make_weights()
    weights["layers.0.o"][3, 3] = np.nan
    folder = write_model(tmp_path / "sick", weights)
    save_graph(make_graph(weights), folder)
    settings = Settings(context_tokens=32, batch_tokens=32, ubatch_tokens=16, threads=1)
    with pytest.raises(WorkerDied) as caught, open_scorer(folder, None, settings, text="seven okapi", vocabulary=64):
        pass
    assert (caught.value.code, caught.value.finding.code) == (ExitCode.USAGE, "model-rejected")
    assert "a tensor holds what is no number: `layers.0.o`" in caught.value.message
