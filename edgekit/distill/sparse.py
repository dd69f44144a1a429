"""A teacher's next-token distributions by their likeliest tokens, and a student's divergence from them.

Of every distribution there are the k likeliest tokens with their probabilities, the mass of all others (the tail), and
tokens drawn from the tail in proportion to their probabilities. KL(teacher ‖ student) falls into two parts by the chain
rule (Cover & Thomas 2006, §2.5):

- over the k tokens and the tail lumped into one. Exact, and never more than the whole. Alone it teaches a student how
  much the tail has and leaves the tail's shape as the student's own: its gradient lacks t · KL(tail's shape), and that
  is its bias. (Renormalising the k tokens instead teaches that the tail is impossible: those students are too sure.)
- within the tail, t · Σ (p/t)·(−log r) with r = (q/q_t) / (p/t), estimated by the tokens drawn: each stands for its
  weight of the tail's mass (Horvitz & Thompson 1952; for cached teachers Anshumann et al. 2025, arXiv:2503.16870).
  Since Σ p·(r − 1) = 0 over the tail, λ·(r − 1) may be added to every summand: value and gradient stay unbiased, and
  with λ near 1 neither has any noise left where the student agrees with the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTeacher:
    """Distributions of `tokens` rows over `vocabulary` tokens, softened by `temperature` already.

    `ids` (tokens, k) int64, no token twice in a row; `log_probs` (tokens, k) float32, in nats; `tail_log_mass`
    (tokens,), the log of the mass of all other tokens, finite. Tokens drawn from these, which may repeat: `tail_ids`
    (tokens, s), `tail_log_probs` (tokens, s), and `tail_weights` (tokens, s), which sum up to the tail's mass in every
    row; s may be 0.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tail_log_mass: torch.Tensor
    tail_ids: torch.Tensor
    tail_log_probs: torch.Tensor
    tail_weights: torch.Tensor
    vocabulary: int
    temperature: float = 1.0

    def part(self, begin: int, end: int) -> SparseTeacher:
        """The rows from `begin` to `end`."""
        return self._each(lambda tensor: tensor[begin:end])

    def where(self, mask: torch.Tensor) -> SparseTeacher:
        """The rows of which `mask` (tokens,) bool is true, or those it names (int64)."""
        return self._each(lambda tensor: tensor[mask])

    def to(self, device: Any) -> SparseTeacher:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.ids)

    def _each(self, change: Any) -> SparseTeacher:
        return SparseTeacher(
            ids=change(self.ids),
            log_probs=change(self.log_probs),
            tail_log_mass=change(self.tail_log_mass),
            tail_ids=change(self.tail_ids),
            tail_log_probs=change(self.tail_log_probs),
            tail_weights=change(self.tail_weights),
            vocabulary=self.vocabulary,
            temperature=self.temperature,
        )


def sparse_forward_kl(teacher: SparseTeacher, logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) of each row in nats, (tokens,), differentiable; unbiased where the teacher has tokens drawn
    from its tail, else the lower bound with the tail lumped.

    `logits` (tokens, vocabulary) are the student's, divided by the teacher's temperature already, without padding.
    """
    log_p, log_q = lumped(teacher, logits)
    coarse = _times(log_p, log_p - log_q).sum(-1)
    if not teacher.tail_ids.shape[-1]:
        return coarse
    # the tail's log-sum-exp is log q_t + the log-sum-exp of all
    log_tail = log_q[:, -1:] + logits.float().logsumexp(-1, keepdim=True)
    log_ratio = logits.float().gather(-1, teacher.tail_ids) - log_tail
    log_ratio = log_ratio - (teacher.tail_log_probs - teacher.tail_log_mass[:, None])
    control = _control(log_p, log_q)
    return coarse + (teacher.tail_weights * (control * log_ratio.expm1() - log_ratio)).sum(-1)


def lumped(teacher: SparseTeacher, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p, log q), both (tokens, k + 1): the teacher's likeliest tokens and its tail as one, and the same of the
    student. Any divergence of these is a lower bound of that of the whole (data processing).

    `logits` as for `sparse_forward_kl`.
    """
    torch = import_extra("torch", extra="distill")
    _check(teacher, logits)
    wide = logits.float()
    top = wide.gather(-1, teacher.ids)
    tail = wide.scatter(-1, teacher.ids, -torch.inf).logsumexp(-1, keepdim=True)
    every = torch.cat((top, tail), -1)
    return torch.cat((teacher.log_probs, teacher.tail_log_mass[:, None]), -1), every.log_softmax(-1)


def sparse_forward_kl_gradient(teacher: SparseTeacher, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(`sparse_forward_kl`, its gradient by `logits` (tokens, vocabulary)), the gradient in closed form: one buffer of
    the logits' size, no graph.
    """
    torch = import_extra("torch", extra="distill")
    _check(teacher, logits)
    with torch.no_grad():
        gradient = logits.float()
        gradient = gradient - gradient.amax(-1, keepdim=True)
        top, drawn = gradient.gather(-1, teacher.ids), gradient.gather(-1, teacher.tail_ids)
        gradient.exp_().scatter_(-1, teacher.ids, 0.0)
        tail = gradient.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        log_q = torch.cat((top, tail.log()), -1).log_softmax(-1)
        log_p = torch.cat((teacher.log_probs, teacher.tail_log_mass[:, None]), -1)
        log_ratio = drawn - tail.log() - (teacher.tail_log_probs - teacher.tail_log_mass[:, None])
        control = _control(log_p, log_q)
        value = _times(log_p, log_p - log_q).sum(-1)
        value += (teacher.tail_weights * (control * log_ratio.expm1() - log_ratio)).sum(-1)
        pull = teacher.tail_weights * (control * log_ratio.exp() - 1)
        # the tail moves as one by q_t − t, and within itself by what was drawn
        shift = log_q[:, -1:].exp() - log_p[:, -1:].exp() - pull.sum(-1, keepdim=True)
        gradient.mul_(shift / tail).scatter_add_(-1, teacher.tail_ids, pull)
        gradient.scatter_(-1, teacher.ids, log_q[:, :-1].exp() - teacher.log_probs.exp())
    return value, gradient


def _control(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """The λ of the least variance were log r normal, with the variance it has over the likeliest tokens: 1 for a small
    one (J. Schulman's third estimator of KL, 2020), 0 for a student that has little in common with its teacher.
    """
    p, log_ratio = log_p[:, :-1].exp(), (log_q - log_p)[:, :-1].detach()
    mass = p.sum(-1, keepdim=True).clamp_min(1e-30)
    mean = (p * log_ratio).sum(-1, keepdim=True) / mass
    variance = (p * (log_ratio - mean) ** 2).sum(-1, keepdim=True) / mass
    return variance.clamp_min(1e-12) / variance.clamp(1e-12, 80.0).expm1()


def _times(log_p: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """p · `other`, 0 where p is."""
    return (log_p.exp() * other).where(log_p > -80.0, 0.0)


def _check(teacher: SparseTeacher, logits: torch.Tensor) -> None:
    if logits.shape != (len(teacher), teacher.vocabulary):
        raise EdgekitError(
            f"the teacher has {len(teacher)} rows over {teacher.vocabulary} tokens, but the student's logits have the"
            f" shape: `{tuple(logits.shape)}`"
        )
