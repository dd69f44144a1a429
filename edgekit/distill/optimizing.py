"""AdamW over the student and what is learned beside it, and how the rate moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.distill.settings import ParameterGroup, TrainSettings
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.95)


def rate(step: int, settings: TrainSettings) -> float:
    """The share of its learning rate that a step (from 0) is taken with."""
    warmup = max(1, round(settings.steps * settings.warmup))
    if step < warmup:
        return (step + 1) / warmup
    along = (step - warmup) / max(1, settings.steps - warmup)
    return settings.floor + (1 - settings.floor) / 2 * (1 + math.cos(math.pi * along))


def trained_parameters(modules: dict[str, Any]) -> dict[str, torch.nn.Parameter]:
    """All that is trained, by `module.parameter`; a tied one once."""
    return {
        f"{name}.{inner}": parameter
        for name, module in modules.items()
        for inner, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def optimizer_of(model: Any, extra: Sequence[ParameterGroup], settings: TrainSettings) -> Any:
    """AdamW with its state in place, so that memory which does not suffice fails at the start.

    Weight decay is on matrices only: norms and biases are not pulled to zero. Raises EdgekitError where nothing of
    the model is trained.
    """
    torch = import_extra("torch", extra="distill")
    rates = [(model, settings.learning_rate)]
    rates += [(group.module, group.learning_rate) for group in extra if group.learning_rate is not None]
    groups = [group for module, speed in rates for group in _groups(module, speed, settings.weight_decay)]
    if not any(group["params"] for group in groups):
        raise EdgekitError("the model has no parameter that can be trained")
    optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


def _groups(module: Any, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    shared = {"lr": learning_rate, "base": learning_rate}
    return [
        {"params": matrices, "weight_decay": weight_decay, **shared},
        {"params": others, "weight_decay": 0.0, **shared},
    ]


def set_rate(optimizer: Any, share: float) -> None:
    """Every group at this share of its own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * share


def tensors_of(modules: dict[str, Any], optimizer: Any) -> dict[str, torch.Tensor]:
    """All that a step changes, by name: trained parameters, what the optimizer keeps of each, and buffers."""
    torch = import_extra("torch", extra="distill")
    found: dict[str, Any] = {}
    for name, parameter in trained_parameters(modules).items():
        found[name] = parameter
        found |= {f"{name}:{part}": value for part, value in optimizer.state[parameter].items()}
    for name, module in modules.items():
        for inner, value in module.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.nn.Parameter):
                found[f"{name}.{inner}"] = value
    return found
