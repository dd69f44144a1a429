"""The best types for a budget: a multiple-choice knapsack over tensors and types, solved to proven optimality.

Minimise Σ KLD(tensor, type) with one type a tensor, subject to memory at run time on every device, file size, bits per
weight, and decode speed. Memory and sizes are sums over tensors and hold exactly. Projected time is not linear in the
types: it is linearised where a solution is too slow, and solved again, until the projection itself clears the floor
(Kelley's cutting planes: optimal where projected time is convex in the bytes, feasible in any case).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.memory.tensors import retyped, streamed
from edgekit.quantize.cells import Cell, Sensitivities, check, total_kld
from edgekit.quantize.knapsack import choose
from edgekit.quantize.pricing import Place, TimeCut, offered_types, places_of, planned_header, time_cut
from edgekit.records import (
    Budget,
    Device,
    Estimate,
    Header,
    PlannedOn,
    PlannedTensor,
    QuantPlan,
    Settings,
    TensorInfo,
)
from edgekit.units import format_bytes, format_rate

FULL = 0.99
"""A budget of which this much is used counts as used up."""
MAX_CUTS = 40
METADATA_BYTES = 2048
"""What a quantized file's header may hold more than its source's: edgekit's own keys."""
FREE_KLD = 1e-3
"""A tensor that takes no memory (a table that is only looked up) gets the smallest type whose KLD is above its best
type's by no more than this part of the plan's: what costs nothing on the device still costs the download.
"""

Binding = Literal["memory", "file", "bits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Σ `costs` over the chosen options must not exceed `most`; both in whole bytes."""

    kind: Binding
    place: str
    costs: tuple[int, ...]
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Options of one tensor stand together: `groups` holds where each tensor's begin and end."""

    cells: tuple[Cell, ...]
    infos: tuple[TensorInfo, ...]
    groups: tuple[tuple[int, int], ...]
    limits: tuple[Limit, ...]


ROUNDS = 6
"""Of solving, each with as much kept free as the plan before was over its limit: what huge pages hold depends on which
tensors are repacked, and hardly changes from one plan to the next.
"""


def solve(
    sens: Sensitivities,
    header: Header,
    *,
    budget: Budget | None = None,
    device: Device | None = None,
    settings: Settings | None = None,
    isa: str = "",
    min_decode: float = 0.0,
    types: Sequence[str] | None = None,
) -> QuantPlan:
    """The plan with the least KLD for `header`'s model (of `sens`) within `budget` and the memory of `device`.

    A device's own limit holds where `budget` names no memory; `settings` replace its judged configuration; `isa` is
    for memory without a device. `min_decode` is tok/s that the low end of the projected decode speed must reach.
    `types` narrows what is offered. Raises EdgekitError, with the smallest or fastest that works, when there is no
    such plan.
    """
    check(sens, header)
    budget = budget or Budget()
    places = places_of(device, budget.memory_bytes, settings, isa)
    if not places and budget == Budget():
        raise EdgekitError("no budget given", hint="add `--for smartphone`, `--budget 1.2GB` or `--bpw 4.5`")
    if min_decode > 0 and device is None:
        raise EdgekitError("a speed can only be promised on a device", hint="add `--for smartphone`")
    for _ in range(ROUNDS):
        problem = _problem(sens, header, budget, places, types)
        chosen, cuts = _search(problem, header, places, min_decode)
        planned = planned_header(header, _types(problem, chosen))
        if all(place.excess(planned) <= 0 for place in places):
            break
        places = [replace(one, held_bytes=one.held_bytes + max(0.0, one.excess(planned))) for one in places]
    return _plan(sens, header, problem, chosen, budget, device, min_decode, places, bool(cuts))


# ---- the problem ----------------------------------------------------------------------------------------------------


def _problem(
    sens: Sensitivities, header: Header, budget: Budget, places: Sequence[Place], types: Sequence[str] | None
) -> Problem:
    by_name = {tensor.name: tensor for tensor in header.tensors}
    known = list(dict.fromkeys(cell.type for cell in sens.cells if types is None or cell.type in types))
    offered = offered_types(places, header, [cell.tensor for cell in sens.cells], known)
    by_tensor: dict[str, list[Cell]] = {}
    for cell in sens.cells:
        if cell.type in offered:
            by_tensor.setdefault(cell.tensor, []).append(cell)
    missing = next((cell.tensor for cell in sens.cells if cell.tensor not in by_tensor), None)
    if missing is not None:
        raise EdgekitError(f"no type on offer fits this tensor: `{missing}`", hint=f"offered: {', '.join(offered)}")
    cells: list[Cell] = []
    infos: list[TensorInfo] = []
    groups: list[tuple[int, int]] = []
    for name, own in by_tensor.items():
        groups.append((len(cells), len(cells) + len(own)))
        cells += own
        infos += [retyped(by_name[name], cell.type) for cell in own]
    limits = _limits(header, budget, places, infos)
    return Problem(cells=tuple(cells), infos=tuple(infos), groups=tuple(groups), limits=tuple(limits))


def _limits(header: Header, budget: Budget, places: Sequence[Place], infos: Sequence[TensorInfo]) -> list[Limit]:
    planned = {info.name for info in infos}
    kept = [tensor for tensor in header.tensors if tensor.name not in planned]
    kept_bytes = sum(tensor.size_bytes for tensor in kept)
    sizes = tuple(info.size_bytes for info in infos)
    limits = {}
    for place in places:
        costs = tuple(place.cost(info, header) for info in infos)
        most = place.room(header) - sum(place.cost(tensor, header) for tensor in kept)
        limits[costs, most] = Limit(kind="memory", place=place.name, costs=costs, most=most)
    if budget.file_bytes is not None:
        around = header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors) + METADATA_BYTES
        most = math.floor(budget.file_bytes) - around - kept_bytes
        limits[sizes, most] = Limit(kind="file", place="", costs=sizes, most=most)
    if budget.bits_per_weight is not None:
        weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
        most = math.floor(budget.bits_per_weight * weights / 8) - kept_bytes
        limits[sizes, most] = Limit(kind="bits", place="", costs=sizes, most=most)
    return list(limits.values())


# ---- solving --------------------------------------------------------------------------------------------------------


def _search(
    problem: Problem, header: Header, places: Sequence[Place], min_decode: float
) -> tuple[list[int], list[TimeCut]]:
    """Indices of the chosen options, and the cuts on time that were needed."""
    cuts: list[TimeCut] = []
    while True:
        chosen = _optimum(problem, header, cuts)
        if chosen is None:
            raise _nothing_fits(problem, header, places, min_decode, cuts)
        new = _cuts_at(problem, header, places, min_decode, chosen)
        if not new:
            return chosen, cuts
        cuts += new
        if len(cuts) > MAX_CUTS * max(1, len(places)):
            raise _nothing_fits(problem, header, places, min_decode, cuts)


def _cuts_at(
    problem: Problem, header: Header, places: Sequence[Place], min_decode: float, chosen: list[int]
) -> list[TimeCut]:
    """A cut for every device on which the chosen types may be slower than `min_decode`."""
    if min_decode <= 0:
        return []
    planned = planned_header(header, _types(problem, chosen))
    types = sorted({info.type for info in problem.infos})
    cuts = []
    for place in places:
        decode = place.decode(planned)
        if not isinstance(decode, Estimate) or decode.low < min_decode:
            cuts.append(time_cut(place, planned, types, min_decode))
    return cuts


def _types(problem: Problem, chosen: Iterable[int]) -> dict[str, str]:
    return {problem.infos[index].name: problem.infos[index].type for index in chosen}


def _optimum(problem: Problem, header: Header, cuts: Sequence[TimeCut]) -> list[int] | None:
    """The options of least total KLD within all limits and cuts; `None` where there are none."""
    objective = [cell.kld for cell in problem.cells]
    rows = [([float(cost) for cost in limit.costs], float(limit.most)) for limit in problem.limits]
    for cut in cuts:
        seconds = [streamed(info, header) * cut.seconds_per_byte[info.type] for info in problem.infos]
        rows.append((seconds, cut.most_s))
    slack = 0.0
    for _ in range(4):
        chosen = choose(objective, problem.groups, rows, slack)
        if chosen is None or _holds(problem, chosen):
            return chosen if chosen is None else _thrifty(problem, chosen)
        slack = slack * 10 or 1e-9  # a row's tolerance let some bytes too many through
    raise EdgekitError("the solver cannot keep within the budget", hint="give a budget a little larger or smaller")


def _holds(problem: Problem, chosen: Iterable[int]) -> bool:
    chosen = list(chosen)
    return all(sum(limit.costs[index] for index in chosen) <= limit.most for limit in problem.limits)


def _thrifty(problem: Problem, chosen: list[int]) -> list[int]:
    """`chosen`, with tensors that no limit counts in the smallest type that costs next to no quality."""
    allowed = FREE_KLD * math.fsum(abs(problem.cells[index].kld) for index in chosen)
    result = []
    for index, (start, end) in zip(chosen, problem.groups, strict=True):
        options = range(start, end)
        if not any(limit.costs[option] for limit in problem.limits for option in options):
            best = min(problem.cells[option].kld for option in options)
            near = [option for option in options if problem.cells[option].kld <= best + allowed]
            index = min(near, key=lambda option: problem.infos[option].size_bytes)
        result.append(index)
    return result


# ---- when there is none ---------------------------------------------------------------------------------------------


def _nothing_fits(
    problem: Problem, header: Header, places: Sequence[Place], min_decode: float, cuts: Sequence[TimeCut]
) -> EdgekitError:
    """Why, with the smallest budget or the highest speed that works."""
    for limit in problem.limits:
        least = [min(range(start, end), key=lambda i: limit.costs[i]) for start, end in problem.groups]
        if sum(limit.costs[index] for index in least) > limit.most:
            return _too_small(limit, planned_header(header, _types(problem, least)), places)
    if not cuts:
        return EdgekitError("the limits of the budget contradict each other", hint="give one of them")
    slowest = cuts[-1]
    fastest = choose(
        [streamed(info, header) * slowest.seconds_per_byte[info.type] for info in problem.infos],
        problem.groups,
        [([float(cost) for cost in limit.costs], float(limit.most)) for limit in problem.limits],
    )
    if fastest is None:
        return EdgekitError("the limits of the budget contradict each other", hint="give one of them")
    place = next(place for place in places if place.name == slowest.place)
    reach = place.decode(planned_header(header, _types(problem, fastest)))
    reached = f"at least {format_rate(reach.low)}" if isinstance(reach, Estimate) else "no known speed"
    return EdgekitError(
        f"no plan surely decodes {format_rate(min_decode)} on `{place.name}`; the fastest reaches {reached}",
        hint="lower `--min-decode`, name one device of the class, or take a smaller student",
    )


def _too_small(limit: Limit, smallest: Header, places: Sequence[Place]) -> EdgekitError:
    if limit.kind == "memory":
        place = next(place for place in places if place.name == limit.place)
        need = place.memory(smallest).high
        return EdgekitError(
            f"the smallest plan may take {format_bytes(need)} on `{place.name}`, the budget is: "
            f"`{format_bytes(place.limit_bytes)}`",
            hint=f"the smallest budget that works is {math.ceil(need)} bytes; or shorten the context, or take a "
            "smaller student",
        )
    weights = sum(math.prod(tensor.shape) for tensor in smallest.tensors)
    stored = sum(tensor.size_bytes for tensor in smallest.tensors)
    if limit.kind == "bits":
        bits = math.ceil(stored * 8 / weights * 1000) / 1000
        return EdgekitError(f"the smallest plan has {bits} bits per weight", hint=f"the smallest that works: `{bits}`")
    need = smallest.size_bytes + METADATA_BYTES
    return EdgekitError(
        f"the smallest plan makes a file of {format_bytes(need)}", hint=f"the smallest budget that works: {need} bytes"
    )


# ---- the plan -------------------------------------------------------------------------------------------------------


def _plan(
    sens: Sensitivities,
    header: Header,
    problem: Problem,
    chosen: list[int],
    budget: Budget,
    device: Device | None,
    min_decode: float,
    places: Sequence[Place],
    slowed: bool,
) -> QuantPlan:
    planned = planned_header(header, _types(problem, chosen))
    weights = sum(math.prod(tensor.shape) for tensor in planned.tensors)
    stored = sum(tensor.size_bytes for tensor in planned.tensors)
    on = tuple(
        PlannedOn(
            device=place.name, memory=place.memory(planned), limit_bytes=place.limit_bytes, decode=place.decode(planned)
        )
        for place in places
    )
    for one in on:  # the sums were exact; the prediction itself has the last word
        if one.memory.high > one.limit_bytes:
            raise EdgekitError(f"a plan over its budget was found: `{one.device}`", hint="please report this")
    plan = QuantPlan(
        source_sha256=sens.source_sha256,
        imatrix_sha256=sens.imatrix_sha256,
        text_sha256=sens.text_sha256,
        budget=budget,
        device=device.name if device else "",
        min_decode=min_decode,
        tensors=tuple(
            PlannedTensor(
                name=problem.infos[index].name,
                type=problem.infos[index].type,
                size_bytes=problem.infos[index].size_bytes,
                kld=problem.cells[index].kld,
            )
            for index in chosen
        ),
        size_bytes=stored,
        bits_per_weight=stored * 8 / weights,
        kld=total_kld(sens, [problem.cells[index] for index in chosen]),
        on=on,
    )
    return _with_use(plan, problem, chosen, planned, slowed)


def _with_use(plan: QuantPlan, problem: Problem, chosen: list[int], planned: Header, slowed: bool) -> QuantPlan:
    """The plan with what binds it, how much of that is used, and why not more."""
    uses: list[tuple[float, Binding]] = [(one.memory.high / one.limit_bytes, "memory") for one in plan.on]
    if plan.budget.file_bytes is not None:
        uses.append(((planned.size_bytes + METADATA_BYTES) / plan.budget.file_bytes, "file"))
    if plan.budget.bits_per_weight is not None:
        uses.append((plan.bits_per_weight / plan.budget.bits_per_weight, "bits"))
    used, binding = max(uses)
    if used >= FULL:
        return replace(plan, used=used, binding=binding)
    room = [limit.most - sum(limit.costs[index] for index in chosen) for limit in problem.limits]
    better = fitting = False
    for index, (start, end) in zip(chosen, problem.groups, strict=True):
        for option in range(start, end):
            if problem.cells[option].kld >= problem.cells[index].kld:
                continue
            better = True
            more = [limit.costs[option] - limit.costs[index] for limit in problem.limits]
            fitting |= all(one <= left for one, left in zip(more, room, strict=True))
    if not better:
        return replace(plan, used=used, binding="types", reason="every tensor has the best type on offer")
    if fitting and slowed:
        return replace(plan, used=used, binding="speed", reason="the speed floor binds")
    return replace(plan, used=used, binding=binding, reason="no single upgrade fits")
