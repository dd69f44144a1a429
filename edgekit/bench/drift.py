"""Do samples in time order hang together? Two tests that need no distribution, each with the size of what it found.

Ranges assume independent repetitions. A drifting or wandering host breaks that whatever the number of repetitions
(lag-1 correlation of 0.7: a 90 % range covers 64–81 %), so such samples are contaminated and not averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import NormalDist, median


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What a test found: the probability of so much under independence, and its effect as a fraction of the median."""

    p_value: float
    effect: float


def trend(values: Sequence[float]) -> Drift:
    """Mann–Kendall trend over the order of `values`, exact and two-sided; the effect is the Theil–Sen drift from the
    first to the last of them.

    Kendall's S counts inversions, whose distribution over permutations is known exactly (Mann 1945, Kendall 1938).
    """
    n = len(values)
    if n < 4 or median(values) == 0:
        return Drift(p_value=1.0, effect=0.0)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    inversions = sum(values[i] > values[j] for i, j in pairs) + sum(values[i] == values[j] for i, j in pairs) // 2
    fewer = min(inversions, len(pairs) - inversions)
    slope = median((values[j] - values[i]) / (j - i) for i, j in pairs)
    tail = sum(_inversion_counts(n)[: fewer + 1]) / math.factorial(n)
    return Drift(p_value=min(1.0, 2 * tail), effect=abs(slope * (n - 1) / median(values)))


@cache
def _inversion_counts(n: int) -> list[int]:
    """How many of the n! permutations have 0, 1, 2 … inversions (Mahonian numbers), as exact integers."""
    counts = [1]
    for size in range(2, n + 1):
        longer = [0] * (len(counts) + size - 1)
        window = 0
        for index in range(len(longer)):
            window += counts[index] if index < len(counts) else 0
            window -= counts[index - size] if 0 <= index - size < len(counts) else 0
            longer[index] = window
        counts = longer
    return counts


def wander(values: Sequence[float]) -> Drift:
    """Positive lag-1 dependence by the rank version of von Neumann's ratio, one-sided; the effect is the range between
    the medians of consecutive fifths.

    Source: Bartels 1982, "The rank version of von Neumann's ratio test for randomness", JASA 77, normal approximation.
    """
    n = len(values)
    if n < 10 or median(values) == 0:
        return Drift(p_value=1.0, effect=0.0)
    ranks = _ranks(values)
    middle = (n + 1) / 2
    spread = sum((rank - middle) ** 2 for rank in ranks)
    if spread == 0:
        return Drift(p_value=1.0, effect=0.0)
    ratio = sum((after - before) ** 2 for before, after in pairwise(ranks)) / spread
    variance = 4 * (n - 2) * (5 * n**2 - 2 * n - 9) / (5 * n * (n + 1) * (n - 1) ** 2)
    fifths = [median(values[n * part // 5 : n * (part + 1) // 5]) for part in range(5)]
    return Drift(
        p_value=NormalDist().cdf((ratio - 2) / math.sqrt(variance)),
        effect=(max(fifths) - min(fifths)) / abs(median(values)),
    )


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties sharing their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranks[index] = (start + end) / 2 + 1
        start = end + 1
    return ranks
