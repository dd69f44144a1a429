"""Which teacher layers each student layer was taught by, or was carved out of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mapping = Literal["learned", "uniform", "last", "relative", "carved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMap:
    """Row i of `weights` says what student layer i saw: the share of each teacher layer, each row sums to one.

    `student_layers` and `teacher_layers` are how many there are; `mapping` is how the shares were found (`carved`: the
    student layer is that teacher layer, cut out).
    """

    student_layers: int
    teacher_layers: int
    weights: tuple[tuple[float, ...], ...]
    mapping: Mapping
