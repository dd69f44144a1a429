"""Plain next-token training in torch, and the two figures that tell whether a model has learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    import torch

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls as a cosine to a tenth."""
WEIGHT_DECAY = 0.1
GRADIENT_NORM = 1.0


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
    torch = import_extra("torch", extra="distill")
    ids = torch.tensor(token_ids, dtype=torch.long)
    counted = _counted(torch, token_ids, weights)
    windows, wanted = _windows(ids, length, batch, seed), _windows(counted, length, batch, seed)
    optimizer = torch.optim.AdamW(_groups(model), lr=learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    losses: list[float] = []
    model.train()
    for step in range(steps):
        inputs, counts = next(windows), next(wanted)[:, 1:]
        with _autocast(torch):
            loss = _loss(model(input_ids=inputs[:, :-1], use_cache=False).logits, inputs[:, 1:], counts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise EdgekitError(f"training diverged at step {step + 1} of {steps} with learning rate `{learning_rate}`")
        progress("train", step + 1, steps, f"loss {losses[-1]:.2f}")
    model.eval()
    return tuple(losses)


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
    ids = torch.tensor(token_ids, dtype=torch.long)
    windows, wanted = _cut(ids, length), _cut(_counted(torch, token_ids, weights), length)
    total, right, weight, count = 0.0, 0.0, 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, counts in zip(torch.split(windows, batch), torch.split(wanted[:, 1:], batch), strict=True):
            logits = model(input_ids=inputs[:, :-1], use_cache=False).logits.float()
            targets = inputs[:, 1:]
            total += float(_loss(logits, targets, counts)) * float(counts.sum())
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


def bfloat16_is_native() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware: elsewhere torch emulates them and is slower than
    float32.
    """
    torch = import_extra("torch", extra="distill")
    # private, but there is no public question; torch uses them for its own dispatch
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def _loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> Any:
    functional = import_extra("torch.nn.functional", extra="distill")
    each = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum().clamp_min(1e-9)  # a window may hold nothing that counts


def _counted(torch: Any, token_ids: Sequence[int], weights: Sequence[float] | None) -> Any:
    if weights is not None and len(weights) != len(token_ids):
        raise EdgekitError(f"there are {len(token_ids)} tokens, but the number of weights is `{len(weights)}`")
    return torch.ones(len(token_ids)) if weights is None else torch.tensor(weights)


def _autocast(torch: Any) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_is_native())
    return context


def _cut(ids: torch.Tensor, length: int) -> torch.Tensor:
    """Windows of `length` + 1 tokens that overlap by the one that is foretold: shape (windows, length + 1)."""
    if len(ids) < length + 1:
        raise EdgekitError(f"the text has {len(ids)} tokens, fewer than one window of `{length + 1}`")
    return ids.unfold(0, length + 1, length)


def _windows(ids: torch.Tensor, length: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    torch = import_extra("torch", extra="distill")
    windows = _cut(ids, length)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    while True:
        while len(order) < batch:
            order = torch.cat((order, torch.randperm(len(windows), generator=generator)))
        yield windows[order[:batch]]
        order = order[batch:]


def _groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases are not pulled to zero."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int) -> float:
    warmup = max(1, round(steps * WARMUP))
    if step < warmup:
        return (step + 1) / warmup
    along = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * along))
