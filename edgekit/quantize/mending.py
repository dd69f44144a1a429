"""Which type would take most of a group's KLD away, by the error table, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from edgekit.memory.tensors import retyped
from edgekit.quantize.degrading import DEFAULT_TYPES, matrices_of, relative_errors, types_for
from edgekit.quantize.ggml_types import NEED_IMATRIX
from edgekit.quantize.pairing import Changed, Pair

MENDED = 0.2
"""A type mends a group when no more than this part of its KLD remains."""


DAMAGED = 4.0
"""So many times the squared error that its type makes without an importance matrix; one that was used adds some tens of
per cent to it, for less error where it counts.
"""


def mending_types(pair: Pair, group: Sequence[Changed], pool: ThreadPoolExecutor) -> list[tuple[str, int]]:
    """(type, bytes that it takes more) of those types that leave `MENDED` of the group's error or less, the cheapest
    first: squared errors of the full-precision tensors in each type against those in the artifact, tensor for tensor
    alike, since KLD is proportional to them (`extending`). Without an importance matrix, which artifacts do not carry.

    """
    now = math.fsum(one.error for one in group)
    errors = [_errors(pair, one, _larger(one), pool) for one in group]
    found = []
    for kind in DEFAULT_TYPES:
        if all(kind in table for table in errors) and math.fsum(table[kind] for table in errors) <= MENDED * now:
            size = sum(retyped(one.parent, kind).size_bytes for one in group)
            found.append((kind, size - sum(one.ours.size_bytes for one in group)))
    return sorted(found, key=lambda pair: pair[1])


def is_damaged(pair: Pair, group: Sequence[Changed], pool: ThreadPoolExecutor) -> bool:
    """Whether the group differs from the full-precision tensors by more than its types make of them: what is wrong with
    it is not how few bits it has.
    """
    if not all(one.quantized for one in group):
        return True
    judged = [one for one in group if one.ours.type not in NEED_IMATRIX]
    made = math.fsum(_errors(pair, one, (one.ours.type,), pool)[one.ours.type] for one in judged)
    return math.fsum(one.error for one in judged) > DAMAGED * made


def _errors(pair: Pair, one: Changed, kinds: Sequence[str], pool: ThreadPoolExecutor) -> dict[str, float]:
    return relative_errors(matrices_of(one.parent, pair.parents[one.parent.name], {}), kinds, pool)


def _larger(one: Changed) -> tuple[str, ...]:
    """Types that the tensor can take and that are larger than its own in the artifact."""
    kinds = types_for(one.parent, DEFAULT_TYPES, weighed=False)
    return tuple(kind for kind in kinds if retyped(one.parent, kind).size_bytes > one.ours.size_bytes)
