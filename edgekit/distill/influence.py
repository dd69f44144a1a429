"""How much each part of a transformer moves its residual stream: what a smaller student can best do without.

Layers by block influence, 1 − cos(before, after) (ShortGPT, arXiv 2403.03853); channels and heads by the norm of what
they write (Minitron, arXiv 2407.14679, counts the activation alone; with the matrix that carries it into the stream the
figure does not change when one of the two is scaled and the other scaled back).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent

_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Influence:
    """Of each layer: `blocks` (layers) between 0, which changes no direction, and 2; `channels` (layers, ffn) and
    `heads` (layers, heads) as root mean square of what each adds to the stream. `tokens` were counted.
    """

    blocks: torch.Tensor
    channels: torch.Tensor
    heads: torch.Tensor
    tokens: int


@dataclass(slots=True, kw_only=True)
class _Sums:
    """Over the tokens that count, of one layer, in float64."""

    turned: float = 0.0
    channels: Any = 0.0
    heads: Any = field(default=0.0)
    """Second moments of each head's values, (heads, width, width)."""


@torch.no_grad()
def influence_of(model: Any, windows: Windows, *, progress: Progress = silent) -> Influence:
    """One pass of a transformers model of llama's layout over the windows; only tokens of weight above zero count.

    Raises EdgekitError where nothing counts, or the model's states are no numbers.
    """
    device = next(model.parameters()).device
    sums = [_Sums() for _ in model.base_model.layers]
    counted = torch.empty(0)
    total, batch = 0, max(1, _BATCH_TOKENS // windows.length)

    def rows(states: torch.Tensor) -> torch.Tensor:
        return states.flatten(0, 1)[counted].double()

    model.eval()
    with ExitStack() as hooks:
        for layer, own in zip(model.base_model.layers, sums, strict=True):
            hooks.enter_context(_watched(layer, own, rows))
        for begin in range(0, len(windows), batch):
            numbers = torch.arange(begin, min(begin + batch, len(windows)))
            # of a window's last token nothing is foretold, of each other one the next token
            ids, _, weights = windows.part(numbers, device)
            counted = weights.flatten().nonzero().squeeze(-1)
            total += len(counted)
            model.base_model(input_ids=ids, use_cache=False)
            progress("scoring the teacher's parts", min(begin + batch, len(windows)), len(windows))
    if not total:
        raise EdgekitError("no token of the calibration text counts", hint="give weights above zero, or none")
    return _found(model, sums, total)


@contextmanager
def _watched(layer: Any, own: _Sums, rows: Any) -> Iterator[None]:
    def block(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        before = rows(args[0] if args else kwargs["hidden_states"])
        after = rows(output[0] if isinstance(output, tuple) else output)
        own.turned += float((1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)).sum())

    def feed_forward(_: Any, args: Any) -> None:
        own.channels = own.channels + rows(args[0]).square().sum(0)

    def attention(_: Any, args: Any) -> None:
        values = rows(args[0]).unflatten(-1, (-1, layer.self_attn.head_dim))
        own.heads = own.heads + torch.einsum("nhi,nhj->hij", values, values)

    handles = (
        layer.register_forward_hook(block, with_kwargs=True),
        layer.mlp.down_proj.register_forward_pre_hook(feed_forward),
        layer.self_attn.o_proj.register_forward_pre_hook(attention),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _found(model: Any, sums: list[_Sums], tokens: int) -> Influence:
    channels, heads = [], []
    for layer, own in zip(model.base_model.layers, sums, strict=True):
        down = layer.mlp.down_proj.weight.double()
        channels.append((own.channels / tokens).sqrt() * down.norm(dim=0))
        out = layer.self_attn.o_proj.weight.double().unflatten(-1, (-1, layer.self_attn.head_dim))
        # E‖W x‖² = Σ (WᵀW) ∘ E[x xᵀ], with W the columns of one head
        gram = torch.einsum("chi,chj->hij", out, out)
        heads.append(((own.heads / tokens) * gram).sum((-1, -2)).clamp_min(0).sqrt())
    blocks = torch.tensor([own.turned / tokens for own in sums], dtype=torch.float64)
    found = Influence(blocks=blocks, channels=torch.stack(channels), heads=torch.stack(heads), tokens=tokens)
    for values in (found.blocks, found.channels, found.heads):
        if not bool(values.isfinite().all()):
            raise EdgekitError(
                "the teacher's states hold values that are no numbers", hint="its weights are broken: load them whole"
            )
    return found
