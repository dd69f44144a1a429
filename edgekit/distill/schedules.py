"""How the temperature of distillation moves over the steps: soft targets first, sharp ones at the end."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekit.errors import EdgekitError


def constant(start: float, _end: float, _along: float) -> float:
    """`start` throughout."""
    return start


def linear(start: float, end: float, along: float) -> float:
    """The same change each step."""
    return start + (end - start) * along


def cosine(start: float, end: float, along: float) -> float:
    """Half a cosine: slow at both ends, as of Loshchilov and Hutter, 2017 (arXiv 1608.03983)."""
    return end + (start - end) * (1 + math.cos(math.pi * along)) / 2


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


def temperature_at(step: int, steps: int, *, schedule: str, start: float, end: float | None = None) -> float:
    """The temperature of step `step` (from 0) of `steps`: `start` at the first, `end` at the last.

    Raises EdgekitError on an unknown schedule, on temperatures that are not positive numbers, and where a schedule
    that moves is not told where to.
    """
    if schedule not in SCHEDULES:
        raise EdgekitError(f"unknown temperature schedule (there are {', '.join(SCHEDULES)}): `{schedule}`")
    if end is None and schedule != "constant":
        raise EdgekitError(f"a schedule that moves needs the temperature at its end: `{schedule}`")
    last = start if end is None else end
    for temperature in (start, last):
        if not (math.isfinite(temperature) and temperature > 0):
            raise EdgekitError(f"a temperature is a number above zero, not `{temperature}`")
    along = min(1.0, max(0.0, step / max(1, steps - 1)))
    return SCHEDULES[schedule](start, last, along)
