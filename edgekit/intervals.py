"""90 % ranges of a mean over the pieces of one text, and of a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.summary import student_t_95

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENOUGH = 10
"""Pieces from which on resampling them says more than Student's t does."""

_RESAMPLES = 2000
_Z_95 = 1.6449


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """90 % interval of the mean of `values`, which follow each other in a text; `None` for fewer than two.

    Neighbours resemble each other and a few pieces are far worse than the rest, so it is the wider, on either side,
    of two intervals over blocks of n^⅓ neighbours: Student's t, and the studentized circular block bootstrap (Politis
    & Romano 1992; Hall 1992, §3.5), seeded. In 500 simulated texts of 10 to 100 pieces each, log-normal with a spread
    of 0.4, neighbours' correlation 0 or 0.3, it covered 88–94 %, where percentiles of the block bootstrap covered
    74–90 %. Fewer than ten pieces have Student's t alone, which covered 73–87 %.
    """
    if len(values) < 2:
        return None
    import numpy as np

    pieces = np.asarray(values, dtype=np.float64)
    if len(pieces) < ENOUGH:
        return _student(pieces)
    length = round(len(pieces) ** (1 / 3))
    whole = len(pieces) // length * length
    parts = (_student(pieces[:whole].reshape(-1, length).mean(axis=1)), _bootstrap(pieces, length))
    # blocks that do not divide the text leave its end out of their mean
    mean = float(pieces.mean())
    return min(mean, *(low for low, _ in parts)), max(mean, *(high for _, high in parts))


def _student(pieces: NDArray[np.float64]) -> tuple[float, float]:
    half_width = student_t_95(len(pieces) - 1) * float(pieces.std(ddof=1)) / math.sqrt(len(pieces))
    return float(pieces.mean()) - half_width, float(pieces.mean()) + half_width


def _bootstrap(pieces: NDArray[np.float64], length: int) -> tuple[float, float]:
    """Quantiles of the resampled t-statistic, turned round the mean."""
    import numpy as np

    count = len(pieces)
    drawn = -(-count // length)
    circle = np.concatenate([pieces, pieces[: length - 1]])
    blocks = np.lib.stride_tricks.sliding_window_view(circle, length).mean(axis=1)
    error = float(blocks.std(ddof=1)) / math.sqrt(drawn)
    resampled = blocks[np.random.default_rng(1).integers(0, count, (_RESAMPLES, drawn))]
    errors = resampled.std(axis=1, ddof=1) / math.sqrt(drawn)
    kept = errors > 0  # a resample of one block over and over has no spread to divide by
    if not kept.any():
        return float(pieces.mean()), float(pieces.mean())
    statistics = (resampled[kept].mean(axis=1) - pieces.mean()) / errors[kept]
    low, high = np.quantile(statistics, (0.05, 0.95))
    return float(pieces.mean() - high * error), float(pieces.mean() - low * error)


def quantile_interval(pieces: Sequence[Sequence[float]], share: float) -> tuple[float, float] | None:
    """90 % interval of the value that a `share` of all numbers in `pieces`, which follow each other in a text, stays
    below; `None` for fewer than two pieces, or where the numbers end before the interval does.

    After Woodruff (1952): a range of the share that lies above the quantile found, from piece to piece (the wider, on
    either side, of `mean_interval` and Wilson's), and the quantiles at its two ends. In 150 simulated texts each of 10
    to 40 pieces of 255 log-normal numbers (spread 1.8 in bursts of eight and 0.4 from piece to piece, neighbours'
    correlation 0 or 0.3) it covered 89–96 % at shares from 0.5 to 0.999 with ten numbers or more beyond; percentiles
    of resampled pieces covered 73–88 %. With five beyond it covered 82–88 %.
    """
    import numpy as np

    parts = [np.asarray(piece, dtype=np.float64) for piece in pieces]
    values = np.sort(np.concatenate(parts))
    found = float(np.quantile(values, share))
    if found == values[0] == values[-1]:
        return found, found
    more, same = int(np.count_nonzero(values > found)), int(np.count_nonzero(values == found))
    # of equal numbers so many count as above that the quantile is where it is
    weight = min(1.0, max(0.0, (1 - share) * len(values) - more) / max(1, same))
    above = [((part > found).sum() + weight * (part == found).sum()) / max(1, len(part)) for part in parts]
    between = mean_interval(above)
    if between is None:
        return None
    counted = share_interval(round(more + weight * same), len(values))
    fewest, most = min(between[0], counted[0]), max(between[1], counted[1])
    if fewest * len(values) < 1 or most >= 1:
        return None
    return min(found, float(np.quantile(values, 1 - most))), max(found, float(np.quantile(values, 1 - fewest)))


def share_interval(hits: int, total: int) -> tuple[float, float]:
    """90 % interval of a share of independent trials, after Wilson (1927); it keeps a width at 0 and at 1."""
    share, z = hits / total, _Z_95
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half_width = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # exactly, where rounding would leave a hair
    return middle - half_width if hits else 0.0, middle + half_width if hits < total else 1.0
