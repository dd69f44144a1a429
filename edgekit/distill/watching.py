"""When to give a training up: its loss is no number, or stays far above what it has been."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

SEEN = 128
"""Steps that the running median is over; before so many have been there is no judgement but of what is no number."""
PATIENCE = 16
"""Steps in a row that must be far above it: single hard batches are not a divergence."""
FAR = 2.0
"""Times the median. From 3 nats to a guess over a vocabulary of 2000 it is 2.5."""
LITTLE = 0.05
"""Nats: losses near zero may double and mean nothing."""


class Watch:
    """The last losses of a run, and why it should stop. `recent` is all it remembers: a resumed run gives it back."""

    def __init__(self, recent: Iterable[float] = ()) -> None:
        self._recent = deque(recent, maxlen=SEEN + PATIENCE)

    @property
    def recent(self) -> tuple[float, ...]:
        """Oldest first, at most SEEN + PATIENCE."""
        return tuple(self._recent)

    @property
    def suspicious(self) -> bool:
        """Whether the newest loss is far above the median: no time to replace a good checkpoint."""
        return self._far_above() > 0

    def see(self, loss: float, gradient_norm: float) -> str | None:
        """The reason to stop at this step, if there is one; a loss that is no number is not remembered."""
        if not math.isfinite(loss):
            return f"the loss is no number: {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient is no number: its norm is {gradient_norm}"
        self._recent.append(loss)
        if self._far_above() < PATIENCE:
            return None
        return (
            f"the loss has been above {FAR:g} times its running median of {self._median():.4g} nats for {PATIENCE}"
            f" steps: {loss:.4g}"
        )

    def _median(self) -> float:
        return median(list(self._recent)[:-PATIENCE])

    def _far_above(self) -> int:
        """How many of the newest losses, one after the other, are far above the median of those before."""
        if len(self._recent) < SEEN + PATIENCE:
            return 0
        limit = FAR * self._median() + LITTLE
        last = list(self._recent)[-PATIENCE:]
        return next((count for count, loss in enumerate(reversed(last)) if loss <= limit), PATIENCE)
