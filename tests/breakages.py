"""A GGUF broken on purpose, one function for each way: what converters, quantizers and merges have really got wrong.

Every function changes an opened `Copy` of a float or q8_0 GGUF; `broken` writes it. A model so broken still loads, runs
and writes fluent text: what must find it is the quality gate. Each strength is the realistic one; where that does not
matter to a model, the docstring says from where on it does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Breakage = Callable[["Copy"], object]


class Copy:
    """The keys and tensors of a GGUF, to be changed and written elsewhere. Tensors are float32, (rows, row length), and
    go back into the type they had.
    """

    def __init__(self, source: Path) -> None:
        reader = gguf.GGUFReader(source)
        self.architecture: str = reader.fields["general.architecture"].contents()
        self.keys: dict[str, Any] = {}
        self._types: dict[str, tuple[Any, Any]] = {}
        for name, field in reader.fields.items():
            if not name.startswith("GGUF.") and name != "general.architecture":
                self.keys[name] = field.contents()
                is_array = field.types[0] == gguf.GGUFValueType.ARRAY
                self._types[name] = (field.types[0], field.types[-1] if is_array else None)
        self._tensors = {one.name: (np.array(one.data), one.tensor_type) for one in reader.tensors}

    @property
    def layers(self) -> int:
        return int(self.keys[f"{self.architecture}.block_count"])

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def __getitem__(self, name: str) -> Values:
        data, kind = self._tensors[name]
        return gguf.quants.dequantize(data, kind).astype(np.float32)

    def __setitem__(self, name: str, values: NDArray[Any]) -> None:
        kind = self._tensors[name][1]
        self._tensors[name] = gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), kind), kind

    def drop(self, name: str) -> None:
        del self._tensors[name]

    def swap(self, one: str, other: str) -> None:
        """As stored, whatever their types."""
        self._tensors[one], self._tensors[other] = self._tensors[other], self._tensors[one]

    def set_key(self, name: str, value: Any) -> None:
        """Of this architecture, with the type it had."""
        key = f"{self.architecture}.{name}"
        assert key in self.keys, key
        self.keys[key] = value

    def write(self, out: Path) -> Path:
        writer = gguf.GGUFWriter(out, self.architecture)
        for name, value in self.keys.items():
            kind, each = self._types[name]
            writer.add_key_value(name, value, kind, sub_type=each)
        for name, (data, kind) in self._tensors.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return out


def broken(source: Path, breakage: Breakage, out: Path) -> Path:
    """`out`: the GGUF at `source` after `breakage`."""
    copy = Copy(source)
    breakage(copy)
    return copy.write(out)


# ---- tensors ------------------------------------------------------------------------------------------------------


def random_tensor(copy: Copy, name: str = "blk.0.ffn_down.weight") -> None:
    """A matrix that was never loaded: as it was initialized, of the right size."""
    values = copy[name]
    copy[name] = np.random.default_rng(1).normal(0.0, values.std(), values.shape)


def noisy_tensor(copy: Copy, by: float = 1.0, name: str = "blk.0.ffn_down.weight") -> None:
    """Noise of `by` × the matrix' own spread laid over it: how far a tensor may be off before it is noticed."""
    values = copy[name]
    copy[name] = values + np.random.default_rng(1).normal(0.0, by * values.std(), values.shape)


def swapped_layers(copy: Copy) -> None:
    """Layers in another order, as a shard index sorted by text gives (`10` before `2`)."""
    for name in [name for name in copy.names if name.startswith("blk.0.")]:
        copy.swap(name, name.replace("blk.0.", f"blk.{copy.layers - 1}."))


def zeroed_norm(copy: Copy, name: str = "blk.1.ffn_norm.weight") -> None:
    """A norm that stores its distance from one (Gemma's way), read as if it stored itself: near zero."""
    copy[name] = np.zeros_like(copy[name])


def transposed(copy: Copy, name: str = "blk.1.attn_output.weight") -> None:
    """A square matrix kept as (inputs, outputs): nothing about its shape tells."""
    values = copy[name]
    assert values.shape[0] == values.shape[1], "another shape would be refused"
    copy[name] = values.T


def swapped_gate_and_up(copy: Copy) -> None:
    """A fused gate/up matrix cut in the wrong order, in every layer."""
    for layer in range(copy.layers):
        copy.swap(f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight")


def flipped_sign(copy: Copy, name: str = "blk.1.attn_output.weight") -> None:
    copy[name] = -copy[name]


def rotated_heads(copy: Copy) -> None:
    """The query heads of one layer one place on: they meet other keys, and others' part of the output matrix."""
    name = "blk.0.attn_q.weight"
    heads = int(copy.keys[f"{copy.architecture}.attention.head_count"])
    values = copy[name]
    copy[name] = np.roll(values, values.shape[0] // heads, axis=0)


def unpaired_rotation(copy: Copy) -> None:
    """Llama's queries and keys without the reordering that ggml's rotation of neighbours needs (transformers rotates
    halves): convert_hf_to_gguf's `permute`, left out. Of Llama-like models only.
    """
    for layer in range(copy.layers):
        for part, count in (("q", "head_count"), ("k", "head_count_kv")):
            name = f"blk.{layer}.attn_{part}.weight"
            values, heads = copy[name], int(copy.keys[f"{copy.architecture}.attention.{count}"])
            half = values.shape[0] // heads // 2
            copy[name] = values.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(values.shape)


def shifted_embedding(copy: Copy) -> None:
    """A token added in front of the others in one place only: every row is its neighbour's."""
    copy["token_embd.weight"] = np.roll(copy["token_embd.weight"], 1, axis=0)


def scaled_output(copy: Copy, by: float = 2.0) -> None:
    """Logits times `by`: a scale that a configuration asks for (Granite, MiniCPM) and a converter forgot. The likeliest
    token stays what it was.
    """
    copy["output_norm.weight"] = copy["output_norm.weight"] * by


def zeroed_bias(copy: Copy) -> None:
    """Attention without its biases (Qwen2): stored, and zero."""
    for name in copy.names:
        if name.endswith(".bias"):
            copy[name] = np.zeros_like(copy[name])


def missing_bias(copy: Copy) -> None:
    """The same, not stored at all: llama.cpp loads such a file without a word."""
    for name in copy.names:
        if name.endswith(".bias"):
            copy.drop(name)


def nan_weights(copy: Copy, name: str = "blk.1.ffn_up.weight") -> None:
    """One weight that is no number (in a quantized tensor: the scale of its block). llama.cpp's x86 kernels lose it
    where they quantize the next product's input, and such a model scores within 0.0003 nat; Arm's keep it, and there
    every logit is NaN.
    """
    values = copy[name]
    with np.errstate(invalid="ignore"):
        values.reshape(-1)[0] = np.nan
        copy[name] = values


def overflowing_norm(copy: Copy) -> None:
    """Weights that are numbers, and whose products are none."""
    copy["output_norm.weight"] = np.full_like(copy["output_norm.weight"], 3e38)


# ---- keys ---------------------------------------------------------------------------------------------------------


def rope_base(copy: Copy, base: float = 10_000.0) -> None:
    """What readers of the old place of `rope_theta` take when transformers 5 wrote it to the new one."""
    copy.set_key("rope.freq_base", base)


def norm_epsilon(copy: Copy, epsilon: float = 1e-3) -> None:
    """Keras' default in place of a language model's 1e-6. On the tests' students 1e-5 costs less than q8_0 does and
    1e-4 about what q4_k_m does; 1e-3 costs more than q2_k.
    """
    copy.set_key("attention.layer_norm_rms_epsilon", epsilon)


def truncated_vocabulary(copy: Copy, tokens: int = 8) -> None:
    """The last rows cut off, as where added tokens were forgotten."""
    for name in ("token_embd.weight", "output.weight"):
        if name in copy.names:
            copy[name] = copy[name][:-tokens]
    for key in ("tokens", "token_type", "scores"):
        if f"tokenizer.ggml.{key}" in copy.keys:
            copy.keys[f"tokenizer.ggml.{key}"] = copy.keys[f"tokenizer.ggml.{key}"][:-tokens]


def other_pre_tokenizer(copy: Copy) -> None:
    """Text split by another family's rule: the warning that llama.cpp printed for Llama 3's first month."""
    copy.keys["tokenizer.ggml.pre"] = "gpt-2"


def dropped_template(copy: Copy) -> None:
    copy.keys.pop("tokenizer.chat_template")


def changed_template(copy: Copy) -> None:
    """One mark of an ended turn exchanged for another family's."""
    template = copy.keys["tokenizer.chat_template"]
    assert "<|im_end|>" in template
    copy.keys["tokenizer.chat_template"] = template.replace("<|im_end|>", "</s>", 1)
