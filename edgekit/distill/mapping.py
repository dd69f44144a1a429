"""Feature matching: hidden states of a student, projected, held against mixes of its teacher's layers.

A softmax over teacher layers for each student layer is learned together with the student and discarded after, or the
map is fixed: that by relative depth is the default. It was better than the even one in every seed, and the one learned
from there no better (`benchmarks/layer_mapping.py`). Every teacher layer is brought to the same size first: the
residual stream grows with depth, and a mix would else be its last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgekit.checkpoint import shown
from edgekit.distill.trainer import ParameterGroup
from edgekit.errors import EdgekitError
from edgekit.records.layer_map import LayerMap, Mapping
from edgekit.tables import nearest

MAP_LEARNING_RATE = 0.03
"""Of the layer map: its logits have to move by ones within some hundred steps of Adam, a student's weights do not."""
SHARPNESS = 1.5
"""A learned map starts at shares that fall by e^1.5 with each layer away from `start`: sure enough to teach from the
first step, and not so sure that the softmax has no slope left."""
LOSSES = ("cosine", "mse")

_SMALL = 1e-12


def uniform(student_layers: int, teacher_layers: int) -> torch.Tensor:
    """Every so many-th layer, the last one by the last one: TinyBERT's g(m) = 3m (arXiv 1909.10351)."""
    rows = torch.zeros(student_layers, teacher_layers)
    for layer in range(student_layers):
        rows[layer, round((layer + 1) * teacher_layers / student_layers) - 1] = 1
    return rows


def last(student_layers: int, teacher_layers: int) -> torch.Tensor:
    """The teacher's last layers: PKD-Last (arXiv 1908.09355)."""
    return torch.eye(teacher_layers)[teacher_layers - student_layers :]


def relative(student_layers: int, teacher_layers: int) -> torch.Tensor:
    """First by first and last by last, in between the two layers around the same relative depth, by nearness."""
    rows = torch.zeros(student_layers, teacher_layers)
    for layer in range(student_layers):
        depth = layer / (student_layers - 1) * (teacher_layers - 1) if student_layers > 1 else teacher_layers - 1.0
        below = min(int(depth), teacher_layers - 1)
        rows[layer, below] += 1 - (depth - below)
        rows[layer, min(below + 1, teacher_layers - 1)] += depth - below
    return rows


FIXED: dict[str, Callable[[int, int], torch.Tensor]] = {"uniform": uniform, "last": last, "relative": relative}
MAPPINGS = ("learned", *FIXED)


class LayerShares(torch.nn.Module):
    """(student layers, teacher layers), rows that sum to one: learned logits, or fixed."""

    fixed: torch.Tensor

    def __init__(self, rows: torch.Tensor, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.logits = torch.nn.Parameter(rows)
        else:
            self.register_buffer("fixed", rows, persistent=False)
        self.learned = learned

    def forward(self) -> torch.Tensor:
        return self.logits.float().softmax(-1) if self.learned else self.fixed


class FeatureMatch(torch.nn.Module):
    """What stage 2 trains beside the student: a projection from the student's hidden size to the teacher's, and the
    layer map. Both are discarded after; `layer_map` tells what was learned.

    The configurations are those of transformers. `start`: for each student layer the teacher layer that a learned map
    starts at (a carved student's `kept_layers`), `None`: those of the same relative depth. Raises EdgekitError where a
    name is unknown or the student has more layers than its teacher.
    """

    def __init__(
        self,
        student_config: Any,
        teacher_config: Any,
        mapping: str = "relative",
        loss: str = "cosine",
        start: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        student, teacher = _text(student_config), _text(teacher_config)
        layers = student.num_hidden_layers, teacher.num_hidden_layers
        _check(mapping, loss, layers, start)
        self.mapping: Mapping = mapping  # type: ignore[assignment]  # checked above
        self.loss = loss
        self.projection = torch.nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
        # one residual stream has one basis: the projection is shared by all layers, and starts as what changes nothing
        if student.hidden_size == teacher.hidden_size:
            torch.nn.init.eye_(self.projection.weight)
        else:
            torch.nn.init.orthogonal_(self.projection.weight)
        rows = _start(layers, start) if mapping == "learned" else FIXED[mapping](*layers)
        self.shares = LayerShares(rows, learned=mapping == "learned")

    def forward(
        self,
        student_hidden_states: Sequence[torch.Tensor],
        teacher_hidden_states: Sequence[torch.Tensor],
        weights: torch.Tensor,
        normalizer: float,
    ) -> torch.Tensor:
        """Sum over tokens of weight × mean over student layers of the distance, ÷ `normalizer`: a scalar.

        The states are what a transformers model gives with `output_hidden_states=True`: the embedding, left out here,
        then one (…, hidden) per layer, the last one normed. `weights` (…): tokens of no weight are not computed.
        Distance: 1 − cosine; or for `mse` the mean square of what the projection misses of a mix of root mean square
        one, so that a teacher's scale does not set the loss. Raises EdgekitError where the states are not those of
        these models.
        """
        rows = weights.flatten().nonzero().squeeze(-1)
        counted = weights.flatten()[rows].float()
        shares = self.shares().to(weights.device)  # a fixed map is no parameter, and nobody moves it
        own = _stacked(student_hidden_states, rows, len(shares), "student")
        seen = shares.detach().sum(0).nonzero().squeeze(-1)  # a fixed map looks at few layers
        said = _stacked(teacher_hidden_states, rows, shares.shape[1], "teacher", seen).detach()
        said = said / _size(said)
        wanted = torch.einsum("st,tnh->snh", shares[:, seen], said)
        wanted = wanted / _size(wanted)  # else mixing layers that disagree would shrink what is to be foretold
        projected = self.projection(own).float()
        if self.loss == "cosine":
            distance = 1 - torch.nn.functional.cosine_similarity(projected, wanted, dim=-1)
        else:
            distance = (projected - wanted).square().mean(-1)
        return (distance.mean(0) * counted).sum() / normalizer

    match = forward

    def groups(self, learning_rate: float, map_learning_rate: float = MAP_LEARNING_RATE) -> tuple[ParameterGroup, ...]:
        """What the trainer has to train beside the student; the map has a rate of its own."""
        found = [ParameterGroup(name="projection", module=self.projection, learning_rate=learning_rate)]
        if self.shares.learned:
            found.append(ParameterGroup(name="layer_map", module=self.shares, learning_rate=map_learning_rate))
        return tuple(found)

    @torch.no_grad()
    def layer_map(self) -> LayerMap:
        """The shares as they are now."""
        shares: Any = self.shares()
        rows = (shares.full_tensor() if hasattr(shares, "full_tensor") else shares).double()
        rows = rows / rows.sum(-1, keepdim=True)
        return LayerMap(
            student_layers=rows.shape[0],
            teacher_layers=rows.shape[1],
            weights=tuple(tuple(row) for row in rows.tolist()),
            mapping=self.mapping,
        )


def _stacked(
    states: Sequence[torch.Tensor], rows: torch.Tensor, layers: int, whose: str, chosen: torch.Tensor | None = None
) -> torch.Tensor:
    """(layers, tokens that count, hidden) of the layers chosen, in the precision they have."""
    if len(states) != layers + 1:
        raise EdgekitError(
            f"the {whose} has {layers} layers, and with its embedding {layers + 1} hidden states, not `{len(states)}`",
            hint="ask the model with `output_hidden_states=True` and pass all of them",
        )
    numbers = range(layers) if chosen is None else chosen.tolist()
    return torch.stack([states[number + 1].flatten(0, -2)[rows] for number in numbers])


def _size(states: torch.Tensor) -> torch.Tensor:
    """Root mean square of each state, never zero."""
    return states.float().square().mean(-1, keepdim=True).clamp_min(_SMALL).sqrt()


def _start(layers: tuple[int, int], start: Sequence[int] | None) -> torch.Tensor:
    places = relative(*layers).argmax(-1) if start is None else torch.tensor(start)
    away = (places.unsqueeze(-1) - torch.arange(layers[1])).abs()
    return -SHARPNESS * away.float()


def _text(config: Any) -> Any:
    """The language model's part of a configuration that has several."""
    return getattr(config, "get_text_config", lambda: config)()


def _check(mapping: str, loss: str, layers: tuple[int, int], start: Sequence[int] | None) -> None:
    for what, name, known in (("layer mapping", mapping, MAPPINGS), ("feature loss", loss, LOSSES)):
        if name not in known:
            raise EdgekitError(f"unknown {what}: `{shown(name, 40)}`", hint=nearest(name, known))
    if layers[0] > layers[1]:
        raise EdgekitError(f"the student has {layers[0]} layers, more than its teacher: `{layers[1]}`")
    if start is not None and (len(start) != layers[0] or not all(0 <= place < layers[1] for place in start)):
        raise EdgekitError(
            f"a layer map starts at one of {layers[1]} teacher layers for each of {layers[0]} student layers, not at "
            f"`{', '.join(map(str, start))}`"
        )
