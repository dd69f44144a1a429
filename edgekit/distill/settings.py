"""What a training is told: how long, how fast, of what its objective is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.distill.losses import LossParts
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long and how fast. A step takes `batch` windows over all processes, `micro_batch` of them at a time in each
    process (None: all): smaller ones take less memory and give the same, up to rounding.

    The rate rises over the share `warmup` of the steps to `learning_rate` and falls as a cosine to the share `floor`.
    `precision` of the products: `auto` is bfloat16 where the machine multiplies it in hardware.
    """

    steps: int
    batch: int
    micro_batch: int | None = None
    learning_rate: float
    warmup: float = 0.05
    floor: float = 0.1
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 1
    checkpoint_every: int = 200
    """Steps."""
    log_every: int | None = None
    """Steps; None: a thousand times in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """Where the training is: `step` from 0. `normalizer` is what an objective divides its weighted sums by
    (`distillation_loss(normalizer=…)`): the weight of all windows of the step ÷ the number of processes.
    """

    step: int
    steps: int
    normalizer: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """A module beside the student that an objective uses: trained at a rate of its own, kept in checkpoints and
    sharded with the student. Without a rate it is frozen (a teacher): only sharded.
    """

    name: str
    module: torch.nn.Module
    learning_rate: float | None


Objective = Callable[[Any, "torch.Tensor", Windows, StepInfo], LossParts]
"""`(model, indices, windows, info) -> LossParts` of one micro-batch: the windows of these numbers."""


def check(settings: TrainSettings, extra: Sequence[ParameterGroup], processes: int) -> None:
    """Raises EdgekitError where no training can be as the settings say."""
    for name in ("steps", "batch", "micro_batch", "checkpoint_every", "log_every"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise EdgekitError(f"`{name}` of a training is 1 or more, not `{value}`")
    rates = [("learning_rate", settings.learning_rate), ("gradient_norm", settings.gradient_norm)]
    rates += [(f"learning rate of {group.name}", group.learning_rate or 1.0) for group in extra]
    for name, rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise EdgekitError(f"`{name}` of a training is a number above zero, not `{rate}`")
    for name in ("warmup", "floor", "weight_decay"):
        if not 0 <= getattr(settings, name) <= 1:
            raise EdgekitError(f"`{name}` of a training is between 0 and 1, not `{getattr(settings, name)}`")
    if settings.precision not in ("auto", "float32", "bfloat16"):
        raise EdgekitError(f"a training is in `auto`, `float32` or `bfloat16`, not in `{settings.precision}`")
    if settings.batch % processes:
        raise EdgekitError(f"{processes} processes cannot share a batch of windows evenly: `{settings.batch}`")
    names = [group.name for group in extra]
    if len(set(names)) < len(names) or "model" in names or not all(name.isidentifier() for name in names):
        raise EdgekitError(f"groups of parameters have names of their own, and none is `model`: `{', '.join(names)}`")
