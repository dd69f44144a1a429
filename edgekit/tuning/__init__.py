"""Settings for a model on a machine: the points that fit its memory, the search among them, and flags to paste."""

from __future__ import annotations

from edgekit.tuning.costs import costs_of
from edgekit.tuning.flags import flags_for
from edgekit.tuning.search import Search, Speed
from edgekit.tuning.space import (
    ANYWHERE,
    EVERYTHING,
    SAME_KERNELS,
    Space,
    Target,
    contexts,
    make_space,
    meets,
    needed,
    pain,
)

__all__ = [
    "ANYWHERE",
    "EVERYTHING",
    "SAME_KERNELS",
    "Search",
    "Space",
    "Speed",
    "Target",
    "contexts",
    "costs_of",
    "flags_for",
    "make_space",
    "meets",
    "needed",
    "pain",
]
