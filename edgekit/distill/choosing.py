"""Which layers, heads and channels of a teacher its student keeps: those that move the residual stream most."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.distill.influence import Influence
from edgekit.distill.prune_spec import Prune
from edgekit.distill.slicing import Cut
from edgekit.errors import EdgekitError

_STEPS = (256, 128, 64, 32)
"""K-quants want rows of whole blocks of 256 values, the others of 32."""


def chosen(config: Any, prune: Prune, found: Influence) -> tuple[Cut, tuple[str, ...]]:
    """What stays, and remarks on what does not go as was asked.

    Every layer keeps as many channels and heads as the others, each its own strongest. Queries that share keys and
    values go together with them, so that the cache shrinks too; where all heads share one, single ones go.
    Raises EdgekitError where nothing would be left, nothing would go, or the architecture cannot do without.
    """
    notes: list[str] = []
    layers = _strongest(found.blocks, _left("layers", config.num_hidden_layers, prune.depth))
    heads_share = prune.width if prune.heads is None else prune.heads
    if config.model_type == "qwen2" and heads_share is not None:
        if prune.heads is not None:
            raise EdgekitError(
                f"qwen2 has heads for its whole hidden size, in llama.cpp at least: `heads={prune.heads:g}`",
                hint="cut the feed-forward alone: `prune:ffn=0.5`",
            )
        heads_share = None
        notes.append("all heads stay: llama.cpp wants of qwen2 that they fill the hidden size")
    channels = _channels(config, prune.width if prune.ffn is None else prune.ffn, found, layers)
    heads, kv_heads = _heads(config, heads_share, found, layers)
    if len(layers) == config.num_hidden_layers and not channels and not heads:
        raise EdgekitError(
            f"of {config.num_hidden_layers} layers and {config.intermediate_size} channels nothing would go with "
            f"`{', '.join(f'{key}={share:g}' for key, share in _said(prune))}`",
            hint="ask for a smaller share",
        )
    return Cut(layers=tuple(layers.tolist()), channels=channels, heads=heads, kv_heads=kv_heads), tuple(notes)


def _said(prune: Prune) -> list[tuple[str, float]]:
    pairs = (("depth", prune.depth), ("width", prune.width), ("ffn", prune.ffn), ("heads", prune.heads))
    return [(key, share) for key, share in pairs if share is not None]


def _left(what: str, count: int, share: float | None, step: int = 1) -> int:
    """How many stay, a multiple of `step`."""
    left = count if share is None else round(count * share / step) * step
    if left < 1:
        raise EdgekitError(f"of {count} {what} none would be left at `{share:g}`", hint="ask for a larger share")
    return left


def _strongest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Their numbers in order; of equals the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _channels(config: Any, share: float | None, found: Influence, layers: torch.Tensor) -> dict[int, torch.Tensor]:
    count = config.intermediate_size
    if share is None:
        return {}
    step = next((step for step in _STEPS if count % step == 0 and count * share >= step), 1)
    left = _left("channels", count, share, step)
    return {} if left == count else {layer: _strongest(found.channels[layer], left) for layer in layers.tolist()}


def _heads(
    config: Any, share: float | None, found: Influence, layers: torch.Tensor
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Query heads and key-value heads that stay, by layer."""
    count, groups = config.num_attention_heads, config.num_key_value_heads
    if share is None:
        return {}, {}
    if groups == 1:
        left = _left("heads", count, share)
        kept = {layer: _strongest(found.heads[layer], left) for layer in layers.tolist()}
        return ({}, {}) if left == count else (kept, dict.fromkeys(kept, torch.zeros(1, dtype=torch.long)))
    left = _left("key-value heads", groups, share)
    if left == groups:
        return {}, {}
    each = count // groups
    # what a group adds is the sum of what its heads add, in squares
    energy = found.heads.square().view(-1, groups, each).sum(-1)
    kv_heads = {layer: _strongest(energy[layer], left) for layer in layers.tolist()}
    heads = {layer: (kept.unsqueeze(-1) * each + torch.arange(each)).flatten() for layer, kept in kv_heads.items()}
    return heads, kv_heads
