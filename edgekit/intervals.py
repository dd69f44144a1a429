"""90 % ranges of a mean over the pieces of one text, and of a share.

Neighbouring pieces resemble each other (one document spans several), so they are resampled in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.summary import student_t_95

RESAMPLES = 2000
_Z_95 = 1.6449


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """90 % interval of the mean of `values`, in the text's order; `None` for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half_width = student_t_95(len(values) - 1) * math.sqrt(variance / len(values))
    return mean - half_width, mean + half_width


def share_interval(hits: int, total: int) -> tuple[float, float]:
    """90 % interval of a share of independent trials, after Wilson (1927); it keeps a width at 0 and at 1."""
    share, z = hits / total, _Z_95
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half_width = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half_width), min(1.0, middle + half_width)
