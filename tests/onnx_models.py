"""A whole tiny decoder as an ONNX folder, written node by node: no exporter, no torch, milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 2, 32, 2, 1, 16, 256
"""`CONTEXT` is the default number of positions; `make_weights` takes another."""
Weights = dict[str, NDArray[np.float32]]


def make_weights(vocabulary: int = 64, ffn: int = 96, hidden: int = HIDDEN, context: int = CONTEXT) -> Weights:
    """Random weights, large enough that logits differ from token to token."""
    draw = np.random.default_rng(7)
    shapes = {"embed": (vocabulary, hidden), "head": (hidden, vocabulary)}
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.q": (hidden, HEADS * HEAD_DIM),
            f"layers.{layer}.k": (hidden, KV_HEADS * HEAD_DIM),
            f"layers.{layer}.v": (hidden, KV_HEADS * HEAD_DIM),
            f"layers.{layer}.o": (HEADS * HEAD_DIM, hidden),
            f"layers.{layer}.up": (hidden, ffn),
            f"layers.{layer}.down": (ffn, hidden),
        }
    weights = {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    angles = np.arange(context)[:, None] / 10000.0 ** (np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)
    return weights | {"cos_cache": np.cos(angles).astype(np.float32), "sin_cache": np.sin(angles).astype(np.float32)}


def make_graph(weights: Weights, *, last_only: bool = False) -> Any:
    """The `ModelProto`, weights inside."""
    helper, kinds = onnx.helper, onnx.TensorProto
    vocabulary = weights["embed"].shape[0]
    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "input_ids"], ["h0"]),
        node("ReduceSum", ["attention_mask", "one"], ["length"], keepdims=0),
        node("Sub", ["length", "one"], ["before"]),
        node("Cast", ["before"], ["seqlens"], to=kinds.INT32),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "index"], ["total_long"], axis=0),
        node("Cast", ["total_long"], ["total"], to=kinds.INT32),
    ]
    cache = ["b", KV_HEADS, "past", HEAD_DIM]
    inputs = [helper.make_tensor_value_info(name, kinds.INT64, ["b", "s"]) for name in ("input_ids", "attention_mask")]
    rows = [1] if last_only else ["s"]
    outputs = [helper.make_tensor_value_info("logits", kinds.FLOAT, ["b", *rows, vocabulary])]
    for layer in range(LAYERS):
        name = f"layers.{layer}."
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        inputs += [helper.make_tensor_value_info(port, kinds.FLOAT, cache) for port in past]
        outputs += [helper.make_tensor_value_info(port, kinds.FLOAT, cache) for port in present]
        nodes += [node("MatMul", [f"h{layer}", name + part], [name + part + ".out"]) for part in "qkv"]
        nodes += [
            node(
                "GroupQueryAttention",
                [*(f"{name}{part}.out" for part in "qkv"), *past, "seqlens", "total", "cos_cache", "sin_cache"],
                [name + "mixed", *present],
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                do_rotary=1,
            ),
            node("MatMul", [name + "mixed", name + "o"], [name + "o.out"]),
            node("Add", [f"h{layer}", name + "o.out"], [name + "h"]),
            node("MatMul", [name + "h", name + "up"], [name + "up.out"]),
            node("Relu", [name + "up.out"], [name + "act"]),
            node("MatMul", [name + "act", name + "down"], [name + "down.out"]),
            node("Add", [name + "h", name + "down.out"], [f"h{layer + 1}"]),
        ]
    final = f"h{LAYERS}"
    if last_only:
        nodes += [node("Gather", [final, "last"], ["h_last"], axis=1)]
        final = "h_last"
    nodes += [node("MatMul", [final, "head"], ["logits"])]
    constants = {"one": np.array([1]), "index": np.array(1), "last": np.array([-1])} | weights
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tests")


def write_model(folder: Path, weights: Weights | None = None, *, shared: bool = True, last_only: bool = False) -> Path:
    """The folder as an exporter leaves it: graph, external data, configuration and tokenizer."""
    weights = weights or make_weights()
    folder.mkdir(parents=True, exist_ok=True)
    save_graph(make_graph(weights, last_only=last_only), folder)
    (folder / "genai_config.json").write_text(json.dumps(genai_config(weights, shared=shared)))
    (folder / "config.json").write_text(json.dumps(config(weights)))
    write_tokenizer(folder)
    return folder


def save_graph(model: Any, folder: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).unlink(missing_ok=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=64)


def genai_config(weights: Weights, *, shared: bool = True) -> dict[str, Any]:
    decoder = {
        "filename": "model.onnx",
        "head_size": HEAD_DIM,
        "hidden_size": weights["embed"].shape[1],
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
    }
    model = {
        "bos_token_id": 1,
        "context_length": len(weights["cos_cache"]),
        "decoder": decoder,
        "type": "llama",
        "vocab_size": weights["embed"].shape[0],
    }
    return {"model": model, "search": {"past_present_share_buffer": shared}}


def config(weights: Weights) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": weights["embed"].shape[1],
        "intermediate_size": weights["layers.0.up"].shape[1],
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": weights["embed"].shape[0],
        "max_position_embeddings": len(weights["cos_cache"]),
        "tie_word_embeddings": False,
    }


def write_tokenizer(folder: Path) -> None:
    """Letters as tokens, `<s>` in front of every text."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    words = {"<unk>": 0, "<s>": 1} | {letter: 2 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz <>")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "bos_token": "<s>"}))


def reference_logits(weights: Weights, tokens: list[int]) -> NDArray[np.float64]:
    """What the graph computes, in float64 and without a cache: (tokens, vocabulary)."""
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    count = len(tokens)
    cos, sin = wide["cos_cache"][:count, None], wide["sin_cache"][:count, None]

    def turned(vectors: NDArray[np.float64], heads: int) -> NDArray[np.float64]:
        first, second = np.split(vectors.reshape(count, heads, HEAD_DIM), 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    hidden = wide["embed"][tokens]
    hides = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(LAYERS):
        part = {name: wide[f"layers.{layer}.{name}"] for name in ("q", "k", "v", "o", "up", "down")}
        queries, keys = turned(hidden @ part["q"], HEADS), turned(hidden @ part["k"], KV_HEADS)
        values = (hidden @ part["v"]).reshape(count, KV_HEADS, HEAD_DIM)
        scores = np.einsum("qhd,kd->hqk", queries, keys[:, 0]) / np.sqrt(HEAD_DIM) + hides
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,kd->qhd", shares / shares.sum(-1, keepdims=True), values[:, 0])
        hidden = hidden + mixed.reshape(count, -1) @ part["o"]
        hidden = hidden + np.maximum(hidden @ part["up"], 0) @ part["down"]
    return hidden @ wide["head"]
