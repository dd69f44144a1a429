"""A model's next-token distributions in a few hundred tokens each, and other logits scored against them.

Of every row the likeliest tokens are kept for sure and the rest, the tail, is sampled in proportion to its
probabilities: a token of probability p is kept with probability min(1, p / cut), at `cut` for all (systematic sampling
with a certainty stratum; Särndal, Swensson & Wretman 1992, §3.6). The divergence falls into two parts by the chain
rule (Cover & Thomas 2006, §2.5). That of the likeliest tokens, with the tail lumped into one, is exact and at most the
whole. The tail's own, Σ p·(−log r) with r the ratio of the tails' shares in the two models, is estimated by its sample,
each summand weighed with cut / p (Horvitz & Thompson 1952), and a control variate: Σ p·(r − 1) is 0, so λ·(r − 1) may
be added to every summand. With λ near 1 the summands are of second order in log r and none is negative: an estimate
is off by a few percent of itself, however small it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[np.float64]
    Logits = NDArray[np.float32]
    Places = NDArray[np.int64]

    from edgekit.runtimes.scores import RowScores

Item = TypeVar("Item")
Result = TypeVar("Result")

CERTAIN_BYTES, SAMPLED_BYTES = 5, 4
"""What a kept token takes in a file (`chunks`)."""

LEAST_CUT = 2.0**-20
"""Tokens below it are sampled even where there is room: what they would add is far below what others leave open."""

_LARGE_RATIO = 3.0
"""Tokens of the tail beyond so many cuts are exceptions: no healthy artifact has any."""

_LEAST_SUM = 1e-30
"""A sum of float32 exponentials below it may have lost most of its summands."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Tokens of consecutive rows: those of row i are at `[starts[i]:starts[i + 1]]`, ascending, with log p in nats."""

    starts: Places
    tokens: Places
    log_p: Column

    def rows(self) -> Places:
        """The row of each token."""
        import numpy as np

        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def part(self, begin: int, end: int) -> Entries:
        """Those of the rows from `begin` to `end`."""
        low, high = int(self.starts[begin]), int(self.starts[end])
        return Entries(self.starts[begin : end + 1] - low, self.tokens[low:high], self.log_p[low:high])

    def where(self, kept: NDArray[np.bool_]) -> Entries:
        """Those that are `kept`."""
        import numpy as np

        counts = np.bincount(self.rows()[kept], minlength=len(self.starts) - 1)
        return Entries(_starts(counts), self.tokens[kept], self.log_p[kept])


@dataclass(frozen=True, slots=True)
class Rows:
    """What is kept of consecutive rows. `nll` is −log p of the token that followed, `top` the likeliest one (the first
    of equals), `tail` the probability outside `certain`, `padding` the part of it on tokens that stand for nothing.
    """

    nll: Column
    top: Places
    log_cut: Column
    tail: Column
    padding: Column
    certain: Entries
    sampled: Entries

    def part(self, begin: int, end: int) -> Rows:
        """The rows from `begin` to `end`."""
        return Rows(
            nll=self.nll[begin:end],
            top=self.top[begin:end],
            log_cut=self.log_cut[begin:end],
            tail=self.tail[begin:end],
            padding=self.padding[begin:end],
            certain=self.certain.part(begin, end),
            sampled=self.sampled.part(begin, end),
        )

    def without_padding(self, known: int) -> Rows:
        """The distributions over the first `known` tokens alone, for a model whose padding is shorter."""
        import numpy as np

        dropped = self.certain.tokens >= known
        lost = np.bincount(self.certain.rows()[dropped], np.exp(self.certain.log_p[dropped]), minlength=len(self.nll))
        log_left = np.log1p(-np.minimum(lost + self.padding, 1 - 1e-12))
        certain, sampled = (part.where(part.tokens < known) for part in (self.certain, self.sampled))
        top = self.top.copy()
        for row in np.flatnonzero(top >= known).tolist():
            rest = certain if certain.starts[row] < certain.starts[row + 1] else sampled
            one = rest.part(row, row + 1)
            top[row] = one.tokens[one.log_p.argmax()] if len(one.tokens) else 0
        return Rows(
            nll=self.nll + log_left,
            top=top,
            log_cut=self.log_cut - log_left,
            tail=np.maximum(0.0, self.tail - self.padding) / np.exp(log_left),
            padding=np.zeros_like(self.padding),
            certain=replace(certain, log_p=certain.log_p - log_left[certain.rows()]),
            sampled=replace(sampled, log_p=sampled.log_p - log_left[sampled.rows()]),
        )


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows that follow each other."""
    import numpy as np

    def entries(some: Sequence[Entries]) -> Entries:
        counts = np.concatenate([np.diff(one.starts) for one in some])
        tokens, log_p = np.concatenate([one.tokens for one in some]), np.concatenate([one.log_p for one in some])
        return Entries(_starts(counts), tokens, log_p)

    return Rows(
        nll=np.concatenate([part.nll for part in parts]),
        top=np.concatenate([part.top for part in parts]),
        log_cut=np.concatenate([part.log_cut for part in parts]),
        tail=np.concatenate([part.tail for part in parts]),
        padding=np.concatenate([part.padding for part in parts]),
        certain=entries([part.certain for part in parts]),
        sampled=entries([part.sampled for part in parts]),
    )


# ---- keeping --------------------------------------------------------------------------------------------------------


def keep_rows(
    logits: Logits, targets: Sequence[int], starts: Column, *, known: int, row_bytes: int, threads: int = 1
) -> Rows:
    """What `row_bytes` hold of each row of `logits`, (rows, vocabulary) float32, and of what `targets` followed.

    `starts` in [0, 1), one a row, are where the sampling starts: uniform random numbers make it unbiased. Tokens from
    `known` on are padding. Rows whose logits are no numbers give NaN in `nll`.
    """
    import numpy as np

    kept = _each(
        lambda index: _keep(logits[index], float(starts[index]), known, row_bytes), range(len(logits)), threads
    )
    top = np.array([row.top for row in kept], np.int64)
    # log p of a token is its logit less this
    level = np.array([float(row[token]) for row, token in zip(logits, top, strict=True)])
    level += np.log([row.total for row in kept])

    def entries(parts: Sequence[Places]) -> Entries:
        starting = _starts(np.array([len(part) for part in parts], np.int64))
        tokens = np.concatenate(parts).astype(np.int64)
        rows = np.repeat(np.arange(len(parts)), np.diff(starting))
        return Entries(starting, tokens, logits[rows, tokens].astype(np.float64) - level[rows])

    return Rows(
        nll=level - logits[np.arange(len(targets)), np.asarray(targets)].astype(np.float64),
        top=top,
        log_cut=np.array([row.log_cut for row in kept]),
        tail=np.array([row.tail for row in kept]),
        padding=np.array([row.padding for row in kept]),
        certain=entries([row.certain for row in kept]),
        sampled=entries([row.sampled for row in kept]),
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """One row: the likeliest token, Σ exp(logit − the largest), and what `Rows` and `Entries` say."""

    top: int
    total: float
    log_cut: float
    tail: float
    padding: float
    certain: Places
    sampled: Places


def _keep(logits: Logits, start: float, known: int, row_bytes: int) -> _Kept:
    import numpy as np

    top = int(logits.argmax())
    with np.errstate(all="ignore"):
        weights = np.exp(logits - logits[top])
        total = float(weights.sum(dtype=np.float64))
    if not np.isfinite(total):
        nothing = np.empty(0, np.int64)
        return _Kept(top, float("nan"), 0.0, 1.0, 0.0, nothing, nothing)
    least = np.float32(_cut(weights, total, row_bytes) * total)  # what float32 weights are compared with, exactly
    certain = np.flatnonzero(weights >= least)
    weights[certain] = 0
    sums = weights.cumsum(dtype=np.float64)
    points = np.arange(max(0, math.ceil(sums[-1] / float(least) - start))) + start
    sampled = np.searchsorted(sums, points * float(least), side="right")
    return _Kept(
        top=top,
        total=total,
        log_cut=math.log(float(least) / total),
        tail=float(sums[-1]) / total,
        padding=float(sums[-1] - sums[known - 1]) / total,
        certain=certain,
        sampled=sampled[sampled < len(weights)],
    )


def _cut(weights: Logits, total: float, row_bytes: int) -> float:
    """The probability from which on tokens are certain, so that these and the samples take `row_bytes`.

    With the k likeliest certain, what is left in bytes gives the number of samples of the tail, and that the cut: the
    first k whose cut is not below the next token's probability is the solution.
    """
    import numpy as np

    most = (row_bytes - 1) // CERTAIN_BYTES  # a byte is left, whatever is certain
    large = weights[weights >= np.float32(LEAST_CUT * total)]
    if len(large) > most:
        large = np.partition(large, len(large) - most)[-most:]
    p = -np.sort(-large).astype(np.float64) / total
    left = row_bytes - CERTAIN_BYTES * np.arange(len(p) + 1.0)
    tails = np.maximum(0.0, 1.0 - np.concatenate([[0.0], p.cumsum()]))
    cuts = SAMPLED_BYTES * tails / left
    return max(LEAST_CUT, float(cuts[np.argmax(cuts >= np.append(p, 0.0))]))


def _starts(counts: Places) -> Places:
    import numpy as np

    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


# ---- scoring --------------------------------------------------------------------------------------------------------


def judge_rows(rows: Rows, logits: Logits, targets: Sequence[int], *, threads: int = 1) -> RowScores:
    """Scores of each row of `logits`, (rows, vocabulary) float32 over the vocabulary of `rows`, as `scores.score_rows`
    gives them; `kld` is the unbiased estimate and at least `kld_lower`.
    """
    import numpy as np

    from edgekit.runtimes.scores import RowScores

    found = _each(lambda row: _judge(rows, row, logits[row], targets[row]), range(len(logits)), threads)
    kld, lower, nll, top1, top5 = (np.array(column) for column in zip(*found, strict=True))
    return RowScores(kld=kld, nll=nll, reference_nll=rows.nll, top1=top1, top5=top5, kld_lower=lower)


def join_scores(parts: Sequence[RowScores]) -> RowScores:
    """Scores of rows that follow each other."""
    import numpy as np

    from edgekit.runtimes.scores import RowScores

    return RowScores(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(RowScores)}
    )


def _judge(rows: Rows, row: int, logits: Logits, target: int) -> tuple[float, float, float, bool, bool]:
    """(kld, its lower bound, nll, top1, top5) of one row."""
    import numpy as np

    from edgekit.runtimes.scores import is_shortlisted

    certain, tail = rows.certain.part(row, row + 1), float(rows.tail[row])
    top, reference_top = int(logits.argmax()), int(rows.top[row])
    with np.errstate(all="ignore"):
        shifted = logits - logits[top]
        weights = np.exp(shifted)
        level = float(logits[top]) + float(np.log(weights.sum(dtype=np.float64)))  # log q is a logit less this
        weights[certain.tokens] = 0
        total = float(weights.sum(dtype=np.float64))
        log_tail = float(logits[top]) - level + _log_tail(shifted, total, certain.tokens)
        p, log_ratio = np.exp(certain.log_p), logits[certain.tokens].astype(np.float64) - level - certain.log_p
        lower = float(np.sum(p * (np.expm1(log_ratio) - log_ratio)))  # no summand is negative, none cancels near 0
        lower += (
            tail * (math.expm1(log_tail - math.log(tail)) - log_tail + math.log(tail))
            if tail
            else float(np.exp(log_tail))
        )
        kld = lower
        sampled = rows.sampled.part(row, row + 1)
        if len(sampled.tokens):
            shares = logits[sampled.tokens].astype(np.float64) - level - log_tail - (sampled.log_p - math.log(tail))
            kld += _tail(
                shares, weights, total, sampled.tokens, math.exp(rows.log_cut[row]), tail, _control(p, log_ratio)
            )
    nll = level - float(logits[target])
    if not math.isfinite(kld):
        return math.nan, math.nan, nll, False, False
    return max(kld, lower), lower, nll, top == reference_top, is_shortlisted(logits, reference_top)


def _tail(
    log_ratio: Column, weights: Logits, total: float, tokens: Places, cut: float, tail: float, control: float
) -> float:
    """The estimate of the tail's own divergence, times the `tail`. `log_ratio` is of the sampled `tokens`, `weights`
    are the exponentials of all tokens of the tail, `total` their sum.

    Tokens that the artifact gives far more than the cut are known to have a large r, whatever p they have. They are
    left out of the control variate, whose sum is then minus what they have: or the few of them that are sampled would
    outweigh all else, and without them the estimate would be too low.
    """
    import numpy as np

    if total < _LEAST_SUM:
        return cut * float(np.sum(-log_ratio))
    least = _LARGE_RATIO * cut / tail * total
    large = float(weights[weights > least].sum(dtype=np.float64)) / total
    varied = np.where(weights[tokens] > least, -1.0, np.expm1(log_ratio))
    return cut * float(np.sum(-log_ratio + control * varied)) + tail * control * large


def _control(p: Column, log_ratio: Column) -> float:
    """The λ of the least variance were log r normal, with the variance it has over the certain tokens: 1 for small ones
    (J. Schulman's third estimator of KL, 2020), 0 for models that have little in common.
    """
    import numpy as np

    mass = float(p.sum())
    if mass <= 0:
        return 1.0
    mean = float(np.sum(p * log_ratio)) / mass
    variance = float(np.sum(p * (log_ratio - mean) ** 2)) / mass
    return variance / float(np.expm1(variance)) if variance > 0 else 1.0


def _log_tail(shifted: Logits, total: float, certain: Places) -> float:
    """log Σ exp over what is not `certain`; where that has left float32's range, from its own largest on."""
    import numpy as np

    if not total < _LEAST_SUM:  # NaN goes this way, too
        return float(np.log(total))
    rest = np.delete(shifted, certain).astype(np.float64)
    if not len(rest):
        return -math.inf
    largest = float(rest.max())
    return largest + float(np.log(np.exp(rest - largest).sum()))


def _each(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """`work` on each of `items`, by several threads: numpy gives the interpreter's lock back while it computes."""
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
