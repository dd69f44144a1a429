"""What training costs, counted from shapes.

FLOPs: 6 for each weight and token that is trained, 2 for each that a teacher reads (Kaplan et al. 2020, arXiv
2001.08361, §2.1; Hoffmann et al. 2022, arXiv 2203.15556, app. F); weights are those of matrices, a table that is only
looked up is none. Attention over a context of s tokens adds 12 · layers · heads · head size · s for each trained token
(Chowdhery et al. 2022, arXiv 2204.02311, app. B), half of that where the kernel leaves out what is masked; a forward
pass a third. The range is without it and with all of it. Recomputed activations add one more forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.records import DistillCost, Estimate, ModelFacts

TRAINED, READ = 6.0, 2.0


def training_flops(model: ModelFacts, tokens: float, length: int, *, checkpointing: bool = False) -> Estimate:
    """FLOPs of training `model` on so many tokens in windows of `length`."""
    return _flops(model, tokens, length, TRAINED + (READ if checkpointing else 0.0))


def forward_flops(model: ModelFacts, tokens: float, length: int) -> Estimate:
    """FLOPs of reading so many tokens."""
    return _flops(model, tokens, length, READ)


def written_flops(model: ModelFacts, tokens: float, length: int, *, checkpointing: bool = False) -> Estimate:
    """FLOPs of training `model` on tokens that it reads or writes itself before, each once (its cache keeps them)."""
    trained = training_flops(model, tokens, length, checkpointing=checkpointing)
    return added([trained, forward_flops(model, tokens, length)])


def added(parts: Sequence[Estimate]) -> Estimate:
    """The sum, ends by ends: what makes one part low (no attention counted) makes all low."""
    return Estimate(
        value=sum(part.value for part in parts),
        low=sum(part.low for part in parts),
        high=sum(part.high for part in parts),
        basis="predicted",
        note=parts[0].note if parts else "",
    )


def summed(parts: Sequence[DistillCost]) -> DistillCost:
    """Of several stages together; the peak is the highest of them."""
    return DistillCost(
        tokens=sum(part.tokens for part in parts),
        teacher_tokens=sum(part.teacher_tokens for part in parts),
        student_flops=added([part.student_flops for part in parts]),
        teacher_flops=added([part.teacher_flops for part in parts]),
        seconds=sum(part.seconds for part in parts),
        peak_bytes=max((part.peak_bytes for part in parts), default=0),
        written_tokens=sum(part.written_tokens for part in parts),
    )


def multiplied(model: ModelFacts) -> int:
    """Weights that a token is multiplied with."""
    return model.parameters - model.embedding_parameters


def _flops(model: ModelFacts, tokens: float, length: int, factor: float) -> Estimate:
    weights = factor * multiplied(model) * tokens
    attention = factor * 2 * model.layers * model.heads * model.head_dim * length * tokens
    return Estimate(
        value=weights + attention / 2,
        low=weights,
        high=weights + attention,
        basis="predicted",
        note=f"{factor:g} × weights × tokens, without and with attention",
    )
