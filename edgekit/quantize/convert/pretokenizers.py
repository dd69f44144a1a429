"""How a tokenizer splits text before it merges, and llama.cpp's name for it (`tokenizer.ggml.pre`).

llama.cpp knows pre-tokenizers by name and carries their regular expressions itself (`src/llama-vocab.cpp`), so a name
is only written where the checkpoint's own rule is literally the known one. Everything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.checkpoint import shown
from edgekit.errors import EdgekitError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """llama.cpp's name, and whether it then takes a whole piece that is in the vocabulary without merging."""

    name: str
    ignore_merges: bool = False


_SPLITS = {_QWEN2: PreTokenizer(name="qwen2"), _LLAMA3: PreTokenizer(name="llama-bpe", ignore_merges=True)}
_GPT2 = PreTokenizer(name="gpt-2")
_SMOLLM = PreTokenizer(name="smollm")


def pre_tokenizer(rule: Mapping[str, Any] | None) -> PreTokenizer:
    """What llama.cpp calls the `pre_tokenizer` of a byte-level tokenizer.json. Raises EdgekitError for any other."""
    steps = rule.get("pretokenizers", [rule]) if isinstance(rule, Mapping) else []
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        steps = []
    found = _known([dict(step) for step in steps])
    if found is None:
        raise EdgekitError(
            f"llama.cpp has no known name for this pre-tokenizer: `{shown(json.dumps(rule, ensure_ascii=False), 300)}`",
            hint="edgekit knows those of Qwen2/Qwen3, Llama 3, SmolLM and GPT-2; a wrong one would spoil every token",
        )
    return found


def _known(steps: list[dict[str, Any]]) -> PreTokenizer | None:
    if not steps or not _byte_level(steps[-1], splits=len(steps) == 1 or steps[0].get("type") == "Digits"):
        return None
    if len(steps) == 1:
        return _GPT2
    if len(steps) != 2:
        return None
    first = steps[0]
    if first.get("type") == "Digits":
        return _SMOLLM if first.get("individual_digits") is True else None
    pattern = first.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    whole = first.get("type") == "Split" and first.get("behavior") == "Isolated" and not first.get("invert")
    return _SPLITS.get(regex) if whole and isinstance(regex, str) else None


def _byte_level(step: Mapping[str, Any], *, splits: bool) -> bool:
    """Whether the step maps bytes to letters, without a space in front; `use_regex` is GPT-2's own splitting."""
    return (
        step.get("type") == "ByteLevel"
        and step.get("add_prefix_space") is False
        and step.get("use_regex", True) is splits
    )
