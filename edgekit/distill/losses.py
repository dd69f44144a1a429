"""The losses of distillation: α · T² · D(teacher, student) + (1 − α) · CE, a mean over tokens, never over sequences.

A divergence sees a block of log-probabilities at once and gives its gradient beside its value, so that logits need not
outlive the block (`chunked.py`). To add one: a function here and a line in DIVERGENCES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.distill.heads import Head, as_head
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch

    from edgekit.distill.batches import Batch
    from edgekit.distill.sparse import SparseTeacher

Divergence = Callable[..., "tuple[torch.Tensor, torch.Tensor]"]
"""`(log_q, log_p) -> (value, gradient)`: log-probabilities of student and teacher, (rows, vocabulary), which it may
overwrite; the divergence of each row in nats, (rows), and its derivative by the student's softened logits."""

IGNORED = -100
"""The label of a token that does not count, as in torch and transformers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossParts:
    """`total` = α · `distill` + (1 − α) · `ce`; it alone carries gradients. All are scalars.

    `distill` has its T² in it; `ce` is None without labels, `distill` None without a teacher. `tokens` counted for
    anything, `weight` is the sum of their weights, which the means were divided by (or by the caller's `normalizer`).
    """

    total: torch.Tensor
    distill: torch.Tensor | None
    ce: torch.Tensor | None
    tokens: int
    weight: float


def forward_kl(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p‖q), Hinton et al., 2015 (arXiv 1503.02531): the student covers all that the teacher may say."""
    p = log_p.exp()
    value = (p * log_p.sub_(log_q)).sum(-1)
    return value, log_q.exp_().sub_(p)


def reverse_kl(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q‖p), MiniLLM (arXiv 2306.08543): the student says nothing that the teacher would not."""
    q = log_q.exp()
    log_q.sub_(log_p)
    value = (q * log_q).sum(-1)
    return value, log_q.sub_(value.unsqueeze(-1)).mul_(q)


def jsd(log_q: torch.Tensor, log_p: torch.Tensor, beta: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """β KL(p‖m) + (1 − β) KL(q‖m) with m = βp + (1 − β)q, GKD (arXiv 2306.13649)."""
    log_m = (log_p + math.log(beta)).logaddexp(log_q + math.log1p(-beta))
    q = log_q.exp()
    log_q.sub_(log_m)
    own = (q * log_q).sum(-1)
    value = beta * (log_p.exp() * (log_p - log_m)).sum(-1) + (1 - beta) * own
    return value, log_q.sub_(own.unsqueeze(-1)).mul_(q).mul_(1 - beta)


def skew_kl(log_q: torch.Tensor, log_p: torch.Tensor, skew: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p‖m) with m = skew · p + (1 − skew) · q, DistiLLM (arXiv 2402.03898): bounded where q forgets a token."""
    log_m = (log_p + math.log(skew)).logaddexp(log_q + math.log1p(-skew))
    value = (log_p.exp() * (log_p - log_m)).sum(-1)
    # dm/dq = 1 − skew, and p · q / m is the share of p that q had a hand in
    share = log_p.add_(log_q).sub_(log_m).exp_()
    gradient = log_q.exp_().mul_(share.sum(-1, keepdim=True)).sub_(share)
    return value, gradient.mul_(1 - skew)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
}
MIXED = {"jsd": "beta", "skew_kl": "skew"}
"""Those that look at a mixture of both, and what the teacher's share in it is called: `mix` sets it."""
RELATIONS = ("relational",)
"""Those that compare what tokens have to do with each other, in hidden states (`relational.py`)."""
LOSSES = (*DIVERGENCES, *RELATIONS)


def distillation_loss(
    student_hidden: torch.Tensor,
    student_head: Head | torch.nn.Linear | torch.Tensor,
    teacher: torch.Tensor | tuple[torch.Tensor, Any] | SparseTeacher | None,
    labels: torch.Tensor | None,
    mask: torch.Tensor | None = None,
    *,
    loss: str = "forward_kl",
    temperature: float = 1.0,
    alpha: float = 0.5,
    mix: float | None = None,
    vocabulary: int | None = None,
    normalizer: float | None = None,
    chunk_tokens: int | None = None,
) -> LossParts:
    """The loss of a batch, and its gradient by `student_hidden` and the head, found in this call: `backward` only hands
    it on (once), and logits never exist for more than `chunk_tokens` tokens (None: as many as 256 MB hold).

    student_hidden: (…, hidden), what the head is applied to. labels: (…), the token that each position foretells,
        so shifted already; −100 does not count. None: no cross-entropy, which takes `alpha` 1.
    teacher: its logits (…, vocabulary); or its hidden states and head, projected here, which is cheaper; or what a
        cache kept of it; or None: plain cross-entropy, which takes `alpha` 0.
    mask: (…), how much each token counts (bool or weights from 0); tokens of no weight are not computed at all.
    vocabulary: where student and teacher are padded to different widths, how many tokens they have in common (from
        `align`): the divergence is between the distributions over those alone, the cross-entropy over all
        that the student may say.
    normalizer: what to divide the sums by instead of this batch's weight: for gradient accumulation the weight of
        all batches of the step, else short batches count too much. Where gradients are averaged over processes (DDP,
        FSDP2): the weight over all processes ÷ their number.

    Under autocast to bfloat16 the products are bfloat16 and all else float32. Under FSDP2 call it inside the forward
    of the sharded module that owns the head. Raises EdgekitError where settings or shapes do not fit.
    """
    import_extra("torch", extra="distill")
    from edgekit.distill import batches, chunked

    _check(loss, temperature, alpha, mix, teacher, labels)
    batch = batches.flat_batch(student_hidden, as_head(student_head), labels, mask, normalizer)
    if loss in RELATIONS and alpha > 0:
        return _related(batch, teacher, alpha, chunk_tokens)
    divergence = DIVERGENCES.get(loss)
    return chunked.chunked_loss(
        batch,
        batches.teacher_source(batch, teacher, vocabulary) if alpha > 0 else None,
        partial(divergence, **{MIXED[loss]: mix}) if divergence and mix is not None else divergence,
        temperature=temperature,
        alpha=alpha,
        vocabulary=vocabulary,
        chunk_tokens=chunk_tokens,
    )


def _related(batch: Batch, teacher: Any, alpha: float, chunk_tokens: int | None) -> LossParts:
    torch = import_extra("torch", extra="distill")
    from edgekit.distill import chunked, relational

    own, ce, total = relational.relational_loss(batch, teacher), None, None
    if batch.labels is not None:
        with torch.set_grad_enabled(torch.is_grad_enabled() and alpha < 1):
            plain = chunked.chunked_loss(
                batch, None, None, temperature=1, alpha=0, vocabulary=None, chunk_tokens=chunk_tokens
            )
        ce, total = plain.ce, plain.total
    return LossParts(
        total=alpha * own if total is None else alpha * own + (1 - alpha) * total,
        distill=own.detach(),
        ce=ce,
        tokens=batch.tokens,
        weight=batch.weight,
    )


def _check(loss: str, temperature: float, alpha: float, mix: float | None, teacher: object, labels: object) -> None:
    if loss not in LOSSES:
        raise EdgekitError(f"unknown distillation loss (there are {', '.join(LOSSES)}): `{loss}`")
    if not (math.isfinite(temperature) and temperature > 0):
        raise EdgekitError(f"a temperature is a number above zero, not `{temperature}`")
    if not 0 <= alpha <= 1:
        raise EdgekitError(f"alpha, the share of the distillation, is between 0 and 1, not `{alpha}`")
    if mix is not None and loss not in MIXED:
        raise EdgekitError(f"only {' and '.join(MIXED)} mix the two distributions, not `{loss}`")
    if mix is not None and not 0 < mix < 1:
        raise EdgekitError(f"the share of the teacher in the mixture is between 0 and 1, both excluded, not `{mix}`")
    if teacher is None and alpha > 0:
        raise EdgekitError(f"without a teacher there is only cross-entropy: alpha must be 0, not `{alpha}`")
    if labels is None and alpha < 1:
        raise EdgekitError(f"without labels there is only distillation: alpha must be 1, not `{alpha}`")
