"""Which type llama-quantize gives each tensor of a shape, and hence the file's exact bytes. Nothing is computed.

Follows `llama_tensor_get_type_impl` and `tensor_type_fallback` of llama.cpp's `src/llama-quant.cpp` (0c1e57098),
without an importance matrix; a test compares tensor by tensor with llama-quantize itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple
from difflib import get_close_matches

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.records import Header, TensorInfo
from edgekit.shapes.shape import Shape

BLOCKS = {kind: BLOCK[kind] for kind in ("f32", "f16", "q4_0", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k")}
"""The types a stand-in is written in: values and bytes of one block."""

QUANTS: dict[str, tuple[int, str]] = {
    "q4_0": (2, "q4_0"),
    "q4_k_m": (15, "q4_k"),
    "q5_k_m": (17, "q5_k"),
    "q6_k": (18, "q6_k"),
    "q8_0": (7, "q8_0"),
    "f16": (1, "f16"),
}
"""File type: its number in `llama_ftype` (`include/llama.h`) and the type most tensors get."""

_FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
GENERAL_ALIGNMENT = 32


def check_quant(quant: str) -> str:
    """`quant` in lower case. Raises EdgekitError with the nearest known one."""
    lower = quant.lower()
    if lower in QUANTS:
        return lower
    near = get_close_matches(lower, QUANTS, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    known = ", ".join(f"`{name}`" for name in QUANTS)
    raise EdgekitError(f"stand-ins are not written in this type: `{quant}`", hint=f"{hint}known types: {known}")


def plan_tensors(shape: Shape, quant: str) -> tuple[TensorInfo, ...]:
    """The tensors llama-quantize would write for `shape` as `quant`, in its order, with types and sizes in bytes."""
    quant = check_quant(quant)
    tensors = []
    for name, dims in _tensor_dims(shape):
        kind = _tensor_type(shape, quant, name, dims)
        values, size = BLOCKS[kind]
        rows = dims[1] if len(dims) == 2 else 1
        tensors.append(TensorInfo(name=name, type=kind, shape=dims, size_bytes=dims[0] // values * size * rows))
    return tuple(tensors)


def plan_header(shape: Shape, quant: str) -> Header:
    """The header a stand-in of `shape` would have, so that memory and speed can be predicted with no file at all.

    `size_bytes` is that of the tensors alone; `sha256` identifies the plan.
    """
    tensors = plan_tensors(shape, quant)
    return Header(
        architecture=shape.architecture,
        name=stand_in_name(shape),
        quant=check_quant(quant),
        sha256=hashlib.sha256(f"{astuple(shape)} {check_quant(quant)}".encode()).hexdigest(),
        size_bytes=sum(tensor.size_bytes for tensor in tensors),
        layers=shape.layers,
        hidden=shape.hidden,
        heads=(shape.heads,) * shape.layers,
        kv_heads=(shape.kv_heads,) * shape.layers,
        key_dim=shape.head_dim,
        value_dim=shape.head_dim,
        ffn=(shape.ffn,) * shape.layers,
        vocabulary=shape.vocabulary,
        context_train=shape.context_train,
        tied_embedding=shape.tied_embedding,
        stand_in=True,
        tensors=tensors,
    )


def stand_in_name(shape: Shape) -> str:
    """What `general.name` says, so that no report can take random weights for a model."""
    return f"{shape.name} (stand-in weights)"


def _tensor_dims(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions (row length first) in llama-quantize's order: outer tensors, then layers, alphabetical."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if not shape.tied_embedding:
        yield "output.weight", (shape.hidden, shape.vocabulary)
    yield "output_norm.weight", (shape.hidden,)
    yield "token_embd.weight", (shape.hidden, shape.vocabulary)
    layer: dict[str, tuple[int, ...]] = {
        "attn_k.weight": (shape.hidden, key),
        "attn_norm.weight": (shape.hidden,),
        "attn_output.weight": (query, shape.hidden),
        "attn_q.weight": (shape.hidden, query),
        "attn_v.weight": (shape.hidden, key),
        "ffn_down.weight": (shape.ffn, shape.hidden),
        "ffn_gate.weight": (shape.hidden, shape.ffn),
        "ffn_norm.weight": (shape.hidden,),
        "ffn_up.weight": (shape.hidden, shape.ffn),
    }
    if shape.architecture == "qwen2":
        layer |= {"attn_k.bias": (key,), "attn_q.bias": (query,), "attn_v.bias": (key,)}
    if shape.architecture == "qwen3":
        layer |= {"attn_k_norm.weight": (shape.head_dim,), "attn_q_norm.weight": (shape.head_dim,)}
    for index in range(shape.layers):
        for name in sorted(layer):
            yield f"blk.{index}.{name}", layer[name]


def _tensor_type(shape: Shape, quant: str, name: str, dims: tuple[int, ...]) -> str:
    if len(dims) < 2:
        return "f32"
    kind = QUANTS[quant][1]
    if kind == "f16":
        return kind
    if name == "output.weight" or (shape.tied_embedding and name == "token_embd.weight"):
        kind = "q8_0" if kind == "q8_0" else "q6_k"
    elif quant in ("q4_k_m", "q5_k_m") and name.endswith(("attn_v.weight", "ffn_down.weight")):
        if _use_more_bits(int(name.split(".")[1]), shape.layers):
            kind = "q6_k"
        elif name.endswith("attn_v.weight") and kind == "q4_k" and _is_70b(shape):
            kind = "q5_k"
    return _fitting(kind, dims[0])


def _use_more_bits(layer: int, layers: int) -> bool:
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _is_70b(shape: Shape) -> bool:
    """llama.cpp knows the 70B models by their 80 layers and gives their shared attn_v more bits."""
    grouped = shape.architecture == "llama" and shape.heads != shape.kv_heads
    return shape.layers == 80 and (grouped or shape.architecture == "qwen2")


def _fitting(kind: str, row_length: int) -> str:
    """`kind`, or what llama-quantize falls back to where a row is no whole number of blocks."""
    if row_length % BLOCKS[kind][0]:
        kind = _FALLBACK.get(kind, kind)
    return "f16" if row_length % BLOCKS[kind][0] else kind
