"""The one training loop of the house: an objective, windows, AdamW, and a run that a `kill -9` does not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.distill.losses import LossParts
from edgekit.distill.windows import Windows
from edgekit.progress import Progress, silent
from edgekit.records.distillation import Training

if TYPE_CHECKING:
    import torch


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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
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


def train(
    model: Any,
    windows: Windows,
    objective: Objective,
    settings: TrainSettings,
    *,
    out: Path | None = None,
    extra: Sequence[ParameterGroup] = (),
    about: str = "",
    progress: Progress = silent,
) -> Training:
    """Train `model` (and what `extra` names) in place by AdamW; gives what it took.

    In `out` lie the checkpoints and `metrics.jsonl` of the run; a run with the same settings, windows, start and
    `about` (what the objective is made of, in words) goes on there from its last checkpoint, and one that is
    finished there is only loaded. Killed at any step and started again, it gives the same weights on a CPU.
    A diverged training stops with its reason in `stopped`, and the model as it was at the last checkpoint.

    Under `accelerate launch` or `torchrun` all that has parameters is sharded over the processes by FSDP2.
    Raises EdgekitError where settings are impossible, `out` holds another run, the disk is full (the last checkpoint
    stays), or memory does not suffice (with the micro-batch that would fit).
    """
    raise NotImplementedError
