"""What two models say of the same tokens, row by row: KL divergence, negative log-likelihood, and whether they agree.

The definitions are those of `llama-perplexity --kl-divergence` (tools/perplexity/perplexity.cpp), without its base
file, whose 16 bits and 16-nat clip blur divergences below about 1e-4. Everything in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Column = NDArray[np.float64]
    Marks = NDArray[np.bool_]

CACHE_BYTES = 2**18
"""Logits that are worked on at once: the half dozen arrays of that size stay in a core's second-level cache."""

SHORTLIST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """What was found in each of some rows, as columns of one number a row, in nats.

    `kld` is KL(reference ‖ model), `nll` −log p(target). `top1`: the same token is likeliest (the first of equals);
    `top5`: the reference's likeliest is among the model's five likeliest, lower ids first among equals. `kld_lower` is
    a lower bound of `kld` where a reference tells but an estimate of it, else `kld` itself.
    """

    kld: Column
    nll: Column
    reference_nll: Column
    top1: Marks
    top5: Marks
    kld_lower: Column

    @property
    def p(self) -> Column:
        """The model's probability of the token that followed."""
        import numpy as np

        return np.exp(-self.nll)

    @property
    def p_reference(self) -> Column:
        """The reference's probability of the token that followed."""
        import numpy as np

        return np.exp(-self.reference_nll)


def score_rows(
    logits: Rows, reference_logits: Rows, targets: NDArray[np.int64] | Sequence[int], *, threads: int = 1
) -> RowScores:
    """The scores of each row of `logits` against `reference_logits`, both (rows, vocabulary) float32 over the same
    vocabulary; `targets` holds the token that followed each row.

    Exact to about 1e-7 a row: where two models are equal, rounding may leave a `kld` that much below zero. A row with
    logits that are no numbers gives NaN or infinity and does not agree.
    """
    import numpy as np

    targets = np.asarray(targets, dtype=np.int64)
    if logits.shape != reference_logits.shape or targets.shape != logits.shape[:1]:
        raise ValueError(f"shapes differ: {logits.shape}, {reference_logits.shape}, {targets.shape}")
    rows = len(targets)
    kld, nll, reference_nll = np.empty(rows), np.empty(rows), np.empty(rows)
    top1, top5 = np.empty(rows, dtype=np.bool_), np.empty(rows, dtype=np.bool_)

    def score(part: slice, scratch: Sequence[Rows]) -> None:
        scores = _score_block(logits[part], reference_logits[part], targets[part], scratch)
        kld[part], nll[part], reference_nll[part], top1[part], top5[part] = scores

    _each_part(score, logits.shape, threads)
    return RowScores(kld=kld, nll=nll, reference_nll=reference_nll, top1=top1, top5=top5, kld_lower=kld)


def is_shortlisted(row: NDArray[np.float32], token: int) -> bool:
    """Whether `token` is among the `SHORTLIST` likeliest of a row of logits, lower ids first among equals. Nothing is
    sorted: the tokens before it are counted.
    """
    import numpy as np

    before = int(np.count_nonzero(row > row[token]))
    if before < SHORTLIST:
        before += int(np.count_nonzero(row[:token] == row[token]))
    return before < SHORTLIST


def nll_rows(logits: Rows, targets: NDArray[np.int64] | Sequence[int], *, threads: int = 1) -> Column:
    """−log p(target) for each row of `logits`, as `score_rows` gives it, for a model without a reference."""
    import numpy as np

    targets = np.asarray(targets, dtype=np.int64)
    nll = np.empty(len(targets))

    def score(part: slice, scratch: Sequence[Rows]) -> None:
        with np.errstate(all="ignore"):
            shifted, total, _ = _exponentials(logits[part], scratch[0], scratch[1])
            nll[part] = np.log(total) - shifted[np.arange(len(shifted)), targets[part]].astype(np.float64)

    _each_part(score, logits.shape, threads)
    return nll


def _each_part(score: Callable[[slice, Sequence[Rows]], None], shape: tuple[int, int], threads: int) -> None:
    """Call `score` for all rows, a few at a time, with scratch space that is reused: fresh pages for every row would
    take as long as the sums. numpy gives the interpreter's lock back while it computes.
    """
    import numpy as np

    rows, vocabulary = shape
    step = max(1, CACHE_BYTES // (4 * vocabulary))
    threads = max(1, min(threads, -(-rows // step)))

    def work(first: int) -> None:
        scratch = [np.empty((step, vocabulary), np.float32) for _ in range(3)]
        for start in range(first * step, rows, threads * step):
            part = slice(start, min(start + step, rows))
            score(part, [array[: part.stop - part.start] for array in scratch])

    if threads == 1:
        work(0)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def _score_block(
    logits: Rows, reference: Rows, targets: NDArray[np.int64], scratch: Sequence[Rows]
) -> tuple[Column, Column, Column, Marks, Marks]:
    """(kld, nll, reference nll, top1, top5). With q, r the logits less their maxima:
    KL = Σ p·(r − q) − log Σeʳ + log Σe^q with p = eʳ / Σeʳ.

    Where p has weight, r and q are small, and so is what float32 rounds off them; the sums are float64.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        shifted, total, top = _exponentials(logits, scratch[0], scratch[2])
        reference_shifted, reference_total, reference_top = _exponentials(reference, scratch[1], scratch[2])
        weights, each = scratch[2], np.arange(len(targets))
        nll = np.log(total) - shifted[each, targets].astype(np.float64)
        reference_nll = np.log(reference_total) - reference_shifted[each, targets].astype(np.float64)
        np.subtract(reference_shifted, shifted, out=shifted)
        np.multiply(weights, shifted, out=shifted)
        kld = shifted.sum(axis=1, dtype=np.float64) / reference_total - np.log(reference_total) + np.log(total)
        top1 = top == reference_top
        top5 = top1.copy()
        for row in np.flatnonzero(~top1):
            top5[row] = is_shortlisted(logits[row], int(reference_top[row]))
    sound = np.isfinite(kld)
    return kld, nll, reference_nll, top1 & sound, top5 & sound


def _exponentials(logits: Rows, shifted: Rows, exponentials: Rows) -> tuple[Rows, Column, NDArray[np.intp]]:
    """Fills `shifted` with the logits less each row's maximum, `exponentials` with theirs; the former, the sum of the
    latter, and where the maximum is.
    """
    import numpy as np

    top = logits.argmax(axis=1)
    np.subtract(logits, logits[np.arange(len(logits)), top][:, None], out=shifted)
    np.exp(shifted, out=exponentials)
    return shifted, exponentials.sum(axis=1, dtype=np.float64), top
