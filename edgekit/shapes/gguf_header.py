"""The header of a stand-in's GGUF file as bytes.

Written here and not with the `gguf` package's writer, which packs a 152k vocabulary and its merges value by value in
0.8 s, half of what the whole file may take; a test reads the result with that package.
Format: `docs/gguf.md` of ggml, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from edgekit.records import TensorInfo
from edgekit.shapes.mix import GENERAL_ALIGNMENT, QUANTS, stand_in_name
from edgekit.shapes.shape import Shape
from edgekit.shapes.vocabulary import CHAT_TEMPLATE, Vocabulary

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TENSOR_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
}
_QUANTIZATION_VERSION = 2
_LENGTH = struct.Struct("<Q").pack


def header_bytes(shape: Shape, quant: str, tensors: Sequence[TensorInfo], vocabulary: Vocabulary) -> bytes:
    """Everything before the tensor data, padded to its alignment."""
    pairs = [*_model_pairs(shape, quant), *_tokenizer_pairs(vocabulary)]
    body = b"".join([*(_string(key) + value for key, value in pairs), *_tensor_infos(tensors)])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + body
    return head + bytes(-len(head) % GENERAL_ALIGNMENT)


def padded(size_bytes: int) -> int:
    """The room a tensor takes in the file."""
    return size_bytes + -size_bytes % GENERAL_ALIGNMENT


def _model_pairs(shape: Shape, quant: str) -> list[tuple[str, bytes]]:
    arch = shape.architecture
    pairs = [
        ("general.architecture", _text(arch)),
        ("general.type", _text("model")),
        ("general.name", _text(stand_in_name(shape))),
        ("edgekit.stand_in", struct.pack("<IB", _BOOL, 1)),
        ("edgekit.shape", _text(shape.name)),
        ("edgekit.shape_source", _text(shape.source)),
        (f"{arch}.block_count", _uint32(shape.layers)),
        (f"{arch}.context_length", _uint32(shape.context_train)),
        (f"{arch}.embedding_length", _uint32(shape.hidden)),
        (f"{arch}.feed_forward_length", _uint32(shape.ffn)),
        (f"{arch}.attention.head_count", _uint32(shape.heads)),
        (f"{arch}.attention.head_count_kv", _uint32(shape.kv_heads)),
        (f"{arch}.attention.key_length", _uint32(shape.head_dim)),
        (f"{arch}.attention.value_length", _uint32(shape.head_dim)),
        (f"{arch}.attention.layer_norm_rms_epsilon", _float32(shape.rms_epsilon)),
        (f"{arch}.rope.freq_base", _float32(shape.rope_freq_base)),
        ("general.file_type", _uint32(QUANTS[quant][0])),
        ("general.quantization_version", _uint32(_QUANTIZATION_VERSION)),
    ]
    if arch == "llama":
        pairs.insert(-2, ("llama.rope.dimension_count", _uint32(shape.head_dim)))
        pairs.insert(-2, ("llama.vocab_size", _uint32(shape.vocabulary)))
    return pairs


def _tokenizer_pairs(vocabulary: Vocabulary) -> list[tuple[str, bytes]]:
    types = vocabulary.types
    return [
        ("tokenizer.ggml.model", _text("gpt2")),
        ("tokenizer.ggml.pre", _text("qwen2")),
        ("tokenizer.ggml.tokens", _texts(vocabulary.tokens)),
        ("tokenizer.ggml.token_type", _array(_INT32, len(types), struct.pack(f"<{len(types)}i", *types))),
        ("tokenizer.ggml.merges", _texts(vocabulary.merges)),
        ("tokenizer.ggml.eos_token_id", _uint32(vocabulary.end_of_turn)),
        ("tokenizer.ggml.padding_token_id", _uint32(vocabulary.end_of_text)),
        ("tokenizer.ggml.bos_token_id", _uint32(vocabulary.end_of_text)),
        ("tokenizer.ggml.add_bos_token", struct.pack("<IB", _BOOL, 0)),
        ("tokenizer.chat_template", _text(CHAT_TEMPLATE)),
    ]


def _tensor_infos(tensors: Iterable[TensorInfo]) -> list[bytes]:
    infos, offset = [], 0
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos.append(_string(tensor.name) + dims + struct.pack("<IQ", _TENSOR_TYPES[tensor.type], offset))
        offset += padded(tensor.size_bytes)
    return infos


def _string(text: str) -> bytes:
    data = text.encode()
    return _LENGTH(len(data)) + data


def _text(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _string(text)


def _texts(texts: Sequence[str]) -> bytes:
    return _array(_STRING, len(texts), b"".join(map(_string, texts)))


def _array(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, count) + data


def _uint32(value: int) -> bytes:
    return struct.pack("<II", _UINT32, value)


def _float32(value: float) -> bytes:
    return struct.pack("<If", _FLOAT32, value)
