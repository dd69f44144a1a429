"""Stand-ins: exact type mix and size, valid blocks, a vocabulary that tokenizes, a cache that never lies."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants as gguf_quants

from edgekit import files
from edgekit.errors import EdgekitError
from edgekit.quantize.llama_quantize import planned_types
from edgekit.shapes import (
    QUANTS,
    SHAPES,
    Shape,
    cached_stand_in,
    load_shape,
    plan_header,
    plan_tensors,
    planned_bytes,
    write_stand_in,
)
from edgekit.shapes import stand_in as stand_in_module
from edgekit.shapes.blocks import random_blocks
from edgekit.shapes.gguf_header import header_bytes, padded
from edgekit.shapes.mix import BLOCKS
from edgekit.shapes.vocabulary import synthesise

TINY = SHAPES["tiny"]
ODD = {
    "qwen2-0.5b": replace(SHAPES["nano-0.6b"], architecture="qwen2", hidden=896, heads=14, kv_heads=2, head_dim=64),
    "rows-of-100": replace(TINY, hidden=100, heads=5, kv_heads=1, head_dim=20, ffn=200),
    "llama-untied": replace(TINY, architecture="llama", layers=13, tied_embedding=False),
    "80-layers": replace(TINY, architecture="llama", layers=80, heads=4, kv_heads=1),
    "80-layers-qwen2": replace(TINY, architecture="qwen2", layers=80, heads=4, kv_heads=4),
    "80-layers-qwen3": replace(TINY, layers=80),
    "one-layer": replace(TINY, layers=1),
}

# a process of its own: the binding's log callback is global, and a C abort must not end the tests;
# loads with check_tensors (ggml's own validation of every block), tokenizes, decodes without the CPU's extra buffers
LOAD = r"""
import ctypes, json, sys
import numpy as np
import llama_cpp
log = []
@llama_cpp.llama_log_callback
def keep(level, text, data):
    log.append(text.decode())
llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
params = llama_cpp.llama_model_default_params()
params.check_tensors, params.use_extra_bufts = True, False
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), params)
assert model, "".join(log)
vocab = llama_cpp.llama_model_get_vocab(model)
def tokenize(data):
    room = (llama_cpp.llama_token * (len(data) + 8))()
    return list(room[:llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, True)])
def text(tokens):
    room = (llama_cpp.llama_token * len(tokens))(*tokens)
    out = ctypes.create_string_buffer(4096)
    size = llama_cpp.llama_detokenize(vocab, room, len(tokens), out, 4096, False, True)
    return out.raw[:size].hex()
samples = [bytes.fromhex(part) for part in sys.argv[2].split(",")]
tokens = [tokenize(data) for data in samples]
settings = llama_cpp.llama_context_default_params()
settings.n_ctx, settings.n_threads, settings.n_threads_batch = 128, 2, 2
context = llama_cpp.llama_init_from_model(model, settings)
ids = (llama_cpp.llama_token * 24)(*[(7 * i) % 500 for i in range(24)])
assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, 24)) == 0
size = llama_cpp.llama_vocab_n_tokens(vocab)
logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,))
print(json.dumps({
    "tokens": tokens, "texts": [text(t) for t in tokens], "finite": bool(np.isfinite(logits).all()),
    "std": float(logits.std()), "size": size, "eos": llama_cpp.llama_vocab_eos(vocab),
    "turn": tokenize(b"<|im_end|>"), "warnings": [line for line in log if "warn" in line.lower() or "mismatch" in line],
}))
"""


def child(code: str, *arguments: object) -> Any:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sparse_f16(shape: Shape, path: Path) -> None:
    """An F16 model whose weights are a hole in the file: a dry run reads none."""
    tensors = plan_tensors(shape, "f16")
    with path.open("wb") as file:
        file.write(header_bytes(shape, "f16", tensors, synthesise(shape.vocabulary, 1)))
        file.truncate(file.tell() + sum(padded(tensor.size_bytes) for tensor in tensors))


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    with pytest.raises(EdgekitError) as caught:
        yield
    for part in parts:
        assert part in f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in caught.value.message


# ---- the type mix -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES.values(), *ODD.values()], ids=[*SHAPES, *ODD])
def test_every_tensor_has_the_type_llama_quantize_gives_it(shape: Shape, tmp_path: Path) -> None:
    sparse_f16(shape, tmp_path / "sparse.gguf")
    for quant in QUANTS:
        if quant != "f16":
            ours = tuple((tensor.name, tensor.type) for tensor in plan_tensors(shape, quant))
            assert ours == planned_types(tmp_path / "sparse.gguf", quant), quant


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_sizes_are_those_of_ggml(kind: str) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]] == BLOCKS[kind]


def test_the_planned_header_describes_the_file(tmp_path: Path) -> None:
    from edgekit.header import read_header

    for quant in QUANTS:
        real = read_header(write_stand_in(TINY, quant, tmp_path / f"{quant}.gguf"))
        plan = plan_header(TINY, quant)
        assert replace(real, sha256="", size_bytes=0, metadata=()) == replace(plan, sha256="", size_bytes=0), quant
        assert real.stand_in
        assert real.size_bytes > plan.size_bytes


# ---- the blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_length", [256, 1536, 18944])
@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind != "f32"])
def test_blocks_keep_unit_variance(kind: str, row_length: int) -> None:
    values, size = BLOCKS[kind]
    count = 400_000 // values
    data = random_blocks(kind, count, row_length, (1, 2, 3)).reshape(count, size)
    weights = gguf_quants.dequantize(data, gguf.GGMLQuantizationType[kind.upper()])
    assert np.isfinite(weights).all()
    assert math.sqrt(np.mean(weights**2) * row_length) == pytest.approx(1, abs=0.06)
    assert abs(weights.mean()) < 0.1 / math.sqrt(row_length)


@pytest.mark.parametrize(("kind", "places"), [("q4_0", [0]), ("q4_k", [0, 2]), ("q5_k", [0, 2]), ("q6_k", [208])])
def test_scales_are_normal_fp16(kind: str, places: list[int]) -> None:
    size = BLOCKS[kind][1]
    data = random_blocks(kind, 20_000, 18944, (5,)).reshape(-1, size)
    for place in places:
        scales = np.abs(data[:, place : place + 2].copy().view("<f2").astype(np.float32))
        assert np.isfinite(scales).all()
        assert scales.min() >= 2**-14, "below fp16's normal range"
        assert len(np.unique(scales)) > 100


def test_q8_0_never_holds_minus_128() -> None:
    data = random_blocks("q8_0", 50_000, 1024, (5,)).reshape(-1, 34)
    assert data[:, 2:].copy().view(np.int8).min() == -127


# ---- the file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", QUANTS)
def test_llama_cpp_loads_it_and_its_logits_are_sane(quant: str, tmp_path: Path) -> None:
    path = write_stand_in(TINY, quant, tmp_path / "tiny.gguf")
    everything = "".join(map(chr, [*range(1, 0x300), 0x4F60, 0xFFFD, 0x1F40D, 0x10FFFF]))
    texts = ["The quick brown fox, 你好 🐍!", "def f(x):\n\treturn x + 1", everything]
    found = child(LOAD, path, ",".join(text.encode().hex() for text in texts))
    assert found["texts"] == [text.encode().hex() for text in texts]
    assert found["warnings"] == []
    assert len(found["tokens"][0]) < len(texts[0].encode()), "merges apply"
    assert found["finite"]
    assert 0.7 < found["std"] < 1.4
    assert found["size"] == TINY.vocabulary
    assert found["turn"] == [found["eos"]]


def test_other_architectures_load(tmp_path: Path) -> None:
    for name in ("qwen2-0.5b", "rows-of-100", "llama-untied"):
        shape = replace(ODD[name], vocabulary=1024, layers=2)
        found = child(LOAD, write_stand_in(shape, "q4_k_m", tmp_path / f"{name}.gguf"), b"abc".hex())
        assert found["finite"], name


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = write_stand_in(TINY, "q4_k_m", tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["edgekit.stand_in"] is True
    assert fields["general.name"] == "tiny (stand-in weights)"
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert fields["qwen3.attention.head_count_kv"] == TINY.kv_heads
    assert len(fields["tokenizer.ggml.tokens"]) == TINY.vocabulary
    plan = {tensor.name: tensor for tensor in plan_tensors(TINY, "q4_k_m")}
    assert [tensor.name for tensor in reader.tensors] == list(plan)
    for tensor in reader.tensors:
        assert tensor.n_bytes == plan[tensor.name].size_bytes
        if tensor.name.endswith("norm.weight"):
            assert (tensor.data == 1).all()


def test_same_seed_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write_stand_in(TINY, "q4_0", tmp_path / "one.gguf").read_bytes()
    monkeypatch.setattr(stand_in_module, "_THREADS", 1)
    assert write_stand_in(TINY, "q4_0", tmp_path / "two.gguf").read_bytes() == one
    assert write_stand_in(TINY, "q4_0", tmp_path / "three.gguf", seed=2).read_bytes() != one


def test_tensors_of_many_pieces_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in_module, "_CHUNK_BYTES", 5000)
    matrices = tuple(tensor for tensor in plan_tensors(TINY, "q6_k") if tensor.type != "f32")
    pieces = [piece.tobytes() for piece in stand_in_module._pieces(matrices, 1)]
    assert len(set(pieces)) == len(pieces) > 500
    seen: list[tuple[float, float]] = []
    path = write_stand_in(
        TINY, "q6_k", tmp_path / "tiny.gguf", progress=lambda stage, done, total, detail="": seen.append((done, total))
    )
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == planned_bytes(TINY, "q6_k")
    header = path.stat().st_size - planned_bytes(TINY, "q6_k")
    assert 0 < header < 100_000
    assert child(LOAD, path, b"abc".hex())["finite"]


@pytest.mark.slow
def test_the_1_5b_stand_in_is_small_to_write(tmp_path: Path) -> None:
    code = (
        "import json, resource, sys\nfrom pathlib import Path\n"
        "from edgekit.shapes import load_shape, write_stand_in\n"
        "write_stand_in(load_shape('nano-1.5b'), 'q4_0', Path(sys.argv[1]))\n"
        # Linux passes a parent's ru_maxrss on to its child, and a test run's is over a gigabyte
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "if sys.platform == 'linux':\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    peak = 1024 * int(status.split('VmHWM:')[1].split()[0])\n"
        "print(peak)\n"
    )
    path = tmp_path / "nano.gguf"
    assert child(code, path) < 600e6
    header = path.stat().st_size - planned_bytes(SHAPES["nano-1.5b"], "q4_0")
    assert 5e6 < header < 7e6, "a real file's vocabulary and merges take 5.9 MB"


# ---- the vocabulary -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, 1024, 2500, 151_936, 152_064])
def test_the_vocabulary_is_a_byte_level_bpe(size: int) -> None:
    vocabulary = synthesise(size, 1)
    tokens = vocabulary.tokens
    assert len(tokens) == len(vocabulary.types) == size
    assert len(set(tokens)) == size
    known = set(tokens[:256])
    for merge, token in zip(vocabulary.merges, tokens[256:], strict=False):
        left, right = merge.split(" ")
        assert left in known
        assert right in known
        assert left + right == token
        known.add(token)
    assert tokens[vocabulary.end_of_text] == "<|endoftext|>"
    assert tokens[vocabulary.end_of_turn] == "<|im_end|>"
    if size >= 151_936:
        assert len(vocabulary.merges) == 151_387, "as Qwen's files have"
        assert vocabulary.end_of_turn == 151_645


# ---- the cache and the disk ---------------------------------------------------------------------------------------


def test_the_cache_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cached_stand_in("tiny", "Q4_0")
    assert path.parent == tmp_path / "edgekit" / "stand-ins"
    before = path.stat().st_mtime_ns
    assert cached_stand_in("tiny", "q4_0") == path
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:1000])
    assert cached_stand_in("tiny", "q4_0").stat().st_size > planned_bytes(TINY, "q4_0"), "a cut file is written anew"
    assert cached_stand_in("tiny", "q8_0") != path
    assert sorted(entry.suffix for entry in path.parent.iterdir()) == [".gguf", ".gguf"]


def test_another_shape_of_the_same_name_has_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = tmp_path / "tiny.toml"
    shape.write_text(SHAPE_TOML)
    assert cached_stand_in(str(shape), "q4_0") != cached_stand_in("tiny", "q4_0")


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "edgekit" / "stand-ins"
    folder.mkdir(parents=True)
    old, new = folder / ".old.gguf.x.partial", folder / ".new.gguf.x.partial"
    for partial in (old, new):
        partial.write_text("half")
    os.utime(old, (1, 1))
    cached_stand_in("tiny", "q4_0")
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_an_unwritable_cache_says_how_to_move_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgekit").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with refused("cannot write to the cache", "`XDG_CACHE_HOME`"):
        cached_stand_in("tiny", "q4_0")


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/are/ignored")
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert stand_in_module.cache_dir() == tmp_path / ".cache" / "edgekit" / "stand-ins"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert stand_in_module.cache_dir() == tmp_path / "Library" / "Caches" / "edgekit" / "stand-ins"


def test_no_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10**6

    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: Usage)
    with refused("not enough free space", "1 MB free"):
        write_stand_in(TINY, "q4_0", tmp_path / "sub" / "tiny.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with refused("cannot write", "file"):
        write_stand_in(TINY, "q4_0", tmp_path / "file" / "tiny.gguf")
    with refused("directory"):
        write_stand_in(TINY, "q4_0", tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "tiny.gguf"
    old.write_text("old")

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stand_in_module.os, "write", full)
    with refused("no space left", "tiny.gguf"):
        write_stand_in(TINY, "q4_0", old)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_unknown_type_names_the_nearest() -> None:
    with refused("q4_km", "did you mean `q4_k_m`", "`q6_k`"):
        plan_tensors(TINY, "q4_km")


# ---- shapes -------------------------------------------------------------------------------------------------------

SHAPE_TOML = """
architecture = "llama"
layers = 2
hidden = 512
heads = 8
kv_heads = 2
ffn = 1024
vocabulary = 2048
tied_embedding = false
"""


def test_reference_shapes_say_where_they_come_from() -> None:
    assert set(SHAPES) >= {"nano-0.6b", "nano-1.5b", "mini-3b", "mini-4b", "base-7b", "tiny"}
    assert all(shape.source for shape in SHAPES.values())


def test_parameters_are_those_of_the_published_models() -> None:
    published = {"nano-0.6b": 0.596e9, "nano-1.5b": 1.544e9, "mini-3b": 3.086e9, "mini-4b": 4.022e9, "base-7b": 7.616e9}
    for name, parameters in published.items():
        found = sum(math.prod(tensor.shape) for tensor in plan_tensors(SHAPES[name], "f16"))
        assert found == pytest.approx(parameters, rel=0.001), name


def test_a_shape_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHAPE_TOML)
    shape = load_shape(path)
    assert (shape.name, shape.title, shape.head_dim, shape.context_train) == ("mine", "mine", 64, 32768)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("layers = 2", "layres = 2"), ("`layres`", "did you mean `layers`")),
        (("layers = 2\n", ""), ("lacks a key: `layers`",)),
        (("layers = 2", "layers = -2"), ("`layers`", "`-2`")),
        (("layers = 2", "layers = 2.5"), ("`layers`", "whole")),
        (("tied_embedding = false", "tied_embedding = 0"), ("`tied_embedding`", "true or false")),
        (("ffn = 1024", 'ffn = 1024\nsource = "\\u001b[2J"'), ("`source`", "control")),
        (("layers = 2", "layers = true"), ("`layers`", "number")),
        (("layers = 2", 'layers = "2"'), ("`layers`", "number")),
        (("hidden = 512", "hidden = 513"), ("even", "`513`")),
        (("ffn = 1024", "ffn = 1023"), ("even", "`1023`")),
        (("heads = 8", "heads = 0"), ("`heads`", "`0`")),
        (("kv_heads = 2", "kv_heads = 3"), ("`kv_heads`", "divide")),
        (("vocabulary = 2048", "vocabulary = 300"), ("`vocabulary`", "512")),
        (('"llama"', '"gpt9"'), ("`architecture`", "`gpt9`")),
        (("ffn = 1024", "ffn = 1024\nhead_dim = 33"), ("`head_dim`", "`33`")),
        (("ffn = 1024", "ffn = 1024\nrope_freq_base = -1.0"), ("`rope_freq_base`", "-1")),
        (("ffn = 1024", "ffn = 1024\nrms_epsilon = nan"), ("`rms_epsilon`", "finite")),
        (("ffn = 1024", 'ffn = 1024\nname = "../../x"'), ("`name`", "../../x")),
        (('"llama"', '"qwen2"\nhead_dim = 128'), ("`hidden`", "`1024`")),
        (("layers = 2", "layers = "), ("TOML", "bad.toml")),
    ],
)
def test_bad_shapes_are_refused_by_key(change: tuple[str, str], parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(SHAPE_TOML.replace(*change, 1))
    with refused(*parts):
        load_shape(path)


def test_unknown_and_unreadable_shapes(tmp_path: Path) -> None:
    with refused("`nano-1.6b`", "did you mean `nano-1.5b`", "mini-3b"):
        load_shape("nano-1.6b")
    with refused("does not exist", "none.toml"):
        load_shape(tmp_path / "none.toml")
    with refused("is a directory"):
        (tmp_path / "dir.toml").mkdir()
        load_shape(tmp_path / "dir.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with refused("not UTF-8"):
        load_shape(tmp_path / "bytes.toml")


def test_the_plan_needs_neither_numpy_nor_the_runtime() -> None:
    code = (
        "import json, sys\nfrom edgekit.shapes import SHAPES, plan_header\nplan_header(SHAPES['tiny'], 'q4_0')\n"
        "print(json.dumps([name for name in ('numpy', 'llama_cpp', 'gguf') if name in sys.modules]))"
    )
    assert child(code) == []
