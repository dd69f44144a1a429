"""What tokens have to do with each other: the student's hidden states are to be as like and unlike as the teacher's.

Similarity-preserving distillation (Tung and Mori, 2019, arXiv 1907.09682) over the tokens of a sequence: widths may
differ, no projection is needed, and no vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from edgekit.distill.batches import Batch
from edgekit.errors import EdgekitError

ROWS = 512
"""Of the similarities of a sequence, at a time."""


def relational_loss(batch: Batch, teacher: Any) -> torch.Tensor:
    """Σ over pairs of one sequence of w_i · w_j · (cos student − cos teacher)² ÷ the sequence's weight, summed over
    sequences and divided by the batch's normalizer: a mean over tokens as the other losses are. A scalar.

    Temperature has no part in it. `teacher` is (hidden states, head); sequences are the last dimension but one.
    Raises EdgekitError for a teacher whose hidden states are not at hand.
    """
    if not isinstance(teacher, tuple):
        raise EdgekitError("only a teacher's hidden states tell what tokens have to do with each other: `relational`")
    states = teacher[0].detach()
    if states.shape[:-1] != batch.hidden.shape[:-1]:
        raise EdgekitError(
            f"the states have places {tuple(batch.hidden.shape[:-1])}, but the teacher's states the shape:"
            f" `{tuple(states.shape)}`"
        )
    loss: torch.Tensor = _Relational.apply(batch.hidden, states, batch)  # type: ignore[no-untyped-call]
    return loss


class _Relational(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> torch.Tensor:
        exact = batch.shares.dtype
        length = hidden.shape[-2] if hidden.ndim > 1 else 1
        places = hidden.numel() // hidden.shape[-1]
        weights = torch.zeros(places, dtype=exact, device=hidden.device).index_copy_(0, batch.rows, batch.shares)
        weights = weights.view(-1, length) * batch.normalizer
        ours, theirs = (given.reshape(len(weights), length, -1).to(exact) for given in (hidden, teacher))
        gradient, total = torch.zeros_like(ours), ours.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for sequence in range(len(weights)):
                counted = weights[sequence].nonzero().squeeze(-1)
                one, other = ours[sequence][counted], theirs[sequence][counted]
                value, found = _compare(one, other, weights[sequence][counted] / batch.normalizer)
                total += value
                gradient[sequence].index_copy_(0, counted, found)
        ctx.dtype, ctx.gradient = hidden.dtype, gradient.view(hidden.shape)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        if ctx.gradient is None:
            raise RuntimeError("this loss found its gradient in the forward pass and has handed it on already")
        found, ctx.gradient = ctx.gradient, None
        return found.mul_(outer).to(ctx.dtype), None, None


def _compare(ours: torch.Tensor, theirs: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value, and gradient by `ours` (tokens, hidden), of one sequence: Σ s_i s_j Δ_ij² ÷ Σ s."""
    length = ours.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    unit, other = ours / length, theirs / theirs.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    value, pull = ours.new_zeros(()), torch.empty_like(ours)
    whole = shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
    for begin in range(0, len(ours), ROWS):
        rows = slice(begin, begin + ROWS)
        apart = unit[rows] @ unit.t() - other[rows] @ other.t()
        pairs = shares[rows].unsqueeze(-1) * shares / whole
        value += (pairs * apart * apart).sum()
        # every pair is there twice, as (i, j) and (j, i), and its square gives another 2
        torch.mm(apart.mul_(pairs).mul_(4), unit, out=pull[rows])
    along = (pull * unit).sum(-1, keepdim=True)
    return value, (pull - along * unit) / length
