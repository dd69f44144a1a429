"""What a loss is given, checked and laid flat: the tokens that count, and where the teacher's logits come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgekit.distill.heads import Head, as_head
from edgekit.distill.losses import IGNORED
from edgekit.distill.sparse import SparseTeacher
from edgekit.errors import EdgekitError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """`hidden` (…, hidden) as given; `rows` (counted,) are the places that count in (positions, hidden), `labels` and
    `shares` (counted,) theirs: a share is a token's weight ÷ `normalizer`.
    """

    hidden: torch.Tensor
    head: Head
    rows: torch.Tensor
    labels: torch.Tensor | None
    shares: torch.Tensor
    tokens: int
    weight: float
    normalizer: float

    def counted(self, values: torch.Tensor) -> torch.Tensor:
        """Those of (…, width) that count: (counted, width), a view where all do."""
        flat = values.reshape(-1, values.shape[-1])
        return flat if len(self.rows) == len(flat) else flat[self.rows]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherStates:
    """A teacher whose logits are made chunk by chunk: hidden states (counted, hidden), their head, and the precision
    they are multiplied in.
    """

    hidden: torch.Tensor
    head: Head
    width: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherLogits:
    """A teacher whose logits exist, all of them (positions, width); `rows` are those that count."""

    logits: torch.Tensor
    rows: torch.Tensor
    width: int


Source = TeacherStates | TeacherLogits | SparseTeacher


def flat_batch(
    hidden: torch.Tensor,
    head: Head,
    labels: torch.Tensor | None,
    mask: torch.Tensor | None,
    normalizer: float | None,
) -> Batch:
    """Raises EdgekitError where shapes do not fit, a label is no token or a weight is no weight."""
    if hasattr(head.weight, "full_tensor"):
        raise EdgekitError(
            "of a sharded head every process holds some rows only, and the loss needs them all",
            hint="compute the loss inside the forward pass of the sharded module that owns the head",
        )
    places = hidden.shape[:-1]
    for name, given in (("labels", labels), ("a mask", mask)):
        if given is not None and given.shape != places:
            raise EdgekitError(f"the states have places {tuple(places)}, but {name} of shape `{tuple(given.shape)}`")
    if hidden.shape[-1] != head.weight.shape[1]:
        raise EdgekitError(f"the states are {hidden.shape[-1]} wide, but the head takes `{head.weight.shape[1]}`")
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weights = torch.ones(places, device=hidden.device) if mask is None else mask
    weights = weights.to(exact).flatten()
    if labels is not None:
        weights = weights.masked_fill(labels.flatten() == IGNORED, 0)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise EdgekitError("a token's weight is a number from 0 on, but the mask holds others")
    rows = weights.nonzero().squeeze(-1)
    targets = None if labels is None else labels.flatten()[rows]
    if targets is not None and len(rows):
        low, high = (int(end) for end in targets.aminmax())
        if low < 0 or high >= len(head.weight):
            raise EdgekitError(f"the head knows {len(head.weight)} tokens, but a label is `{low if low < 0 else high}`")
    weight = float(weights.sum(dtype=torch.float64))
    divisor = weight if normalizer is None else normalizer
    if normalizer is not None and not 0 < normalizer < float("inf"):
        raise EdgekitError(f"a sum over tokens is divided by a number above zero, not by `{normalizer}`")
    return Batch(
        hidden=hidden,
        head=head,
        rows=rows,
        labels=targets,
        shares=weights[rows] / (divisor or 1.0),  # where nothing counts there is nothing to divide
        tokens=len(rows),
        weight=weight,
        normalizer=divisor or 1.0,
    )


def teacher_source(batch: Batch, teacher: Any, vocabulary: int | None) -> Source:
    """Raises EdgekitError where the teacher's shapes are not the student's, or the vocabularies differ unasked."""
    places, width = batch.hidden.shape[:-1], len(batch.head.weight)
    found: Source
    if isinstance(teacher, SparseTeacher):
        if len(teacher) != places.numel():
            raise EdgekitError(f"of {places.numel()} tokens the teacher has this many distributions: `{len(teacher)}`")
        found, other = teacher.where(batch.rows), teacher.vocabulary
        vocabulary = other if vocabulary is None else vocabulary
        if vocabulary != other:
            raise EdgekitError(f"the teacher was kept over {other} tokens, but the common vocabulary is `{vocabulary}`")
    elif isinstance(teacher, tuple):
        states, head = teacher[0], as_head(teacher[1])
        if states.shape[:-1] != places or states.shape[-1] != head.weight.shape[1]:
            raise EdgekitError(
                f"student's places {tuple(places)} and a teacher's head for {head.weight.shape[1]} do not fit"
                f" the teacher's states: `{tuple(states.shape)}`"
            )
        other = len(head.weight)
        dtype = product_dtype(states, head.weight)
        found = TeacherStates(hidden=batch.counted(states.detach()), head=head, width=other, dtype=dtype)
    else:
        if teacher.shape[:-1] != places:
            raise EdgekitError(
                f"the states have places {tuple(places)}, but the teacher's logits the shape: `{tuple(teacher.shape)}`"
            )
        other = teacher.shape[-1]
        found = TeacherLogits(logits=teacher.detach().reshape(-1, other), rows=batch.rows, width=other)
    _check_vocabulary(width, other, vocabulary)
    return found


def _check_vocabulary(student: int, teacher: int, vocabulary: int | None) -> None:
    if vocabulary is None and student != teacher:
        raise EdgekitError(
            f"the student's head has {student} rows, the teacher's `{teacher}`",
            hint="where only the padding differs, say how many tokens they share: `vocabulary`",
        )
    if vocabulary is not None and not 0 < vocabulary <= min(student, teacher):
        raise EdgekitError(f"of {student} and {teacher} tokens, this many cannot be common: `{vocabulary}`")


def product_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """What a linear layer would multiply in here: autocast's choice, else that of its weights."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if dtype == torch.float16:
        raise EdgekitError(
            "gradients by single tokens vanish in half precision: `float16`", hint="train in bfloat16 or float32"
        )
    return dtype
