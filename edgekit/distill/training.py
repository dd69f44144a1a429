"""Plain next-token training in torch, and the two figures that tell whether a model has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.distill.losses import LossParts
from edgekit.distill.trainer import StepInfo, TrainSettings, train
from edgekit.distill.windows import Windows, windows_of
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """How well a model foretells a text: mean cross-entropy in nats, and the share of tokens it ranks first."""

    tokens: int
    loss: float
    top1: float


def train_causal(
    model: torch.nn.Module,
    token_ids: Sequence[int],
    *,
    steps: int,
    batch: int,
    length: int,
    learning_rate: float,
    seed: int = 1,
    weights: Sequence[float] | None = None,
    progress: Progress = silent,
) -> tuple[float, ...]:
    """Train `model` (a transformers causal LM) in place by AdamW; gives the loss of each step in nats per token.

    Each step takes `batch` windows of `length` tokens; all windows of the text are seen once, in seeded order, before
    any is seen again. `weights` says how much it counts to foretell each token (all alike without them); the loss is
    their weighted mean. The same seed, threads and machine give the same weights. Raises EdgekitError when the text
    is too short or the loss is no number.
    """
    windows = windows_of(token_ids, weights, length)
    settings = TrainSettings(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed, log_every=1)
    training = train(model, windows, next_token_objective, settings, progress=progress)
    if training.stopped is not None:
        raise EdgekitError(f"training {training.stopped} with learning rate `{learning_rate}`")
    return tuple(loss for _, loss in training.losses)


def next_token_objective(model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
    """Plain cross-entropy of all logits at once: for vocabularies of thousands. (`distillation_loss` without a teacher
    is for the large ones.)
    """
    torch = import_extra("torch", extra="distill")
    inputs, targets, weights = windows.part(indices, next(model.parameters()).device)
    loss = _sum(model(input_ids=inputs, use_cache=False).logits, targets, weights) / info.normalizer
    weight = float(weights.sum(dtype=torch.float64))
    return LossParts(total=loss, distill=None, ce=loss.detach(), tokens=int((weights > 0).sum()), weight=weight)


def next_token(
    model: torch.nn.Module,
    token_ids: Sequence[int],
    *,
    length: int,
    batch: int = 8,
    weights: Sequence[float] | None = None,
) -> NextToken:
    """Loss and top-1 of `model` over whole windows of `length` tokens in float32; a rest shorter than one is left out.
    With `weights` both are weighted means, and `tokens` is how many weigh anything.

    Raises EdgekitError when there is not one window.
    """
    torch = import_extra("torch", extra="distill")
    windows = windows_of(token_ids, weights, length)
    total, right, weight, count = 0.0, 0.0, 0.0, 0
    model.eval()
    with torch.no_grad():
        for indices in torch.arange(len(windows)).split(batch):
            inputs, targets, counts = windows.part(indices, next(model.parameters()).device)
            logits = model(input_ids=inputs, use_cache=False).logits.float()
            total += float(_sum(logits, targets, counts))
            right += float(((logits.argmax(-1) == targets) * counts).sum())
            weight += float(counts.sum())
            count += int((counts > 0).sum())
    return NextToken(tokens=count, loss=total / weight, top1=right / weight)


def unigram_entropy(token_ids: Sequence[int]) -> float:
    """Nats per token of the best model that looks at no context: what training has to beat by far."""
    counts: dict[int, int] = {}
    for token in token_ids:
        counts[token] = counts.get(token, 0) + 1
    return -sum(count / len(token_ids) * math.log(count / len(token_ids)) for count in counts.values())


def _sum(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> Any:
    functional = import_extra("torch.nn.functional", extra="distill")
    each = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum()
