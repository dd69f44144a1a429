"""Evidence and gates → verdict: the whole range clears, the whole range misses, or it is unknown."""

from __future__ import annotations

from edgekit.gate.judging import exit_code, faults, judge, judge_figure
from edgekit.gate.metrics import METRICS
from edgekit.gate.recommending import recommend

__all__ = ["METRICS", "exit_code", "faults", "judge", "judge_figure", "recommend"]
