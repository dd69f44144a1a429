"""Checkpoints of some kilobytes written by hand, for tests of what is refused: no torch, no training."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 260,
}


def byte_letters() -> list[str]:
    """GPT-2's letters for the 256 bytes, in byte order (`bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """A byte-level BPE tokenizer with four merges and an end token, as Qwen's tokenizer.json is laid out."""
    merges = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"]]
    pieces = [*byte_letters(), *("".join(pair) for pair in merges)]
    end = {"id": 260, "content": "<|end|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [end],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def weights(config: Mapping[str, Any] = CONFIG, seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Random weights in the names and shapes of transformers' qwen3."""
    generator = np.random.default_rng(seed)
    hidden, ffn, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = dim * config["num_attention_heads"], dim * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        for part, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (dim,),
            "self_attn.k_norm": (dim,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }.items():
            shapes[f"model.layers.{layer}.{part}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {name: generator.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors(tensors: Mapping[str, np.ndarray[Any, Any]], header: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file; `header` takes the place of the honest one."""
    kinds = {"f4": "F32", "f2": "F16", "u2": "BF16", "i4": "I32"}
    made: dict[str, Any] = {}
    at = 0
    for name, value in tensors.items():
        extent = [at, at + value.nbytes]
        made[name] = {"dtype": kinds[value.dtype.str[1:]], "shape": list(value.shape), "data_offsets": extent}
        at += value.nbytes
    text = json.dumps(made if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(value.tobytes() for value in tensors.values())


def write_checkpoint(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    tokens: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """A whole checkpoint in `folder`; `config` adds to or (with `None`) takes from the usual one."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in {**CONFIG, **(config or {})}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer() if tokens is None else tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config or {"eos_token": "<|end|>"}))
    tensors = weights() if tensors is None else tensors
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return folder
    placed: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for index, key in enumerate(tensors) if index % shards == number}
        (folder / name).write_bytes(safetensors(part))
        placed |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder
