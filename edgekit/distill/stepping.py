"""One step of a training: all micro-batches of it, forward and backward, and what they came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.distill.precision import autocast
from edgekit.distill.settings import Objective, StepInfo, TrainSettings
from edgekit.distill.sharding import Place
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

_LEAST_WEIGHT = 1e-9
"""A step may hold nothing that counts: then its loss is zero, and zero is divided by this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """All that a step needs and no step changes; `root` is `sharding.rooted`'s, `precision` what products are in."""

    model: Any
    root: Any
    windows: Windows
    objective: Objective
    settings: TrainSettings
    precision: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """Of one step over all processes, nats per counted token; the parts are None where the objective has none."""

    total: float
    distill: float | None
    ce: float | None


def run(work: Work, step: int) -> StepLoss:
    """Leave the gradients of step `step` in the parameters.

    Random numbers within (dropout) are those of the step, so that a resumed run draws the same.
    """
    torch = import_extra("torch", extra="distill")
    settings, place = work.settings, work.place
    indices = work.windows.batch(step, settings.batch, settings.seed)
    normalizer = max(work.windows.weight(indices), _LEAST_WEIGHT) / place.processes
    info = StepInfo(step=step, steps=settings.steps, normalizer=normalizer)
    torch.manual_seed(((settings.seed * 1_000_003 + step) * 65_537 + place.index) % 2**63)
    mine = indices[place.index :: place.processes]
    sums = torch.zeros(3, dtype=torch.float64, device=place.device)
    known: tuple[bool, bool] = (False, False)
    size = settings.micro_batch or len(mine)
    for begin in range(0, len(mine), size):
        losses, known = forward_backward(work, mine[begin : begin + size], info)
        sums += losses
    total, distill, ce = place.mean(sums).tolist()  # the one wait for an accelerator
    return StepLoss(total=total, distill=distill if known[0] else None, ce=ce if known[1] else None)


def forward_backward(work: Work, indices: torch.Tensor, info: StepInfo) -> tuple[torch.Tensor, tuple[bool, bool]]:
    """One micro-batch: (total, distill, ce) as float64, and which of the two parts there are."""
    torch = import_extra("torch", extra="distill")
    found: list[Any] = []

    def compute() -> Any:
        with autocast(work.precision, work.place.device):
            found.append(work.objective(work.model, indices, work.windows, info))
        return found[0].total  # a tensor: FSDP2 looks for the gradient of what the forward pass returns

    work.root(compute).backward()
    parts = found[0]
    total = parts.total.detach().double()
    values = [total * 0 if value is None else value.detach().double() for value in (parts.distill, parts.ce)]
    return torch.stack([total, *values]), (parts.distill is not None, parts.ce is not None)


def gradient_checkpointing(model: Any, what: Literal["enable", "disable"]) -> Any:
    """The method of a transformers model that turns gradient checkpointing on or off; its name changed in 5. Raises
    EdgekitError where the model has none.
    """
    for name in (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}"):
        if hasattr(model, name):
            return getattr(model, name)
    raise EdgekitError(f"gradient checkpointing is not to be had of a `{type(model).__name__}`")
