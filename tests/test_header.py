"""The bounded GGUF reader: agrees with the reference reader, and refuses hostile files with one reason."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.header.architectures import ARCHITECTURES
from edgekit.header.container import clean

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCABULARY = 2, 64, 4, 2, 16, 96, 40
CONTAINER = struct.Struct("<4sIQQ")


def tensors(architecture: str, *, tied: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes (row length first) of a small model of `architecture`."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (HIDDEN, VOCABULARY), "output_norm.weight": (HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (HIDDEN, VOCABULARY)
    for layer in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HEADS * HEAD),
            "attn_k": (HIDDEN, KV_HEADS * HEAD),
            "attn_v": (HIDDEN, KV_HEADS * HEAD),
            "attn_output": (HEADS * HEAD, HIDDEN),
            "ffn_norm": (HIDDEN,),
        }
        if architecture.endswith("moe"):
            block |= {"ffn_gate_inp": (HIDDEN, 4), "ffn_down_exps": (FFN, HIDDEN, 4)}
            block |= {"ffn_gate_exps": (HIDDEN, FFN, 4), "ffn_up_exps": (HIDDEN, FFN, 4)}
        else:
            block |= {"ffn_gate": (HIDDEN, FFN), "ffn_up": (HIDDEN, FFN), "ffn_down": (FFN, HIDDEN)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def write(
    path: Path,
    architecture: str = "qwen2",
    *,
    keys: dict[str, Any] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    split: int = 0,
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
) -> Path:
    """A model file written by the reference library. A key set to None is left out."""
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    everything: dict[str, Any] = {
        "block_count": LAYERS,
        "embedding_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "feed_forward_length": FFN,
        "context_length": 512,
    }
    if architecture.endswith("moe"):
        everything |= {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": FFN}
    for key, value in {**everything, **(keys or {})}.items():
        if value is None:
            continue
        name = key if key.startswith(("general.", "edgekit.")) else f"{architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)
    writer.add_token_list([f"token {i} é" for i in range(VOCABULARY)])
    writer.add_token_scores([0.5] * VOCABULARY)
    random_state = np.random.default_rng(1)
    for name, shape in (shapes or tensors(architecture)).items():
        values = random_state.standard_normal(shape[::-1]).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("header") / "model.gguf").read_bytes()


def refused(path: Path, content: bytes | None = None) -> str:
    """The one reason why `path` is not read; a hint always comes with it."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgekitError) as caught:
        read_header(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


# ---- agreement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "smollm3", "gemma", "qwen3moe"])
@pytest.mark.parametrize("quant", ["F32", "F16", "Q4_0", "Q8_0"])
def test_agrees_with_the_reference_reader(tmp_path: Path, architecture: str, quant: str) -> None:
    path = write(tmp_path / "m.gguf", architecture, quant=gguf.GGMLQuantizationType[quant])
    header, reference = read_header(path), gguf.GGUFReader(path)
    ours = [(one.name, one.type, one.shape, one.size_bytes) for one in header.tensors]
    theirs = [
        (one.name, one.tensor_type.name.lower(), tuple(map(int, one.shape)), int(one.n_bytes))
        for one in reference.tensors
    ]
    assert ours == theirs
    assert header.vocabulary == len(reference.fields["tokenizer.ggml.tokens"].data)
    assert header.size_bytes == path.stat().st_size
    assert (header.architecture, header.layers, header.hidden) == (architecture, LAYERS, HIDDEN)


def test_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", keys={"general.name": "A\x1b[31m\nmodel", "edgekit.stand_in": True})
    header = read_header(path)
    assert header.name == "A [31m model"
    assert header.stand_in
    assert header.tied_embedding
    assert header.heads == (HEADS,) * LAYERS
    assert header.kv_heads == (KV_HEADS,) * LAYERS
    assert (header.key_dim, header.value_dim, header.ffn, header.context_train) == (HEAD, HEAD, (FFN,) * LAYERS, 512)
    assert header.quant == "q8_0"
    assert header.sliding_window == ()


def test_untied_and_per_layer_arrays(tmp_path: Path) -> None:
    keys = {"attention.head_count_kv": [KV_HEADS] * LAYERS}
    header = read_header(write(tmp_path / "m.gguf", keys=keys, shapes=tensors("qwen2", tied=False)))
    assert not header.tied_embedding
    assert header.kv_heads == (KV_HEADS,) * LAYERS


def test_sliding_window_pattern(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "m.gguf", "gemma2", keys={"attention.sliding_window": 128}))
    assert header.sliding_window == (128, 0)
    keys = {"attention.sliding_window": 64, "attention.sliding_window_pattern": [False, True]}
    assert read_header(write(tmp_path / "n.gguf", "gemma3", keys=keys)).sliding_window == (0, 64)
    assert read_header(write(tmp_path / "o.gguf", "gemma3")).sliding_window == ()


def test_label_is_believed_only_if_tensors_bear_it_out(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "a.gguf", keys={"general.file_type": 7})).quant == "q8_0"
    assert read_header(write(tmp_path / "b.gguf", keys={"general.file_type": 15})).quant == "q8_0"


def test_shards(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", split=8)
    paths = sorted(tmp_path.glob("m-*.gguf"))
    whole = read_header(write(tmp_path / "whole.gguf"))
    header = read_header(paths[0])
    assert header.shards == len(paths) == 3
    assert header.size_bytes == sum(path.stat().st_size for path in paths)
    assert [one.name for one in header.tensors] == [one.name for one in whole.tensors]
    assert {one.shard for one in header.tensors} == {0, 1, 2}
    assert "not the first of 3 shards" in refused(paths[1])
    paths[1].rename(tmp_path / "elsewhere")
    assert "a shard is missing" in refused(paths[0])
    paths[2].rename(paths[1])
    (tmp_path / "elsewhere").rename(paths[2])
    assert "it is not shard 2 of 3" in refused(paths[0])


def test_header_hash_ignores_weights(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(model)
    (tmp_path / "b.gguf").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    assert read_header(tmp_path / "a.gguf").sha256 == read_header(tmp_path / "b.gguf").sha256


def test_version_2_is_read(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model[:4] + struct.pack("<I", 2) + model[8:])
    assert read_header(path).layers == LAYERS


# ---- refusals -----------------------------------------------------------------------------------------------------


def patched(offset: int, kind: str, value: int) -> Callable[[bytes], bytes]:
    packed = struct.pack(kind, value)
    return lambda content: content[:offset] + packed + content[offset + len(packed) :]


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    "one byte": (lambda content: content[:1], "truncated"),
    "wrong magic": (lambda content: b"GGML" + content[4:], "does not begin with"),
    "version 1": (patched(4, "<I", 1), "version 1"),
    "version 4": (patched(4, "<I", 4), "version 4"),
    "big-endian": (patched(4, ">I", 3), "big-endian"),
    "2^60 tensors": (patched(8, "<Q", 2**60), f"{2**60} tensors"),
    "2^60 keys": (patched(16, "<Q", 2**60), f"{2**60} keys"),
    "long key": (patched(24, "<Q", 2**60), "bytes of key"),
    "cut in the header": (lambda content: content[:200], "truncated inside its header"),
    "cut in the weights": (lambda content: content[:-4000], "truncated"),
    "more tensors than there are": (patched(8, "<Q", 60_000), "not a usable"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_container(tmp_path: Path, model: bytes, case: str) -> None:
    change, reason = HOSTILE[case]
    assert reason in refused(tmp_path / "m.gguf", change(model))


def test_no_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.gguf")
    assert "is a directory" in refused(tmp_path)
    assert "not a regular file" in refused(Path("/dev/null"))


def tensor_info(content: bytes, name: str) -> int:
    """Where the dimensions of tensor `name` begin."""
    return content.rindex(name.encode()) + len(name)


@pytest.mark.parametrize(
    ("at", "kind", "value", "reason"),
    [
        (0, "<I", 9, "9 dimensions"),
        (0, "<I", 0, "not a usable"),
        (4, "<Q", 2**60, "impossible"),
        (4, "<Q", 65, "impossible"),
        (20, "<I", 4, "unknown ggml type 4"),
        (20, "<I", 999, "unknown ggml type 999"),
        (24, "<Q", 2**62, "misaligned"),
        (24, "<Q", 1, "misaligned"),
        (24, "<Q", 0, "overlapping"),
    ],
)
def test_hostile_tensor(tmp_path: Path, model: bytes, at: int, kind: str, value: int, reason: str) -> None:
    place = tensor_info(model, "blk.1.attn_q.weight")
    assert reason in refused(tmp_path / "m.gguf", patched(place + at, kind, value)(model))


def test_duplicate_tensor(tmp_path: Path, model: bytes) -> None:
    twice = model.replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight")
    assert "same name" in refused(tmp_path / "m.gguf", twice)


def test_vocabulary_only(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "no tensors" in refused(path)


def test_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "mamba")
    with pytest.raises(EdgekitError, match="unknown model architecture: `mamba`") as caught:
        read_header(path)
    assert all(name in caught.value.hint for name in ARCHITECTURES)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "too few layers": ({"block_count": 1}, "no place"),
    "too many layers": ({"block_count": 3}, "missing"),
    "absurd layers": ({"block_count": 100_000}, "not a number from 1 to 512"),
    "no layers": ({"block_count": None}, "is missing"),
    "smaller hidden": ({"embedding_length": 32}, "the keys say"),
    "fewer KV heads": ({"attention.head_count_kv": 1}, "the keys say"),
    "zero KV heads": ({"attention.head_count_kv": 0}, "not a number"),
    "narrower feed-forward": ({"feed_forward_length": 32}, "the keys say"),
    "shorter heads": ({"attention.key_length": 8}, "the keys say"),
    "text for a number": ({"embedding_length": "64"}, "not a number"),
    "short array": ({"attention.head_count_kv": [2]}, "1 entries for 2 layers"),
    "experts it has not": ({"expert_count": 4, "expert_used_count": 2}, "no place"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_keys_must_agree_with_tensors(tmp_path: Path, case: str) -> None:
    keys, reason = CONTRADICTIONS[case]
    assert reason in refused(write(tmp_path / "m.gguf", keys=keys))


def test_every_prefix_is_refused(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "m.gguf"
    for size in random.Random(1).sample(range(len(model) - 4096), 60):
        refused(path, model[:size])


def test_flipped_bytes_never_trace_back_or_hang(tmp_path: Path, model: bytes) -> None:
    path, dice = tmp_path / "m.gguf", random.Random(2)
    end = tensor_info(model, "blk.1.ffn_down.weight") + 40
    for _ in range(500):
        content = bytearray(model)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(end)] = dice.randrange(256)
        path.write_bytes(content)
        began = time.monotonic()
        try:
            header = read_header(path)
        except EdgekitError:
            continue
        finally:
            assert time.monotonic() - began < 30  # a hang, not a speed
        assert header.layers == LAYERS


def test_endless_strings_end(tmp_path: Path) -> None:
    """A string array that promises millions of strings, the first of 2^64 - 1 bytes."""
    content = CONTAINER.pack(b"GGUF", 3, 1, 1) + struct.pack("<Q1sIIQQ", 1, b"k", 9, 8, 2**22, 2**64 - 1) + b"x" * 100
    assert "truncated" in refused(tmp_path / "m.gguf", content)


def test_nested_arrays_are_refused(tmp_path: Path) -> None:
    content = CONTAINER.pack(b"GGUF", 3, 1, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 9, 2**20) + b"\0" * 100
    assert "unknown value type 9" in refused(tmp_path / "m.gguf", content)


def test_clean_caps_and_strips() -> None:
    assert clean("a\x00b\u202ec\x1b]0;x\x07") == "a b c ]0;x "
    assert len(clean("x" * 1000)) == 200
