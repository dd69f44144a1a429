"""The multiple-choice knapsack itself, without models or types: one option of every group, within all limits."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgekit.errors import EdgekitError, import_extra

TIME_LIMIT_S = 120.0
_TIME_IS_UP = 1  # of scipy's milp
_SCALE = 1e4  # of HiGHS's rows and objective: its tolerances (1e-6) are absolute


def choose(
    objective: Sequence[float],
    groups: Sequence[tuple[int, int]],
    rows: Sequence[tuple[Sequence[float], float]],
    slack: float = 0.0,
) -> list[int] | None:
    """One option of every group, of least total `objective` with every row's sum at most its bound (less `slack` of
    it), proven optimal; `None` where there is no such choice. HiGHS through scipy. Raises EdgekitError when it cannot
    be proven within two minutes.
    """
    if any(bound < 0 for _, bound in rows):
        return None
    import_extra("scipy", extra="quantize")
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    count = len(objective)
    # only differences within a group matter: from each group's best on, the numbers are small and well scaled
    costs = np.array(objective, dtype=np.float64)
    for start, end in groups:
        costs[start:end] -= costs[start:end].min()
    spread = float(np.median([costs[start:end].max() for start, end in groups])) or 1.0
    one_each = csr_matrix(
        (np.ones(count), np.arange(count), [start for start, _ in groups] + [count]), shape=(len(groups), count)
    )
    constraints: list[Any] = [LinearConstraint(one_each, 1, 1)]
    for coefficients, bound in rows:
        scale = _SCALE / (bound or max(map(abs, coefficients)) or 1.0)
        scaled = np.array(coefficients, dtype=np.float64) * scale
        constraints.append(LinearConstraint(csr_matrix(scaled), -np.inf, bound * scale * (1 - slack)))
    with _silenced_stdout():
        result = milp(
            costs * (_SCALE / spread),
            constraints=constraints,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT_S},
        )
    if result.status == _TIME_IS_UP:
        raise EdgekitError(
            f"no optimum was proven within {TIME_LIMIT_S:g} s", hint="give a budget a little larger or smaller"
        )
    if result.x is None:
        return None
    return [start + int(np.argmax(result.x[start:end])) for start, end in groups]


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """HiGHS prints notes to itself on the C stdout, where `--json` writes."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C still holds in its buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
