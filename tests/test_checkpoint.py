"""Opening checkpoints: what a whole one says, and that no stranger's file gets further than its header."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import safetensors, weights, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.checkpoint import float32, hash_checkpoint, open_checkpoint, read_rows, read_tensor
from edgekit.checkpoint.safetensors import read_safetensors_header
from edgekit.errors import EdgekitError, ExitCode

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "sharded", shards=3)


def refusal(path: Path) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        open_checkpoint(path)
    error = caught.value
    assert error.code == ExitCode.USAGE
    assert error.hint
    assert "\n" not in error.message
    assert error.message[0].islower()
    assert not error.message.endswith(".")
    return error


def edit_index(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


def test_opens(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.architecture == "qwen3"
    assert checkpoint.config["hidden_size"] == 64
    assert checkpoint.tokenizer == "tokenizer.json"
    assert {tensor.name: tensor.shape for tensor in checkpoint.tensors} == {
        name: value.shape for name, value in weights().items()
    }
    assert checkpoint.size_bytes == sum(value.nbytes for value in weights().values())


def test_reads_tensors(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for name, value in weights().items():
        np.testing.assert_array_equal(read_tensor(checkpoint, name), value)
    tensor = checkpoint.tensor("lm_head.weight")
    np.testing.assert_array_equal(read_rows(tensor, 7, 30), weights()["lm_head.weight"][7:37])
    norm = checkpoint.tensor("model.norm.weight")
    np.testing.assert_array_equal(read_rows(norm, 5, 9), weights()["model.norm.weight"][5:14])
    assert not read_tensor(checkpoint, "model.norm.weight").flags.writeable
    with pytest.raises(EdgekitError, match="no tensor `nonsense`"):
        read_tensor(checkpoint, "nonsense")


def test_shards_are_one_checkpoint(folder: Path, sharded: Path) -> None:
    one, many = open_checkpoint(folder), open_checkpoint(sharded)
    assert len(many.shards) == 3
    for name in weights():
        np.testing.assert_array_equal(read_tensor(one, name), read_tensor(many, name))


def test_agrees_with_the_safetensors_library(sharded: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    checkpoint = open_checkpoint(sharded)
    theirs = {name: value for shard in checkpoint.shards for name, value in library.load_file(shard).items()}
    assert sorted(theirs) == sorted(tensor.name for tensor in checkpoint.tensors)
    for name, value in theirs.items():
        np.testing.assert_array_equal(read_tensor(checkpoint, name), value)


def test_bfloat16_widens_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625, 0.0, 1e-30], np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "bf16", tensors={"x": stored}))
    assert checkpoint.tensor("x").dtype == "BF16"
    back = float32(read_tensor(checkpoint, "x"), "BF16")
    np.testing.assert_array_equal(back, (stored.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_array_equal(back[:4], values[:4])


def test_hashes(folder: Path) -> None:
    before = open_checkpoint(folder)
    full = hash_checkpoint(before)
    shard = folder / "model.safetensors"
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    parts = [(folder / name).read_bytes() for name in names]
    covered = b"".join(f"{name} {len(part)}\n".encode() + part for name, part in zip(names, parts, strict=True))
    assert full == hashlib.sha256(covered).hexdigest()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    after = open_checkpoint(folder)
    assert after.sha256 == before.sha256  # headers only
    assert hash_checkpoint(after) != full
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert open_checkpoint(folder).sha256 != before.sha256


# ---- refused -----------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere").message
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refusal(tmp_path / "file").message


def test_a_path_that_the_system_refuses() -> None:
    assert "file name too long" in refusal(Path("x" * 5000)).message


def test_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "lacks `config.json`" in refusal(folder).message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("[1]", "not a JSON table"),
        ("{}", "no `model_type`"),
        ('{"model_type": 7}', "no `model_type`"),
        ('{"model_type": "a", "model_type": "b"}', "twice"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ('{"model_type": "qwen3", "name": "\\ud800"}', "not valid JSON"),
    ],
)
def test_broken_config(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert says in refusal(folder).message


def test_pickled_weights(folder: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "owned"),)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    error = refusal(folder)
    assert "pytorch_model.bin" in error.message
    assert "convert to safetensors" in error.hint
    assert not (folder / "owned").exists()


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder).message


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in refusal(sharded).message


def test_index_names_an_absent_file(sharded: Path) -> None:
    edit_index(sharded, lambda placed: placed.update({"model.norm.weight": "model-00009-of-00003.safetensors"}))
    assert "model-00009-of-00003.safetensors" in refusal(sharded).message


def test_index_names_an_absent_tensor(sharded: Path) -> None:
    edit_index(sharded, lambda placed: placed.update({"model.ghost.weight": "model-00001-of-00003.safetensors"}))
    assert "tensor `model.ghost.weight` is not in" in refusal(sharded).message


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/secret.safetensors", "a/../../secret.safetensors", "..\\secret.safetensors"],
)
def test_index_leads_out_of_the_folder(sharded: Path, name: str) -> None:
    (sharded.parent / "secret.safetensors").write_bytes(safetensors(weights()))
    edit_index(sharded, lambda placed: placed.update({"model.norm.weight": name}))
    assert "leads out of the checkpoint's folder" in refusal(sharded).message


@pytest.mark.parametrize("name", [7, None, "weights.bin", "", "x" * 300 + ".safetensors"])
def test_index_names_something_else(sharded: Path, name: Any) -> None:
    edit_index(sharded, lambda placed: placed.update({"model.norm.weight": name}))
    assert "not safetensors" in refusal(sharded).message


@pytest.mark.parametrize("text", ["", "{}", '{"weight_map": []}', '{"weight_map": {}}', "7"])
def test_broken_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    assert INDEX in refusal(sharded).message


def test_tensor_in_two_shards(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").write_bytes(
        (sharded / "model-00001-of-00003.safetensors").read_bytes()
    )
    assert "is also in" in refusal(sharded).message


def header(entries: Any) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: Any = "F32", shape: Any = (2, 2), extent: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": extent}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "seven bytes": (b"\1" * 7, "claims"),
    "length beyond the file": (struct.pack("<Q", 2**40) + b"{}", "claims"),
    "length of all ones": (b"\xff" * 8 + b"{}", "claims"),
    "not JSON": (header(b"{" * 50), "not valid JSON"),
    "not UTF-8": (header(b"\xff\xfe\xfd"), "not valid JSON"),
    "deep JSON": (header(b"[" * 200_000), "not valid JSON"),
    "a list": (header([1, 2]), "not a table"),
    "a name twice": (header(b'{"x": 1, "x": 2}'), "not valid JSON"),
    "no entry": (header({"x": 1}), "not described"),
    "unknown type": (header({"x": entry("F3")}) + bytes(16), "unknown type"),
    "type is a list": (header({"x": entry(["F32"])}) + bytes(16), "unknown type"),
    "negative size": (header({"x": entry(shape=(-2, -2))}) + bytes(16), "impossible shape"),
    "size is true": (header({"x": entry(shape=(True, 4))}) + bytes(16), "impossible shape"),
    "huge size": (header({"x": entry(shape=(2**40, 2**40))}) + bytes(16), "impossible shape"),
    "too many dimensions": (header({"x": entry(shape=[1] * 99)}) + bytes(16), "impossible shape"),
    "no extent": (header({"x": {"dtype": "F32", "shape": [4]}}) + bytes(16), "data_offsets"),
    "extent of three": (header({"x": entry(extent=(0, 8, 16))}) + bytes(16), "data_offsets"),
    "extent backwards": (header({"x": entry(extent=(16, 0))}) + bytes(16), "needs 16 bytes and has -16"),
    "extent too short": (header({"x": entry(extent=(0, 8))}) + bytes(8), "needs 16 bytes and has 8"),
    "overlap": (header({"x": entry(), "y": entry(extent=(8, 24))}) + bytes(24), "overlaps"),
    "hole": (header({"x": entry(extent=(16, 32))}) + bytes(32), "overlaps or leaves a hole"),
    "truncated": (header({"x": entry()}) + bytes(15), "truncated"),
    "bytes behind": (header({"x": entry()}) + bytes(17), "end at byte"),
    "no tensors": (header({}), "no tensors"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_weights(folder: Path, case: str) -> None:
    data, says = HOSTILE[case]
    (folder / "model.safetensors").write_bytes(data)
    assert says in refusal(folder).message


def test_names_are_printed_harmlessly(folder: Path) -> None:
    name = "\x1b[2J`" + "x" * 400
    (folder / "model.safetensors").write_bytes(header({name: entry("NONE")}))
    message = refusal(folder).message
    assert "\x1b" not in message
    assert len(message) < 400


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), at=st.integers(0, 2000))
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    """Any bytes anywhere in a file: either every extent is sound, or an EdgekitError says why not."""
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    honest = bytearray(safetensors(dict(list(weights().items())[:3])))
    honest[at : at + len(data)] = data
    path.write_bytes(honest)
    try:
        tensors, _ = read_safetensors_header(path)
    except EdgekitError:
        return
    size = path.stat().st_size
    assert all(0 < tensor.begin <= tensor.end <= size for tensor in tensors)


def test_a_file_that_shrinks_is_told(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 2000)
    tensor = checkpoint.tensor("lm_head.weight")
    with pytest.raises(EdgekitError, match="shrank"):
        read_rows(tensor, 0, tensor.shape[0])
