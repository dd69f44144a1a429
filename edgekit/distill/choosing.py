"""Which layers, heads and channels of a teacher its student keeps: those that move the residual stream most."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.distill.influence import Influence
from edgekit.distill.prune_spec import Prune, Sizes, sizes_left
from edgekit.distill.slicing import Cut


def chosen(config: Any, prune: Prune, found: Influence) -> tuple[Cut, tuple[str, ...]]:
    """What stays, and remarks on what does not go as was asked.

    Every layer keeps as many channels and heads as the others, each its own strongest. Raises EdgekitError as
    `sizes_left` does.
    """
    model = Sizes(
        layers=config.num_hidden_layers,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
    )
    left = sizes_left(prune, model, config.model_type)
    notes: list[str] = []
    if config.model_type == "qwen2" and prune.width is not None:
        notes.append("all heads stay: llama.cpp wants of qwen2 that they fill the hidden size")
    layers = _strongest(found.blocks, left.layers)
    numbers = layers.tolist()
    channels = (
        {} if left.ffn == model.ffn else {layer: _strongest(found.channels[layer], left.ffn) for layer in numbers}
    )
    heads, kv_heads = ({}, {}) if left.heads == model.heads else _heads(model, left, found, numbers)
    return Cut(layers=tuple(numbers), channels=channels, heads=heads, kv_heads=kv_heads), tuple(notes)


def _strongest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Their numbers in order; of equals the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _heads(
    model: Sizes, left: Sizes, found: Influence, layers: list[int]
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Query heads and key-value heads that stay, by layer."""
    if model.kv_heads == 1:
        kept = {layer: _strongest(found.heads[layer], left.heads) for layer in layers}
        return kept, dict.fromkeys(kept, torch.zeros(1, dtype=torch.long))
    each = model.heads // model.kv_heads
    # what a group adds is the sum of what its heads add, in squares
    energy = found.heads.square().view(-1, model.kv_heads, each).sum(-1)
    kv_heads = {layer: _strongest(energy[layer], left.kv_heads) for layer in layers}
    heads = {layer: (kept.unsqueeze(-1) * each + torch.arange(each)).flatten() for layer, kept in kv_heads.items()}
    return heads, kv_heads
