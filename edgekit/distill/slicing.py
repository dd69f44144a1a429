"""A transformers model with fewer layers, heads or channels: the same weights, rows and columns taken out."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from edgekit.errors import import_extra

Index = torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """What stays, in the order that it had: `layers` of the teacher, and for each of them the numbers of its
    `channels`, `heads` and `kv_heads`; a layer that is not named keeps all of that.
    """

    layers: tuple[int, ...]
    channels: Mapping[int, Index]
    heads: Mapping[int, Index]
    kv_heads: Mapping[int, Index]


def sliced(model: Any, cut: Cut) -> Any:
    """A model of the same class that shares no weights with `model`, in its dtype."""
    transformers = import_extra("transformers", extra="distill")
    config = _smaller(model.config, cut)
    with torch.device("meta"):
        student = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    wanted = student.state_dict()
    student.load_state_dict(_kept(model, cut, set(wanted)), assign=True)
    student.tie_weights()
    student.generation_config = deepcopy(model.generation_config)
    return student.eval()


def _smaller(config: Any, cut: Cut) -> Any:
    made = deepcopy(config)
    made.num_hidden_layers = len(cut.layers)
    if getattr(made, "layer_types", None):
        made.layer_types = [config.layer_types[layer] for layer in cut.layers]
    if getattr(made, "max_window_layers", None) is not None:
        made.max_window_layers = min(made.max_window_layers, len(cut.layers))
    if cut.channels:
        made.intermediate_size = len(next(iter(cut.channels.values())))
    if cut.heads:
        made.head_dim = head_dim(config)  # no longer hidden ÷ heads
        made.num_attention_heads = len(next(iter(cut.heads.values())))
        made.num_key_value_heads = len(next(iter(cut.kv_heads.values())))
    return made


def head_dim(config: Any) -> int:
    """Values of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _kept(model: Any, cut: Cut, wanted: set[str]) -> dict[str, torch.Tensor]:
    """The student's state: each tensor of the teacher that it has, under its new number and with what stays of it."""
    placed = {kept: number for number, kept in enumerate(cut.layers)}
    width = head_dim(model.config)
    made: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        before, layers, rest = name.partition(".layers.")
        if not layers:
            made[name] = tensor.clone()
            continue
        old, _, part = rest.partition(".")
        if int(old) in placed:
            made[f"{before}.layers.{placed[int(old)]}.{part}"] = _part(part, tensor, int(old), cut, width)
    return {name: tensor for name, tensor in made.items() if name in wanted}


def _part(part: str, tensor: torch.Tensor, layer: int, cut: Cut, width: int) -> torch.Tensor:
    matrix, _, kind = part.removeprefix("self_attn.").removeprefix("mlp.").rpartition(".")
    own: dict[str, tuple[int, Mapping[int, Index], int]] = {
        # matrix: dimension, what stays of it, and how many rows one of them has
        "q_proj": (0, cut.heads, width),
        "k_proj": (0, cut.kv_heads, width),
        "v_proj": (0, cut.kv_heads, width),
        "o_proj": (1, cut.heads, width),
        "gate_proj": (0, cut.channels, 1),
        "up_proj": (0, cut.channels, 1),
        "down_proj": (1, cut.channels, 1),
    }
    if matrix not in own or layer not in own[matrix][1] or (own[matrix][0] == 1 and kind == "bias"):
        return tensor.clone()
    dimension, kept, each = own[matrix]
    numbers = (kept[layer].unsqueeze(-1) * each + torch.arange(each)).flatten().to(tensor.device)
    return tensor.index_select(dimension, numbers)
