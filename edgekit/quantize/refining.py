"""A plan measured as a whole, and improved by swaps measured in its midst.

Sensitivities are measured in the full-precision model, one tensor at a time; what the sum leaves out is how the errors
of several tensors add. Here every tensor is degraded as the plan says, single tensors are swapped to a neighbouring
type, and the knapsack is solved again with what the swaps really change. Swaps are measured on chunks of the text that
lie between those of the sensitivities, and the result is kept only where it is better on these as well.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.header import read_header
from edgekit.header.ggml import BLOCK
from edgekit.progress import Progress, silent
from edgekit.quantize.cells import Cell, Probe, Sensitivities, mean_over_chunks
from edgekit.quantize.plan import types_of
from edgekit.quantize.probing import Prober, open_prober
from edgekit.quantize.sensitivity import importance_of
from edgekit.records import QuantPlan

ROUNDS = 3
STAGE = "refining the plan"
NOTE = "every tensor degraded at once; without the rounding of what is multiplied"

Resolve = Callable[[Sensitivities], QuantPlan]


def refine(
    source: Path,
    sens: Sensitivities,
    plan: QuantPlan,
    resolve: Resolve,
    *,
    imatrix: Path | None,
    text: str,
    minutes: float = 10.0,
    threads: int = 0,
    progress: Progress = silent,
) -> QuantPlan:
    """`plan` or a better one, with `kld_joint` measured on the chunks that `sens` was measured on.

    `resolve` solves for the plan's budget again, from other sensitivities of the same source. Takes about `minutes`
    and gives the plan itself, measured, where they do not suffice for a round of swaps. Raises as `measure` does.
    """
    deadline = time.monotonic() + 60 * minutes
    header = read_header(source)
    count = len(sens.base)
    with open_prober(
        source, header, importance_of(imatrix, header), context_tokens=sens.context_tokens, threads=threads
    ) as prober:
        prober.read(text, sens.context_tokens)
        possible = prober.possible_chunks
        apart = [(2 * index + 1) * possible // (2 * count) for index in range(count)]
        prober.remember(apart, progress)
        best = _improve(prober, sens, plan, resolve, deadline, progress)
        prober.restore(types_of(plan))
        prober.remember([index * possible // count for index in range(count)], progress)
        measured = {}
        for one in (plan, best):
            prober.put(types_of(one))
            measured[one] = prober.score()
    chosen = min((plan, best), key=lambda one: statistics.fmean(measured[one]))
    return replace(chosen, kld_joint=mean_over_chunks(measured[chosen], NOTE))


def _improve(
    prober: Prober, sens: Sensitivities, plan: QuantPlan, resolve: Resolve, deadline: float, progress: Progress
) -> QuantPlan:
    """Solve, measure swaps, solve again, as long as the whole gets better and time allows."""
    best = plan
    prober.put(types_of(best))
    started = time.monotonic()
    base = prober.score()
    score_s = time.monotonic() - started
    for _ in range(ROUNDS):
        swaps = _swaps(sens, types_of(best))
        if time.monotonic() + score_s * len(swaps) > deadline:
            break
        deltas = {}
        for done, (name, kind) in enumerate(swaps):
            progress(STAGE, done, len(swaps), f"{name} {kind}")
            prober.put({name: kind})
            deltas[name, kind] = tuple(now - then for now, then in zip(prober.score(), base, strict=True))
            prober.put({name: types_of(best)[name]})
        candidate = resolve(around(sens, types_of(best), base, deltas))
        if types_of(candidate) == types_of(best):
            break
        prober.put(types_of(candidate))
        joint = prober.score()
        if statistics.fmean(joint) >= statistics.fmean(base):
            prober.put(types_of(best))
            break
        best, base = candidate, joint
    progress(STAGE, 1, 1)
    return best


def _swaps(sens: Sensitivities, types: Mapping[str, str]) -> list[tuple[str, str]]:
    """For each tensor the useful types next to its own, one smaller and one larger, and its equals in size."""
    swaps = []
    by_tensor: dict[str, list[Cell]] = {}
    for cell in sens.cells:
        by_tensor.setdefault(cell.tensor, []).append(cell)
    for name, kind in types.items():
        own = sorted(by_tensor[name], key=lambda cell: (_bits(cell.type), cell.kld))
        useful = [cell for index, cell in enumerate(own) if all(cell.kld < other.kld for other in own[:index])]
        smaller = [cell.type for cell in useful if _bits(cell.type) < _bits(kind)][-1:]
        equal = [cell.type for cell in own if _bits(cell.type) == _bits(kind) and cell.type != kind]
        larger = [cell.type for cell in useful if _bits(cell.type) > _bits(kind)][:1]
        swaps += [(name, other) for other in (*smaller, *equal, *larger)]
    return swaps


def _bits(kind: str) -> float:
    values, size_bytes = BLOCK[kind]
    return 8 * size_bytes / values


def around(
    sens: Sensitivities,
    types: Mapping[str, str],
    base: Sequence[float],
    deltas: Mapping[tuple[str, str], tuple[float, ...]],
) -> Sensitivities:
    """Sensitivities at a plan: what each swap adds to its KLD, measured in `deltas`, otherwise from `sens`."""
    table = {(cell.tensor, cell.type): cell.kld for cell in sens.cells}
    probes = [Probe(tensors=(), type="", kld=(0.0,) * len(base), held_out=True)]
    cells = []
    for cell in sens.cells:
        key = (cell.tensor, cell.type)
        if key in deltas:
            probes.append(Probe(tensors=(cell.tensor,), type=cell.type, kld=deltas[key]))
            kld, index = math.fsum(deltas[key]) / len(base), len(probes) - 1
        else:
            kld, index = table[key] - table[cell.tensor, types[cell.tensor]], 0
        cells.append(replace(cell, kld=kld, probe=index, measured=key in deltas))
    return replace(sens, base=tuple(base), point=tuple(types.items()), probes=tuple(probes), cells=tuple(cells))
