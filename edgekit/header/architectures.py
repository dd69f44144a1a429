"""What a GGUF header's keys mean for each model architecture that edgekit can account for.

Names, defaults and tensor shapes follow llama.cpp's loader (`src/llama-model.cpp`, `src/models/<architecture>.cpp`).
Keys and tensor shapes must agree: a header whose keys promise a smaller model than its tensors hold is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.header.container import clean, refuse
from edgekit.header.ggml import FILE_TYPES
from edgekit.records import TensorInfo

ARCHITECTURES: dict[str, tuple[int, int]] = {
    "gemma": (0, 0),
    "gemma2": (2, 4096),
    "gemma3": (6, 0),
    "llama": (0, 0),
    "phi3": (0, 0),
    "qwen2": (0, 0),
    "qwen2moe": (0, 0),
    "qwen3": (0, 0),
    "qwen3moe": (0, 0),
    "smollm3": (0, 0),
}
"""Architecture → every how many layers one attends in full (0: all do), and the window when the file names none."""

MAX_LAYERS, MAX_EXPERTS, MAX_LENGTH = 512, 512, 2**31 - 1  # `src/llama-hparams.h`

Keys = Mapping[str, Any]


def describe(keys: Keys, lengths: Mapping[str, int], tensors: Sequence[TensorInfo]) -> dict[str, Any]:
    """The architecture's part of a Header: shape fields as keyword arguments. Raises EdgekitError for an architecture
    edgekit does not know, a missing or absurd key, and tensors that contradict the keys
    (Unusable).
    """
    architecture = keys.get("general.architecture", "")
    if architecture not in ARCHITECTURES:
        raise EdgekitError(
            f"unknown model architecture: `{clean(str(architecture), 64)}`",
            hint=f"edgekit can account for {', '.join(ARCHITECTURES)}",
        )
    reader = _Keys(keys, architecture)
    layers = reader.number("block_count", high=MAX_LAYERS)
    hidden = reader.number("embedding_length")
    heads = reader.per_layer("attention.head_count", layers)
    experts = reader.number("expert_count", default=0, low=0, high=MAX_EXPERTS)
    per_head = hidden // max(heads[0], 1)
    ffn_key = "expert_feed_forward_length" if architecture.endswith("moe") else "feed_forward_length"
    vocabulary = lengths.get("tokenizer.ggml.tokens") or reader.number("vocab_size")
    fields = {
        "architecture": architecture,
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": reader.per_layer("attention.head_count_kv", layers, default=heads),
        "key_dim": reader.number("attention.key_length", default=per_head),
        "value_dim": reader.number("attention.value_length", default=per_head),
        "ffn": reader.per_layer(ffn_key, layers),
        "vocabulary": vocabulary,
        "context_train": reader.number("context_length"),
        "sliding_window": _sliding_window(reader, architecture, layers),
        "experts": experts,
        "experts_used": reader.number("expert_used_count", default=0, low=0, high=experts),
        "tied_embedding": all(tensor.name != "output.weight" for tensor in tensors),
        "quant": _quant(keys, tensors),
    }
    _check_tensors(fields, tensors)
    return fields


class _Keys:
    """Typed, bounded access to `<architecture>.*` keys."""

    def __init__(self, keys: Keys, architecture: str) -> None:
        self.keys, self.prefix = keys, architecture + "."

    def number(self, name: str, *, default: int | None = None, low: int = 1, high: int = MAX_LENGTH) -> int:
        return self._checked(name, self.keys.get(self.prefix + name, default), low, high)

    def per_layer(self, name: str, layers: int, *, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value = self.keys.get(self.prefix + name, default)
        if not isinstance(value, tuple):
            return (self._checked(name, value, 1, MAX_LENGTH),) * layers
        if len(value) != layers:
            refuse(f"`{self.prefix}{name}` has {len(value)} entries for {layers} layers")
        return tuple(self._checked(name, item, 1, MAX_LENGTH) for item in value)

    def _checked(self, name: str, value: object, low: int, high: int) -> int:
        if value is None:
            refuse(f"`{self.prefix}{name}` is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(f"`{self.prefix}{name}` is {str(value)[:40]}, not a number from {low} to {high}")
        return value


def _sliding_window(reader: _Keys, architecture: str, layers: int) -> tuple[int, ...]:
    """Window per layer, 0 = full attention (`llama_hparams::set_swa_pattern`); llama.cpp ignores phi3's window."""
    period, default_window = ARCHITECTURES[architecture]
    if not period:
        return ()
    window = reader.number("attention.sliding_window", default=default_window, low=0)
    if not window:
        return ()
    pattern = reader.keys.get(reader.prefix + "attention.sliding_window_pattern", period)
    if isinstance(pattern, tuple):
        if len(pattern) != layers:
            refuse(f"the sliding window pattern has {len(pattern)} entries for {layers} layers")
        return tuple(window if slides else 0 for slides in pattern)
    period = reader.number("attention.sliding_window_pattern", default=period, low=0)
    return tuple(window if period == 0 or layer % period < period - 1 else 0 for layer in range(layers))


def _quant(keys: Keys, tensors: Sequence[TensorInfo]) -> str:
    """The file's own label where its tensors bear it out, else the type that most weight bytes have."""
    matrices: Counter[str] = Counter()
    for tensor in tensors:
        if len(tensor.shape) > 1:
            matrices[tensor.type] += tensor.size_bytes
    number = keys.get("general.file_type")
    label = FILE_TYPES.get(number & ~1024, "") if isinstance(number, int) else ""
    family = re.sub(r"_(s|m|l|xs|xxs|moe)$", "", label)
    if label and any(name.startswith(family) for name in matrices):
        return label
    return matrices.most_common(1)[0][0] if matrices else tensors[0].type


def _check_tensors(fields: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> None:
    found: set[str] = set()
    for tensor in tensors:
        stem, _, end = tensor.name.rpartition(".")
        block, layer, suffix = _split(stem)
        shapes = _expected(fields, layer if block else 0)
        if end not in ("weight", "bias") or suffix not in shapes[block] or layer >= fields["layers"]:
            refuse(f"tensor `{tensor.name}` has no place in a {fields['architecture']} model")
        wanted = shapes[block][suffix] if end == "weight" else shapes[block][suffix][1:2]
        if wanted and tuple(tensor.shape) != wanted:
            refuse(f"tensor `{tensor.name}` is {list(tensor.shape)}, the keys say {list(wanted)}")
        found.add(stem)
    blocks = range(fields["layers"])
    wanted_names = {"token_embd", "output_norm", *(f"blk.{i}.attn_norm" for i in blocks)}
    wanted_names |= {f"blk.{i}.attn_output" for i in blocks}
    for i in blocks:
        wanted_names |= (
            {f"blk.{i}.attn_qkv"} if f"blk.{i}.attn_qkv" in found else {f"blk.{i}.attn_k", f"blk.{i}.attn_v"}
        )
        wanted_names |= {f"blk.{i}.ffn_down_exps" if fields["experts"] else f"blk.{i}.ffn_down"}
    if missing := sorted(wanted_names - found):
        refuse(f"tensor `{missing[0]}.weight` is missing")


def _split(stem: str) -> tuple[bool, int, str]:
    """`blk.3.attn_q` → (True, 3, `attn_q`); `token_embd` → (False, 0, `token_embd`)."""
    match = re.fullmatch(r"blk\.(\d{1,3})\.([a-z_]+)", stem)
    return (True, int(match[1]), match[2]) if match else (False, 0, stem)


def _expected(fields: Mapping[str, Any], layer: int) -> dict[bool, dict[str, tuple[int, ...]]]:
    """Expected weight shapes, outside and inside a block; an empty shape is not checked."""
    hidden, vocabulary, experts = fields["hidden"], fields["vocabulary"], fields["experts"]
    layer = min(layer, fields["layers"] - 1)
    ffn = fields["ffn"][layer]
    queries = fields["heads"][layer] * fields["key_dim"]
    attended = fields["heads"][layer] * fields["value_dim"]
    keys, values = (fields["kv_heads"][layer] * fields[name] for name in ("key_dim", "value_dim"))
    fused = 2 if fields["architecture"] == "phi3" else 1
    norms = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "ffn_gate_inp_shexp")
    inside: dict[str, tuple[int, ...]] = dict.fromkeys(norms, (hidden,))
    inside |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (fields["key_dim"],))
    inside |= {"attn_q": (hidden, queries), "attn_k": (hidden, keys), "attn_v": (hidden, values)}
    inside |= {"attn_qkv": (hidden, queries + keys + values), "attn_output": (attended, hidden)}
    if experts:
        inside |= dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), (hidden, ffn, experts))
        inside |= {"ffn_down_exps": (ffn, hidden, experts), "ffn_gate_inp": (hidden, experts)}
        inside |= dict.fromkeys(("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), ())
    else:
        inside |= {"ffn_gate": (hidden, ffn), "ffn_up": (hidden, ffn * fused), "ffn_down": (ffn, hidden)}
    outside: dict[str, tuple[int, ...]] = dict.fromkeys(("token_embd", "output"), (hidden, vocabulary))
    outside |= {"output_norm": (hidden,)} | dict.fromkeys(("rope_freqs", "rope_factors_long", "rope_factors_short"), ())
    return {False: outside, True: inside}
