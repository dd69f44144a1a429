"""A byte-level BPE vocabulary at full size, synthesised: no real one can be downloaded where stand-ins are written.

Built as Qwen's files are: 256 byte tokens, one token per merge, control tokens, unused padding. Every text tokenizes,
because every byte has a token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types of `include/llama.h`, `enum llama_token_type`."""

_CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_USER_DEFINED = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_CHILDREN = 7
_SPECIAL = len(_CONTROL) + len(_USER_DEFINED)
_QWEN_BASE = 151_643
"""Bytes and merges of Qwen's vocabulary; what a shape has beyond it is padding, as in the real files."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """`tokens[i]` has type `types[i]`; `merges` are `left right` pairs by rank, in the GPT-2 byte alphabet."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    end_of_text: int
    end_of_turn: int


def synthesise(size: int, seed: int) -> Vocabulary:
    """A vocabulary of exactly `size` tokens (at least 512), the same for the same seed."""
    base = min(_QWEN_BASE, size - _SPECIAL)
    alphabet = list(_byte_alphabet())
    merges = _merges(base - len(alphabet), seed)
    tokens = alphabet + [left + right for left, right in merges]
    types = [NORMAL] * base + [CONTROL] * len(_CONTROL) + [USER_DEFINED] * len(_USER_DEFINED)
    tokens += [*_CONTROL, *_USER_DEFINED]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), size)]
    types += [UNUSED] * (size - len(types))
    return Vocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(f"{left} {right}" for left, right in merges),
        end_of_text=base,
        end_of_turn=base + 2,
    )


def _byte_alphabet() -> tuple[str, ...]:
    """GPT-2's printable stand-in for each byte, in the order of its vocabulary (`encoder.py`, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return tuple(map(chr, printable)) + tuple(chr(256 + index) for index in range(len(hidden)))


def _merges(count: int, seed: int) -> list[tuple[str, str]]:
    """Letter pairs, the same behind a space (Ġ), then words two letters longer than an earlier one.

    Every word is its parent and an ending of its own, so none comes twice and nothing needs looking up: the 151k
    merges of a full vocabulary take a tenth of a second. Mean length and bytes are near those of Qwen's files.
    """
    pairs = [a + b for a in _LETTERS for b in _LETTERS]
    merges = [*((pair[0], pair[1]) for pair in pairs), *(("Ġ", a) for a in _LETTERS), *(("Ġ", pair) for pair in pairs)][
        :count
    ]
    words = [left + right for left, right in merges]
    parents = iter(words)  # the list grows while it is read
    offset = random.Random(seed).randrange  # noqa: S311 - a reproducible vocabulary, no secret
    while len(words) < count:
        parent, first = next(parents), offset(len(pairs))
        endings = [pairs[(first + step) % len(pairs)] for step in range(min(_CHILDREN, count - len(words)))]
        merges += [(parent, ending) for ending in endings]
        words += [parent + ending for ending in endings]
    return merges
