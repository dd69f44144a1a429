"""Which tensor of the checkpoint becomes which of the GGUF, with every name and shape checked beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from edgekit.checkpoint import Checkpoint, StoredTensor, read_rows, shown
from edgekit.checkpoint.weights import stored_type
from edgekit.errors import EdgekitError, import_extra
from edgekit.header.ggml import BLOCK
from edgekit.quantize.convert.settings import Model

Type = Literal["f32", "f16", "bf16"]
_LEFTOVERS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")
"""Buffers that old checkpoints saved and no one reads."""

_COMPARED_VALUES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A tensor of the GGUF. `shape` as torch says it; without a `source` its `values` are computed, not read.

    `rotary_rows` is the number of rows of one head where the rows of each head must be reordered for llama.cpp's
    rotary embedding, else 0; `added` goes onto every value.
    """

    name: str
    type: Type
    shape: tuple[int, ...]
    source: StoredTensor | None
    values: tuple[float, ...] = ()
    rotary_rows: int = 0
    added: float = 0.0

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * BLOCK[self.type][1]


def plan_tensors(checkpoint: Checkpoint, model: Model, to: Type) -> tuple[Planned, ...]:
    """Every tensor of the GGUF, in llama.cpp's customary order. Raises EdgekitError for a tensor that is missing,
    superfluous, of another shape than `config.json` says, or stored as anything but floats.
    """
    gguf = import_extra("gguf", extra="quantize")
    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == model.architecture)
    names = gguf.get_tensor_name_map(kind, model.layers)
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    planned = list(_computed(model))
    used = set()
    for name, shape in _expected(model):
        if name not in stored:
            _refuse(checkpoint, f"tensor `{name}` is missing")
        tensor = stored[name]
        if tensor.shape != shape:
            _refuse(checkpoint, f"tensor `{name}` is {list(tensor.shape)}, its config says {list(shape)}")
        stored_type(tensor)
        used.add(name)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        planned.append(_place(target, tensor, model, to))
    _check_leftovers(checkpoint, model, [tensor for tensor in checkpoint.tensors if tensor.name not in used])
    return tuple(planned)


def _place(target: str, tensor: StoredTensor, model: Model, to: Type) -> Planned:
    part = tensor.name.rpartition(".")[0]
    rotary = model.architecture == "llama" and part.endswith(("q_proj", "k_proj"))
    return Planned(
        name=target,
        type=to if len(tensor.shape) > 1 else "f32",  # ggml's kernels take norms and biases as float32 only
        shape=tensor.shape,
        source=tensor,
        rotary_rows=model.head_dim if rotary else 0,
        added=1.0 if model.architecture == "gemma3" and part.endswith("norm") else 0.0,
    )


def _expected(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight that transformers saves for this model."""
    yield "model.embed_tokens.weight", (model.rows, model.hidden)
    for layer in range(model.layers):
        for part, shape in _layer(model):
            yield f"model.layers.{layer}.{part}", shape
    yield "model.norm.weight", (model.hidden,)
    if not model.tied:
        yield "lm_head.weight", (model.rows, model.hidden)


def _layer(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, ffn = model.hidden, model.ffn
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    qwen2 = model.architecture == "qwen2"
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model.architecture == "gemma3":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for norm in norms:
        yield f"{norm}.weight", (hidden,)
    if model.architecture in ("qwen3", "gemma3"):
        yield "self_attn.q_norm.weight", (model.head_dim,)
        yield "self_attn.k_norm.weight", (model.head_dim,)
    for part, rows, columns, bias in (
        ("self_attn.q_proj", queries, hidden, model.attention_bias or qwen2),
        ("self_attn.k_proj", keys, hidden, model.attention_bias or qwen2),
        ("self_attn.v_proj", keys, hidden, model.attention_bias or qwen2),
        ("self_attn.o_proj", hidden, queries, model.attention_bias),
        ("mlp.gate_proj", ffn, hidden, model.mlp_bias),
        ("mlp.up_proj", ffn, hidden, model.mlp_bias),
        ("mlp.down_proj", hidden, ffn, model.mlp_bias),
    ):
        yield f"{part}.weight", (rows, columns)
        if bias:
            yield f"{part}.bias", (rows,)


def _computed(model: Model) -> Iterator[Planned]:
    """Llama 3's frequency factors (`_compute_llama3_parameters` of transformers' `modeling_rope_utils.py`): llama.cpp
    divides each rotary frequency by its factor.
    """
    if model.rope.llama3 is None:
        return
    factor, low, high, old_context = model.rope.llama3
    factors = []
    for index in range(0, model.head_dim, 2):
        wavelength = 2 * math.pi * model.rope.base ** (index / model.head_dim)
        if wavelength < old_context / high:
            factors.append(1.0)
        elif wavelength > old_context / low:
            factors.append(factor)
        else:
            smooth = (old_context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    yield Planned(name="rope_freqs.weight", type="f32", shape=(len(factors),), source=None, values=tuple(factors))


def _check_leftovers(checkpoint: Checkpoint, model: Model, others: list[StoredTensor]) -> None:
    for tensor in others:
        if tensor.name.endswith(_LEFTOVERS):
            continue
        if tensor.name == "lm_head.weight" and model.tied:
            _check_tied(checkpoint, tensor)
            continue
        _refuse(checkpoint, f"tensor `{shown(tensor.name)}` has no place in a `{model.architecture}` model")


def _check_tied(checkpoint: Checkpoint, head: StoredTensor) -> None:
    """A head that was saved although tied is left out when it is the embedding. Versions of transformers differ on
    which of two they load, so two are refused.
    """
    table = checkpoint.tensor("model.embed_tokens.weight")
    step = max(_COMPARED_VALUES // math.prod(table.shape[1:]), 1)
    same = head.shape == table.shape and head.dtype == table.dtype
    for first in range(0, table.shape[0] if same else 0, step):
        count = min(step, table.shape[0] - first)
        same = same and read_rows(head, first, count).tobytes() == read_rows(table, first, count).tobytes()
    if not same:
        _refuse(checkpoint, "`tie_word_embeddings` is true and `lm_head.weight` is not the embedding")


def _refuse(checkpoint: Checkpoint, reason: str) -> NoReturn:
    raise EdgekitError(
        f"cannot convert this model ({reason}): `{checkpoint.path}`",
        hint="edgekit writes a model only when every tensor has its place",
    )
