"""How well a model foretells text that no training saw, and how far it is from its teacher there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.distill.heads import head_of
from edgekit.distill.windows import Windows
from edgekit.errors import EdgekitError, import_extra
from edgekit.intervals import mean_interval, share_interval
from edgekit.progress import Progress, silent
from edgekit.records import Estimate, Figure, HeldOut, ScoredWindow, Unknown

if TYPE_CHECKING:
    import torch

BLOCK_LOGITS = 2**25
"""Logits of one model that exist at a time: 128 MiB of float32."""


def held_out(
    model: Any,
    windows: Windows,
    *,
    teacher: Any | None = None,
    teacher_name: str = "",
    teacher_sha256: str = "",
    vocabulary: int | None = None,
    batch: int = 8,
    origin: str = "",
    text_sha256: str = "",
    progress: Progress = silent,
) -> HeldOut:
    """Loss and top-1 of `model` on the tokens of `windows` that have weight, and, with `teacher`, KL(teacher ‖ student)
    at temperature 1 over the first `vocabulary` tokens. All in float32, weighted means over tokens.

    Raises EdgekitError where no token has weight, or a logit is no number.
    """
    torch = import_extra("torch", extra="distill")
    if not windows.weight(torch.arange(len(windows))) > 0:
        raise EdgekitError("no token of the held-out text counts", hint="give it answers, or text of your own")
    modes = [(one, one.training) for one in (model, teacher) if one is not None]
    found: list[ScoredWindow] = []
    try:
        for one, _ in modes:
            one.eval()
        with torch.no_grad():
            for numbers in torch.arange(len(windows)).split(batch):
                found += _score(model, teacher, windows, numbers, vocabulary)
                progress("scoring held-out text", len(found), len(windows))
    finally:
        for one, training in modes:
            one.train(training)
    scored = summed(found, int((windows.weights[:, 1:] > 0).sum()), teacher_name, origin, text_sha256)
    return replace(scored, teacher_sha256=teacher_sha256) if scored.teacher else scored


def summed(
    found: Sequence[ScoredWindow], tokens: int, teacher_name: str = "", origin: str = "", text_sha256: str = ""
) -> HeldOut:
    """The figures of scored windows. Windows of no weight are left out."""
    counted = tuple(one for one in found if one.weight > 0)
    weights = [one.weight for one in counted]
    compared = all(one.kld is not None for one in counted)
    return HeldOut(
        loss=_mean([one.nll for one in counted], weights),
        top1=_mean([one.top1 for one in counted], weights, most=1.0),
        kld=_mean([one.kld or 0.0 for one in counted], weights)
        if compared
        else Unknown(reason="not compared with a teacher"),
        teacher=teacher_name if compared else "",
        tokens=tokens,
        windows=counted,
        origin=origin,
        text_sha256=text_sha256,
    )


def _mean(sums: Sequence[float], weights: Sequence[float], most: float = float("inf")) -> Figure:
    """A ratio of sums, with the interval of its linearization (Cochran 1977, §6.4) over the windows."""
    if len(sums) < 2:
        return Unknown(reason="one window of text has no range", settle="hold out more text")
    ratio, mean_weight = sum(sums) / sum(weights), sum(weights) / len(weights)
    pieces = [ratio + (value - ratio * weight) / mean_weight for value, weight in zip(sums, weights, strict=True)]
    low, high = mean_interval(pieces) or (ratio, ratio)
    low, high = min(max(0.0, low), ratio), max(min(most, high), ratio)
    if most == 1.0 and ratio in (0.0, 1.0):  # all alike show no spread, and yet are no more than so many windows
        low, high = share_interval(round(ratio) * len(sums), len(sums))
    return Estimate(value=ratio, low=low, high=high, basis="measured-here")


def _score(
    model: Any, teacher: Any | None, windows: Windows, numbers: torch.Tensor, vocabulary: int | None
) -> list[ScoredWindow]:
    """The windows of these numbers; their own logits never exist all at once."""
    torch = import_extra("torch", extra="distill")
    inputs, labels, weights = windows.part(numbers, next(model.parameters()).device)
    counted = weights.flatten() > 0
    owner = torch.arange(len(numbers), device=inputs.device).repeat_interleave(inputs.shape[1])[counted]
    heads = [head_of(one) for one in (model, teacher) if one is not None]
    states = [
        one.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)[counted]
        for one in (model, teacher)
        if one is not None
    ]
    sums = torch.zeros(4, len(numbers), dtype=torch.float64)
    targets, shares = labels.flatten()[counted], weights.flatten()[counted].double()
    for block in _blocks(len(targets), max(len(head.weight) for head in heads)):
        rows = [head.logits(one[block]) for head, one in zip(heads, states, strict=True)]
        scores = _scores(rows, targets[block], vocabulary)
        sums.index_add_(1, owner[block].cpu(), (scores * shares[block]).cpu())
    if not bool(sums.isfinite().all()):
        raise EdgekitError("the model's logits on held-out text are no numbers", hint="its training has diverged")
    return [
        ScoredWindow(weight=w, nll=nll, top1=top1, kld=kld if teacher is not None else None)
        for w, nll, top1, kld in sums.T.tolist()
    ]


def _blocks(tokens: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_LOGITS // width)
    for begin in range(0, tokens, step):
        yield slice(begin, begin + step)


def _scores(rows: Sequence[Any], targets: Any, vocabulary: int | None) -> Any:
    """(4, tokens): one, negative log-likelihood, whether it is ranked first, divergence from the teacher."""
    torch = import_extra("torch", extra="distill")
    own = rows[0]
    nll = -own.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    top1 = (own.argmax(-1) == targets).double()
    kld = torch.zeros_like(top1)
    if len(rows) > 1:
        common = vocabulary or min(own.shape[-1], rows[1].shape[-1])
        log_q, log_p = own[:, :common].log_softmax(-1), rows[1][:, :common].log_softmax(-1)
        p = log_p.exp()
        # what the teacher rules out costs nothing; 0 · −inf is no number
        kld = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1).double()
    return torch.stack((torch.ones_like(top1), nll.double(), top1, kld))
