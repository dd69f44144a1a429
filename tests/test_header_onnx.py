"""Headers of ONNX folders: what is read, and what hostile graphs, configurations and data files are refused for."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import CONTEXT, LAYERS, genai_config, make_graph, make_weights, save_graph, write_model

from edgekit.bench import hash_artifact
from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.header.onnx_folder import folder_files
from edgekit.memory import predict_memory, streamed_bytes
from edgekit.records import Settings

SETTINGS = Settings(context_tokens=CONTEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "student"))


def refused(path: Path) -> str:
    with pytest.raises(EdgekitError) as caught:
        read_header(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def edit_graph(folder: Path, change: Callable[[Any], None]) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def edit_json(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    for table in (content, content.get("model", {}), content.get("model", {}).get("decoder", {})):
        table.update({key: value for key, value in changes.items() if key in table})
    file.write_text(json.dumps(content))


def tensor(graph: Any, name: str) -> Any:
    return next(one for one in graph.initializer if one.name == name)


def place(graph: Any, name: str, key: str, value: str) -> None:
    next(entry for entry in tensor(graph, name).external_data if entry.key == key).value = value


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_the_shape(folder: Path) -> None:
    header = read_header(folder)
    assert (header.format, header.architecture, header.name, header.quant) == ("onnx", "llama", "student", "fp32")
    assert (header.layers, header.hidden, header.heads, header.kv_heads) == (LAYERS, 32, (2, 2), (1, 1))
    assert (header.key_dim, header.ffn, header.vocabulary, header.context_train) == (16, (96, 96), 64, CONTEXT)
    assert not header.tied_embedding
    assert header.size_bytes == sum(file.stat().st_size for file in folder.iterdir())
    facts = dict(header.metadata)
    assert (facts["onnx.kv_type"], facts["onnx.kv_shared"], facts["onnx.logits_rows"]) == ("f32", "true", "all")
    assert read_header(folder / "model.onnx") == header


def test_tensors_are_those_that_onnx_reads(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    found = {one.name: one for one in read_header(folder).tensors}
    assert set(found) == {one.name for one in graph.initializer}
    for one in graph.initializer:
        values = onnx.numpy_helper.to_array(one)
        assert found[one.name].size_bytes == values.nbytes
        assert sorted(found[one.name].shape) == sorted(values.shape)
    assert found["layers.0.down"].shape == (96, 32)  # rows of 96, multiplied with the activations
    assert found["embed"].shape == (32, 64)
    roles = {name: one.role for name, one in found.items()}
    assert roles["layers.0.q"] == roles["head"] == "matrix"
    assert roles["embed"] == roles["cos_cache"] == "table"


def test_a_token_streams_matrices_and_no_tables(folder: Path) -> None:
    header = read_header(folder)
    tables = {"embed", "cos_cache", "sin_cache"}
    wanted = sum(one.size_bytes for one in header.tensors if one.name not in tables)
    assert sum(size_bytes for _, size_bytes in streamed_bytes(header)) == wanted


def test_weights_inside_the_graph_are_stepped_over(folder: Path, copy: Path) -> None:
    (copy / "model.onnx.data").unlink()
    onnx.save(make_graph(make_weights()), copy / "model.onnx")
    assert read_header(copy).tensors == read_header(folder).tensors


def test_block_quantized_matrices_show_what_they_hold(copy: Path) -> None:
    weights = make_weights()

    def quantize(graph: Any) -> None:
        """`layers.0.up` (32 × 96) as 4-bit blocks of 32, all zero."""
        graph.initializer.remove(tensor(graph, "layers.0.up"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((96, 1, 16), np.uint8), "layers.0.up.Q4"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((96, 1), np.float32), "layers.0.up.scales"))
        node = next(one for one in graph.node if "layers.0.up" in one.input)
        node.op_type, node.domain = "MatMulNBits", "com.microsoft"
        node.input[:] = ["layers.0.h", "layers.0.up.Q4", "layers.0.up.scales"]
        numbers = {"K": 32, "N": 96, "bits": 4, "block_size": 32, "accuracy_level": 4}
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in numbers.items())

    model = make_graph(weights)
    quantize(model.graph)
    save_graph(model, copy)
    header = read_header(copy)
    found = {one.name: one for one in header.tensors}
    assert (found["layers.0.up.Q4"].type, found["layers.0.up.Q4"].shape) == ("int4", (32, 96))
    assert (found["layers.0.up.Q4"].role, found["layers.0.up.scales"].role) == ("matrix", "scale")
    assert dict(header.metadata)["onnx.accuracy_level"] == "4"
    edit_graph(copy, lambda graph: _set_number(graph, "N", 97))
    assert "takes 1536 bytes and its shape asks for 1552" in refused(copy)
    edit_graph(copy, lambda graph: _set_number(graph, "N", 2**40))
    assert "4 bits in blocks of 32" in refused(copy)


def _set_number(graph: Any, name: str, value: int) -> None:
    node = next(one for one in graph.node if one.op_type == "MatMulNBits")
    next(one for one in node.attribute if one.name == name).i = value


def test_either_configuration_is_enough(copy: Path) -> None:
    header = read_header(copy)
    (copy / "genai_config.json").unlink()
    plain = read_header(copy)
    assert (plain.layers, plain.kv_heads, plain.ffn) == (header.layers, header.kv_heads, header.ffn)
    assert dict(plain.metadata)["onnx.kv_shared"] == "false"
    (copy / "genai_config.json").write_text(json.dumps(genai_config(make_weights())))
    (copy / "config.json").unlink()
    assert read_header(copy).ffn == header.ffn  # from the matrices


def test_sliding_windows(copy: Path) -> None:
    edit_json(copy / "genai_config.json", search={})
    content = json.loads((copy / "genai_config.json").read_text())
    content["model"]["decoder"]["sliding_window"] = {"window_size": 64, "layers": [1]}
    (copy / "genai_config.json").write_text(json.dumps(content))
    assert read_header(copy).sliding_window == (0, 64)


def test_a_folder_named_for_its_precision_takes_its_parents_name(folder: Path, tmp_path: Path) -> None:
    assert read_header(Path(shutil.copytree(folder, tmp_path / "gecko" / "int4"))).name == "gecko"


def test_the_hash_is_sha256sums_of_its_own_lines(copy: Path) -> None:
    (copy / ".cache").mkdir()
    (copy / ".cache" / "note").write_text("not the model's")
    artifact = hash_artifact(copy, read_header(copy))
    names = sorted(file.name for file in copy.iterdir() if not file.name.startswith("."))
    assert [file.name for file in folder_files(copy)] == names
    lines = "".join(f"{hashlib.sha256((copy / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert artifact.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (copy / "tokenizer.json").rename(copy / "tokenizer2.json")
    assert hash_artifact(copy, read_header(copy)).sha256 != artifact.sha256


# ---- what memory says of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["arm64+dotprod+i8mm", "arm64"])
def test_memory_is_unknown_where_nobody_measured(folder: Path, isa: str) -> None:
    with pytest.raises(EdgekitError, match="measured on x86-64 alone"):
        predict_memory(read_header(folder), SETTINGS, isa)


@pytest.mark.parametrize(
    "change", [{"kv_type": "q8_0"}, {"flash_attention": "off"}, {"mmap": False}, {"repack": False}], ids=str
)
def test_memory_of_settings_a_graph_cannot_follow(folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(EdgekitError, match="not predicted with"):
        predict_memory(read_header(folder), replace(SETTINGS, **change), "x86_64+avx2")


def test_memory_beyond_the_last_position(folder: Path) -> None:
    with pytest.raises(EdgekitError, match="positions for 256 tokens"):
        predict_memory(read_header(folder), replace(SETTINGS, context_tokens=257), "x86_64+avx2")


def test_memory_of_a_cache_that_is_copied_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="copied for every token"):
        predict_memory(read_header(write_model(tmp_path / "m", shared=False)), SETTINGS, "x86_64+avx2")


def test_memory_counts_cache_and_logits(folder: Path) -> None:
    header = read_header(folder)
    memory = predict_memory(header, Settings(context_tokens=128, ubatch_tokens=32), "x86_64+avx512+vnni")
    assert memory.kv_bytes == 2 * LAYERS * 128 * 16 * 4
    assert memory.output_bytes == 32 * 64 * 4
    assert memory.working_set.low < memory.working_set.value < memory.working_set.high
    assert memory.working_set.basis == "predicted"


# ---- hostile graphs -------------------------------------------------------------------------------------------------

GRAPHS: dict[str, tuple[Callable[[Any], None], str]] = {
    "data outside by dots": (lambda g: place(g, "embed", "location", "../../../etc/passwd"), "outside the folder"),
    "data outside by root": (lambda g: place(g, "embed", "location", "/etc/passwd"), "outside the folder"),
    "data outside by backslash": (lambda g: place(g, "embed", "location", "..\\secret"), "outside the folder"),
    "data file missing": (lambda g: place(g, "embed", "location", "weights.bin"), "`weights.bin` is missing"),
    "data file is a folder": (lambda g: place(g, "embed", "location", "."), "is missing"),
    "data beyond the end": (lambda g: place(g, "embed", "offset", str(2**40)), "truncated"),
    "negative offset": (lambda g: place(g, "embed", "offset", "-4"), "bad place"),
    "wordy offset": (lambda g: place(g, "embed", "offset", "9" * 60), "bad place"),
    "wrong length": (lambda g: place(g, "embed", "length", "4"), "its shape asks for"),
    "absurd dimension": (lambda g: tensor(g, "embed").dims.append(2**62), "impossible shape"),
    "negative dimension": (lambda g: tensor(g, "embed").dims.append(-1), "impossible shape"),
    "absurd product": (lambda g: tensor(g, "embed").dims.extend([2**20] * 3), "impossible shape"),
    "many dimensions": (lambda g: tensor(g, "embed").dims.extend([1] * 20), "more than 8 dimensions"),
    "unknown type": (lambda g: setattr(tensor(g, "embed"), "data_type", 99), "unknown ONNX type 99"),
    "text as weights": (lambda g: setattr(tensor(g, "embed"), "data_type", 8), "unknown ONNX type 8"),
    "two of one name": (lambda g: setattr(tensor(g, "embed"), "name", "head"), "two tensors have the name"),
    "a name that never ends": (lambda g: setattr(tensor(g, "embed"), "name", "x" * 5000), "a name of more than"),
    "no cache": (lambda g: [g.input.remove(p) for p in list(g.input) if "past" in p.name], "cannot generate text"),
    "a layer too few": (lambda g: [g.input.remove(p) for p in list(g.input) if ".1." in p.name], "keys of 1 layers"),
    "no logits": (lambda g: setattr(g.output[0], "name", "scores"), "give `logits`"),
    "sparse": (lambda g: g.sparse_initializer.add(), "sparse"),
    "no operations": (lambda g: g.ClearField("node"), "no single graph"),
    "nameless operation": (lambda g: setattr(g.node[0], "op_type", "") or g.node[0].ClearField("op_type"), "no name"),
    "inline data missing": (lambda g: _inline(g, b""), "holds 0 bytes"),
    "inline data too short": (lambda g: _inline(g, b"1234"), "holds 4 bytes"),
    "no data at all": (lambda g: tensor(g, "embed").ClearField("external_data"), "no data for its shape"),
}


def _inline(graph: Any, data: bytes) -> None:
    tensor(graph, "embed").ClearField("external_data")
    tensor(graph, "embed").data_location = 0
    tensor(graph, "embed").raw_data = data


@pytest.mark.parametrize("case", GRAPHS)
def test_hostile_graph(copy: Path, case: str) -> None:
    change, reason = GRAPHS[case]
    edit_graph(copy, change)
    assert reason in refused(copy)


def test_an_escape_sequence_in_a_name_does_not_reach_the_terminal(copy: Path) -> None:
    edit_graph(copy, lambda graph: setattr(tensor(graph, "embed"), "name", "\x1b[31mred"))
    assert "\x1b" not in "".join(one.name for one in read_header(copy).tensors)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.5, 0.99])
def test_truncated_graph(copy: Path, kept: float) -> None:
    content = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    assert refused(copy)


def test_truncated_data(copy: Path) -> None:
    content = (copy / "model.onnx.data").read_bytes()
    (copy / "model.onnx.data").write_bytes(content[:-1])
    assert "truncated" in refused(copy)


@pytest.mark.parametrize("junk", [b"\xff" * 200, b"\x0b" * 64, b"GGUF" + bytes(200), b"\x3a\xff\xff\xff\xff\x0f"])
def test_no_graph_at_all(copy: Path, junk: bytes) -> None:
    (copy / "model.onnx").write_bytes(junk)
    assert refused(copy)


def test_a_number_that_runs_over_the_end_of_its_message(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"\x3a\x01\x08\x01")  # a graph of one byte, which begins a number
    assert "a length in it is wrong" in refused(copy)


def test_flipped_bytes_never_break_the_reader(copy: Path) -> None:
    valid = (copy / "model.onnx").read_bytes()
    draw = random.Random(11)
    refusals = 0
    for _ in range(300):
        content = bytearray(valid)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (copy / "model.onnx").write_bytes(bytes(content))
        try:
            read_header(copy)
        except EdgekitError:
            refusals += 1
    assert refusals > 50


# ---- hostile configurations -----------------------------------------------------------------------------------------

CONFIGS: dict[str, tuple[str, object, str]] = {
    "layers": ("num_hidden_layers", 3, "`num_hidden_layers` 2 and"),
    "hidden": ("hidden_size", 64, "`hidden_size` 32 and"),
    "vocabulary": ("vocab_size", 65, "`vocab_size` 64 and"),
    "heads are text": ("num_attention_heads", "two", "says two"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_disagree(copy: Path, case: str) -> None:
    key, value, reason = CONFIGS[case]
    edit_json(copy / "config.json", **{key: value})
    assert reason in refused(copy)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("num_hidden_layers", 3, "keys of 2 layers and its configuration says 3"),
        ("num_key_value_heads", 2, "1 key/value heads"),
        ("vocab_size", 128, "64 tokens of vocabulary"),
        ("hidden_size", 48, "hidden size of its configuration, 48"),
        ("head_size", 32, "16 values a head"),
        ("num_hidden_layers", 0, "not a number from 1"),
        ("num_hidden_layers", 10**9, "not a number from 1"),
        ("hidden_size", True, "not a number from 1"),
        ("vocab_size", -5, "not a number from 1"),
        ("filename", "../model.onnx", "no file of this folder"),
        ("filename", "other.onnx", "`other.onnx` is missing"),
        ("filename", 5, "no file of this folder"),
        ("decoder", [], "`decoder` in the configuration is not an object"),
    ],
)
def test_configuration_against_the_graph(copy: Path, key: str, value: object, reason: str) -> None:
    (copy / "config.json").unlink()
    edit_json(copy / "genai_config.json", **{key: value})
    assert reason in refused(copy)


def test_a_feed_forward_size_that_no_matrix_has(copy: Path) -> None:
    edit_json(copy / "config.json", intermediate_size=100)
    assert "feed-forward size of its configuration, 100" in refused(copy)


def test_experts_are_not_accounted_for(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, "num_local_experts": 8}))
    assert "experts" in refused(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "nonsense", '"text"'])
def test_a_configuration_that_is_none(copy: Path, text: str) -> None:
    (copy / "genai_config.json").write_text(text)
    assert "genai_config.json" in refused(copy)


def test_missing_files(copy: Path, tmp_path: Path) -> None:
    (copy / "model.onnx.data").unlink()
    assert "`model.onnx.data` is missing" in refused(copy)
    (copy / "model.onnx").unlink()
    assert "holds no ONNX graph" in refused(copy)
    assert "no such file" in refused(tmp_path / "nothing.onnx")
    (tmp_path / "empty").mkdir()
    assert "holds no ONNX graph" in refused(tmp_path / "empty")


def test_a_checkpoint_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EdgekitError) as caught:
        read_header(tmp_path)
    assert "edgekit quantize" in caught.value.hint


def test_no_configuration_at_all(copy: Path) -> None:
    (copy / "genai_config.json").unlink()
    (copy / "config.json").unlink()
    assert "neither `genai_config.json` nor `config.json`" in refused(copy)
