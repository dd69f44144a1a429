"""For a check that did not pass: the physical limit with its arithmetic, and what change would pass."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.metrics import Metric
from edgekit.onsite import Subject
from edgekit.records import Figure, Gate, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`physics`: the limit nobody can beat, in words with numbers and sources. `remedy`: what would pass."""

    physics: str = ""
    remedy: str = ""


def advise(subject: Subject, metric: Metric, gate: Gate, figure: Figure, status: Status) -> Advice:
    """Physics and remedy of one check; empty for a check that passes."""
    return Advice()
