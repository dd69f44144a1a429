"""What each kind of stage minimizes, as the one training loop asks for it: the loss of a micro-batch.

logits:   α T² D(teacher, student) + (1 − α) CE
features: the same, and `weight` times the distance between the student's hidden states and its teacher's
task:     the same as logits on what the teacher wrote; there the weights count completions only, and α may be 0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.distill.cache import TeacherCache
from edgekit.distill.heads import head_of
from edgekit.distill.losses import LossParts, distillation_loss
from edgekit.distill.settings import Objective, StepInfo
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

    from edgekit.distill.mapping import FeatureMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Softly:
    """How a student is held against its teacher: the arguments of `distillation_loss`. `temperature` is asked for each
    step (from 0) of so many; `vocabulary` is what the two have in common.
    """

    loss: str = "forward_kl"
    alpha: float = 0.5
    mix: float | None = None
    temperature: Callable[[int, int], float]
    vocabulary: int | None = None


def logits_objective(teacher: Any | TeacherCache | None, softly: Softly) -> Objective:
    """`teacher` is a transformers model on the student's device, run beside it, or the cache of one, written for the
    very windows of the training; None takes an α of 0. Raises EdgekitError where there is nothing to learn from.
    """
    if teacher is None and softly.alpha > 0:
        raise EdgekitError(f"without a teacher there is only cross-entropy: alpha must be 0, not `{softly.alpha}`")

    def objective(model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
        inputs, labels, weights = windows.part(indices, _device(model))
        temperature = softly.temperature(info.step, info.steps)
        said = _said(teacher, inputs, indices, temperature) if softly.alpha > 0 else None
        states = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return _loss(model, states, said, labels, weights, softly, temperature, info)

    return objective


def features_objective(teacher: Any, match: FeatureMatch, softly: Softly, *, weight: float = 1.0) -> Objective:
    """Hidden states as `match` holds them against each other, beside the logits. One pass of the teacher serves both.

    The loss' `distill` has the distance in it, so that `total` = α · logits + (1 − α) · `ce` + weight · distance.
    """

    def objective(model: Any, indices: torch.Tensor, windows: Windows, info: StepInfo) -> LossParts:
        inputs, labels, weights = windows.part(indices, _device(model))
        temperature = softly.temperature(info.step, info.steps)
        asked: dict[str, Any] = {"input_ids": inputs, "use_cache": False, "output_hidden_states": True}
        theirs = _asked(teacher, **asked)
        own = model.base_model(**asked)
        said = (theirs.last_hidden_state, head_of(teacher)) if softly.alpha > 0 else None
        parts = _loss(model, own.last_hidden_state, said, labels, weights, softly, temperature, info)
        distance = weight * match.match(own.hidden_states, theirs.hidden_states, weights, info.normalizer)
        soft = distance.detach() if parts.distill is None else parts.distill + distance.detach()
        return replace(parts, total=parts.total + distance, distill=soft)

    return objective


def task_objective(teacher: Any | TeacherCache | None = None, softly: Softly | None = None) -> Objective:
    """Cross-entropy on what the teacher wrote, with a divergence beside it where α is above 0."""
    return logits_objective(teacher, softly or Softly(alpha=0.0, temperature=lambda *_: 1.0))


def _said(teacher: Any, inputs: torch.Tensor, indices: torch.Tensor, temperature: float) -> Any:
    """What the teacher says of these windows, as `distillation_loss` takes it."""
    if isinstance(teacher, TeacherCache):
        said = teacher.teacher(indices.cpu(), temperature=temperature)
        return said.to(inputs.device) if inputs.device.type != "cpu" else said
    return _asked(teacher, input_ids=inputs, use_cache=False).last_hidden_state, head_of(teacher)


def _asked(teacher: Any, **arguments: Any) -> Any:
    """What the teacher's layers make of it, without a graph behind."""
    torch = import_extra("torch", extra="distill")
    with torch.no_grad():
        return teacher.base_model(**arguments)


def _loss(
    model: Any,
    states: torch.Tensor,
    said: Any,
    labels: torch.Tensor,
    weights: torch.Tensor,
    softly: Softly,
    temperature: float,
    info: StepInfo,
) -> LossParts:
    return distillation_loss(
        states,
        head_of(model),
        said,
        labels,
        weights,
        loss=softly.loss,
        temperature=temperature,
        alpha=softly.alpha,
        mix=softly.mix,
        # plain cross-entropy and relations between states know of no common vocabulary
        vocabulary=softly.vocabulary if said is not None and softly.loss != "relational" else None,
        normalizer=info.normalizer,
    )


def _device(model: Any) -> torch.device:
    found: torch.device = next(model.parameters()).device
    return found
