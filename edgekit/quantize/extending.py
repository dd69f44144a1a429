"""From probes to cells: what was not measured follows from the error table.

KLD is proportional to the mean squared error of a tensor's outputs, with a factor of the tensor (or of its group) and
a smaller one of the type: errors of some types add up over tensors more than those of others. Both are fitted to all
probes that were not held out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.header.ggml import BLOCK
from edgekit.quantize.cells import Cell, Probe

Errors = Mapping[tuple[str, str], float]

ROUNDS = 30
NEAR = 0.3
"""Of two probes of a tensor, the one whose error is nearer (in natural logarithms, from this on) counts more."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A probe in the model's terms: `ratio` is log(KLD ÷ error)."""

    index: int
    kind: str
    error: float
    ratio: float


def extend(probes: Sequence[Probe], errors: Errors) -> list[Cell]:
    """A cell for every tensor and type in `errors`, from the probes that were not held out."""
    unit_of: dict[str, tuple[str, ...]] = {}
    first: dict[tuple[str, ...], int] = {}
    own: dict[tuple[str, str], int] = {}
    for index, probe in enumerate(probes):
        if not probe.held_out:
            first.setdefault(probe.tensors, index)
            for name in probe.tensors:
                unit_of.setdefault(name, probe.tensors)
                own.setdefault((name, probe.type), index)
    seen = _seen(probes, errors)
    factors = _type_factors(seen)
    cells = []
    for (name, kind), error in errors.items():
        index = own.get((name, kind), -1)
        if index >= 0:
            kld = statistics.fmean(probes[index].kld) * _share(name, probes[index], errors)
        else:
            index, kld = _extended(seen.get(unit_of[name], ()), factors, kind, error, first[unit_of[name]])
        alone = own.get((name, kind), -1) >= 0 and len(probes[index].tensors) == 1
        cells.append(Cell(tensor=name, type=kind, error=error, kld=kld, probe=index, measured=alone))
    return cells


def _share(name: str, probe: Probe, errors: Errors) -> float:
    """The part of a probe's KLD that falls to one of its tensors."""
    whole = math.fsum(errors[other, probe.type] for other in probe.tensors)
    return errors[name, probe.type] / whole if whole else 1 / len(probe.tensors)


def _seen(probes: Sequence[Probe], errors: Errors) -> dict[tuple[str, ...], list[_Seen]]:
    found: dict[tuple[str, ...], list[_Seen]] = {}
    for index, probe in enumerate(probes):
        kld = statistics.fmean(probe.kld)
        error = math.fsum(errors[name, probe.type] for name in probe.tensors)
        if not probe.held_out and kld > 0 and error > 0:
            own = _Seen(index, probe.type, error / len(probe.tensors), math.log(kld / error))
            found.setdefault(probe.tensors, []).append(own)
    return found


def _type_factors(seen: Mapping[tuple[str, ...], Sequence[_Seen]]) -> dict[str, float]:
    """Logarithm of each measured type's factor: alternating means of what tensors and types explain, drawn to zero
    where few probes speak.
    """
    kinds = {one.kind for own in seen.values() for one in own}
    factors = dict.fromkeys(kinds, 0.0)
    for _ in range(ROUNDS):
        rest: dict[str, list[float]] = {kind: [0.0] for kind in kinds}  # one observation of "no different"
        for own in seen.values():
            level = statistics.fmean(one.ratio - factors[one.kind] for one in own)
            for one in own:
                rest[one.kind].append(one.ratio - level)
        factors = {kind: statistics.fmean(values) for kind, values in rest.items()}
    return factors


def _extended(
    own: Sequence[_Seen], factors: Mapping[str, float], kind: str, error: float, first: int
) -> tuple[int, float]:
    """The probe that an unmeasured cell rests on, and its KLD."""
    if not own or error <= 0:
        return first, 0.0
    nearness = [1 / (NEAR + abs(math.log(error / one.error))) for one in own]
    level = math.fsum(
        weight * (one.ratio - factors[one.kind]) for weight, one in zip(nearness, own, strict=True)
    ) / math.fsum(nearness)
    nearest = max(zip(nearness, own, strict=True), key=lambda pair: pair[0])[1]
    return nearest.index, error * math.exp(level + _factor(factors, kind))


def _factor(factors: Mapping[str, float], kind: str) -> float:
    """That of the type, where it was measured, otherwise between those of the types next to it in size."""
    if kind in factors:
        return factors[kind]
    bits = {other: 8 * BLOCK[other][1] / BLOCK[other][0] for other in (*factors, kind)}
    below = max((other for other in factors if bits[other] <= bits[kind]), key=lambda one: bits[one], default=None)
    above = min((other for other in factors if bits[other] >= bits[kind]), key=lambda one: bits[one], default=None)
    if below is None or above is None:
        nearest = below or above
        return factors[nearest] if nearest else 0.0
    width = bits[above] - bits[below]
    part = (bits[kind] - bits[below]) / width if width else 0.5
    return factors[below] + part * (factors[above] - factors[below])


def judge(probes: Sequence[Probe], errors: Errors) -> tuple[float | None, float | None]:
    """(median factor by which extended cells miss held-out probes, correlation of their logarithms); `None` where
    fewer than three were held out.
    """
    cells = {(cell.tensor, cell.type): cell.kld for cell in extend(probes, errors)}
    pairs = [
        (math.log(cells[probe.tensors[0], probe.type]), math.log(statistics.fmean(probe.kld)))
        for probe in probes
        if probe.held_out and cells[probe.tensors[0], probe.type] > 0 and statistics.fmean(probe.kld) > 0
    ]
    if len(pairs) < 3:
        return None, None
    miss = math.exp(statistics.median(abs(ours - theirs) for ours, theirs in pairs))
    ours, theirs = zip(*pairs, strict=True)
    flat = len(set(ours)) < 2 or len(set(theirs)) < 2
    return miss, None if flat else statistics.correlation(ours, theirs)
