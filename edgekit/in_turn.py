"""Whether one build is slower than another: ratios from runs in turn, looked at a fixed number of times.

The interval is that of the Hodges–Lehmann centre of the pairs' log ratios, from the exact distribution of Wilcoxon's
signed ranks (Hollander & Wolfe, *Nonparametric Statistical Methods*, §3.2–3.3): no outlier, however far, moves it
more than a near one. A run may stop at any of `LOOKS`, each with an equal part of `ALPHA` (Bonferroni), so stopping
early costs no coverage. `benchmarks/false_alarms.py` simulates both claims under drift and autocorrelated noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

LOOKS = (10, 14, 20, 28, 40)
"""Pairs after which a verdict may fall. Ten are the fewest from which an interval of a look's level exists."""

ALPHA = 0.02
"""Of all looks together, both sides: an interval misses the truth on the wrong side in at most 1 % of comparisons."""


def interval(log_ratios: Sequence[float], *, alpha: float = ALPHA / len(LOOKS)) -> tuple[float, float, float] | None:
    """(centre, low, high) of the log ratio at confidence 1 − `alpha`; `None` where there are too few pairs for it."""
    count = len(log_ratios)
    rank = _rank(count, alpha)
    if rank is None:
        return None
    averages = sorted(
        (log_ratios[first] + log_ratios[second]) / 2 for first in range(count) for second in range(first, count)
    )
    middle = len(averages) // 2
    centre = averages[middle] if len(averages) % 2 else (averages[middle - 1] + averages[middle]) / 2
    return centre, averages[rank], averages[-1 - rank]


@cache
def _rank(count: int, alpha: float) -> int | None:
    """How many of the smallest Walsh averages lie outside: the largest k with P(T ≤ k) ≤ α / 2 under no change."""
    below = 0.0
    rank = None
    for value, share in enumerate(_signed_rank(count)):
        below += share
        if below > alpha / 2:
            break
        rank = value
    return rank


@cache
def _signed_rank(count: int) -> tuple[float, ...]:
    """P(T = t) for t = 0 … count·(count + 1) / 2: every rank joins the sum or not, like a coin."""
    shares = [1.0]
    for rank in range(1, count + 1):
        shares = [
            ((shares[at] if at < len(shares) else 0.0) + (shares[at - rank] if at >= rank else 0.0)) / 2
            for at in range(len(shares) + rank)
        ]
    return tuple(shares)


def judge(
    log_ratios: Sequence[float], limit: float, better: Literal["higher", "lower"]
) -> Literal["pass", "fail", "unknown"]:
    """Whether NEW ÷ BASE keeps to `limit`, the worst ratio allowed; `unknown` while the interval holds the limit."""
    found = interval(log_ratios)
    if found is None:
        return "unknown"
    _, low, high = found
    worst = math.log(limit)
    if better == "lower":
        low, high, worst = -high, -low, -worst
    return "pass" if low >= worst else "fail" if high < worst else "unknown"


def mann_whitney(base: Sequence[float], new: Sequence[float]) -> float | None:
    """Two-sided p of no difference between the unpaired values (Mann & Whitney 1947), exact without ties up to a few
    dozen values and by the normal approximation with ties; `None` for fewer than three on a side.
    """
    if min(len(base), len(new)) < 3:
        return None
    wins = sum((a > b) + (a == b) / 2 for a in base for b in new)
    both = sorted([*base, *new])
    ties = sum(size**3 - size for size in (both.count(value) for value in dict.fromkeys(both)))
    total = len(both)
    spread = len(base) * len(new) / 12 * (total + 1 - ties / (total * (total - 1)))
    if spread <= 0:
        return 1.0
    distance = max(0.0, abs(wins - len(base) * len(new) / 2) - 0.5)
    return math.erfc(distance / math.sqrt(2 * spread))
