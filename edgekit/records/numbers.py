"""Numbers that cannot lose their range or their origin (design §3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "measured-here", "projected", "predicted", "estimated", "claimed"]
"""Where a number comes from, strongest first (design §3)."""

BASES: tuple[Basis, ...] = ("measured", "measured-here", "projected", "predicted", "estimated", "claimed")


def weakest(bases: tuple[Basis, ...]) -> Basis:
    """The basis of a composite: the weakest among its parts."""
    return max(bases, key=BASES.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number that cannot lose its 90 % range or its origin. `low ≤ value ≤ high`, all finite."""

    value: float
    low: float
    high: float
    basis: Basis
    note: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"an estimate must be finite: {self.low} ≤ {self.value} ≤ {self.high}")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an estimate lies within its range: {self.low} ≤ {self.value} ≤ {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Not known, and why: a value with a reason, never `None`-means-fine. `settle` is the command or act that would
    settle it.
    """

    reason: str
    settle: str = ""


Figure = Estimate | Unknown


def exact(value: float, basis: Basis, note: str = "") -> Estimate:
    """An estimate without width, for figures that are counted and not sampled."""
    return Estimate(value=value, low=value, high=value, basis=basis, note=note)
