"""The front of quality, size and speed: the best plan for each of a dozen budgets, from one table of sensitivities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgekit.memory.tensors import retyped
from edgekit.quantize.cells import Cell, Sensitivities
from edgekit.quantize.pricing import Place, places_of
from edgekit.quantize.solver import METADATA_BYTES, solve
from edgekit.records import Budget, Device, Estimate, Header, ParetoPoint, QuantPlan, Settings
from edgekit.units import format_bytes

POINTS = 12


def front(
    sens: Sensitivities,
    header: Header,
    device: Device | None = None,
    *,
    settings: Settings | None = None,
    points: int = POINTS,
) -> tuple[ParetoPoint, ...]:
    """Plans from the smallest possible to that of the best types, evenly spaced in the logarithm of their budget, the
    smallest first; those that another one beats in every respect are left out.

    Budgets are memory on `device` (not capped by what it has: the front shows what a larger one would give), else file
    bytes. Raises EdgekitError where not even the smallest can be planned.
    """
    ends = _ends(sens, header, device, settings)
    sizes = [ends[0] * (ends[1] / ends[0]) ** (step / max(1, points - 1)) for step in range(points)]
    sizes[-1] = max(sizes[-1], ends[1])
    found = []
    for size in dict.fromkeys(map(math.ceil, sizes)):
        budget = Budget(memory_bytes=size) if device else Budget(file_bytes=size)
        plan = solve(sens, header, budget=budget, device=device, settings=settings)
        found.append(ParetoPoint(label=format_bytes(size), plan=plan))
    return undominated(found)


def undominated(points: Sequence[ParetoPoint]) -> tuple[ParetoPoint, ...]:
    """Those that no other point is as small, as good and as fast as, with one of them better; equals are kept once."""
    kept: list[ParetoPoint] = []
    merits = [merit(point.plan) for point in points]
    for index, own in enumerate(merits):
        beaten = any(
            all(a <= b for a, b in zip(other, own, strict=True)) and (other != own or place < index)
            for place, other in enumerate(merits)
            if place != index
        )
        if not beaten:
            kept.append(points[index])
    return tuple(sorted(kept, key=lambda point: point.plan.size_bytes))


def merit(plan: QuantPlan) -> tuple[float, float, float]:
    """Bytes, KLD and seconds per token, each the less the better: memory on the worst device where one is named, else
    stored bytes; the time is that of the slowest device, 0 where no speed is known.
    """
    size = max((one.memory.value for one in plan.on), default=float(plan.size_bytes))
    figure = plan.kld_joint if isinstance(plan.kld_joint, Estimate) else plan.kld
    kld = figure.value if isinstance(figure, Estimate) else math.fsum(tensor.kld for tensor in plan.tensors)
    rates = [one.decode.value for one in plan.on if isinstance(one.decode, Estimate)]
    return size, kld, 1 / min(rates) if rates else 0.0


def _ends(sens: Sensitivities, header: Header, device: Device | None, settings: Settings | None) -> tuple[float, float]:
    """The smallest budget that works and the largest that is of use."""
    budget = Budget(memory_bytes=_HUGE) if device else Budget(file_bytes=_HUGE)
    smallest = _with_sizes(sens, header, places_of(device, budget.memory_bytes, settings, ""))
    plans = [solve(table, header, budget=budget, device=device, settings=settings) for table in (smallest, sens)]
    if device:
        least, most = (max(one.memory.high for one in plan.on) for plan in plans)
        return least + 1, most + 1
    around = header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors) + METADATA_BYTES
    return plans[0].size_bytes + around, plans[1].size_bytes + around


_HUGE = 1e15


def _with_sizes(sens: Sensitivities, header: Header, places: Sequence[Place]) -> Sensitivities:
    """Sensitivities with bytes in the place of KLD: the solver then finds the smallest plan."""
    tensors = {tensor.name: tensor for tensor in header.tensors}

    def size(cell: Cell) -> float:
        tensor = retyped(tensors[cell.tensor], cell.type)
        return float(max((place.cost(tensor, header) for place in places), default=tensor.size_bytes))

    return replace(sens, cells=tuple(replace(cell, kld=size(cell)) for cell in sens.cells))
