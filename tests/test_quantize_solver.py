"""Plans against brute force, and against the predictors that judge them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.memory import largest_within, predict_memory
from edgekit.memory.tensors import memory_cost, retyped
from edgekit.projection import project_to
from edgekit.quantize.cells import Cell, Probe, Sensitivities, mean_over_chunks
from edgekit.quantize.knapsack import choose
from edgekit.quantize.pareto import front, merit, undominated
from edgekit.quantize.plan import file_type, read_plan, tensor_types, types_of, write_plan
from edgekit.quantize.pricing import planned_header, time_cut
from edgekit.quantize.solver import METADATA_BYTES, solve
from edgekit.records import Budget, Estimate, Header, QuantPlan, Settings, Unknown
from edgekit.shapes import load_shape
from edgekit.shapes.mix import plan_header

PHONE, AVX2 = "arm64+dotprod+i8mm", "x86_64+avx2"
TYPES = ("q3_k", "q4_k", "q5_k", "q6_k", "q8_0")


def table(header: Header, types: tuple[str, ...] = TYPES, seed: int = 1, tensors: int | None = None) -> Sensitivities:
    """Made-up sensitivities: errors fall fourfold with every bit, tensors differ by up to e⁴."""
    chance = random.Random(seed)
    cells, probes = [], []
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1][:tensors]
    for tensor in matrices:
        weight = math.exp(chance.uniform(-9, -5))
        for kind in types:
            values, size_bytes = BLOCK[kind]
            if tensor.shape[0] % values:
                continue
            kld = weight * 4 ** -(8 * size_bytes / values - 3) * chance.uniform(0.7, 1.4)
            probes.append(Probe(tensors=(tensor.name,), type=kind, kld=(kld, 1.1 * kld, 0.9 * kld, kld)))
            cells.append(Cell(tensor=tensor.name, type=kind, error=kld, kld=kld, probe=len(probes) - 1, measured=True))
    return Sensitivities(
        source_sha256="a" * 64,
        imatrix_sha256="b" * 64,
        text_sha256="c" * 64,
        runtime="none",
        context_tokens=512,
        scored_tokens=(255,) * 4,
        seconds=1.0,
        base=(0.0,) * 4,
        probes=tuple(probes),
        cells=tuple(cells),
    )


@pytest.fixture(scope="module")
def tiny() -> Header:
    return plan_header(load_shape("tiny"), "f16")


@pytest.fixture(scope="module")
def nano() -> Header:
    return plan_header(load_shape("nano-1.5b"), "f16")


@pytest.fixture(scope="module")
def nano_table(nano: Header) -> Sensitivities:
    return table(nano)


# ---- what a tensor costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", [PHONE, AVX2, "x86_64+amx", "arm64"])
@pytest.mark.parametrize(("mmap", "repack"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("metric", ["working_set", "unevictable"])
@pytest.mark.parametrize("tied", [True, False])
def test_memory_is_a_constant_and_a_sum_over_tensors(
    isa: str, mmap: bool, repack: bool, metric: str, tied: bool
) -> None:
    header = plan_header(load_shape("nano-1.5b" if tied else "base-7b"), "f16")
    settings = Settings(mmap=mmap, repack=repack)
    chance = random.Random(2)
    rest = set()
    for _ in range(4):
        types = {
            tensor.name: chance.choice((*TYPES, "q4_0", "iq4_nl", "f16"))
            for tensor in header.tensors
            if len(tensor.shape) > 1
        }
        planned = planned_header(header, types)
        total = getattr(predict_memory(planned, settings, isa), metric).value
        rest.add(total - sum(memory_cost(one, planned, settings, isa, metric) for one in planned.tensors))  # type: ignore[arg-type]
    assert len(rest) == 1


@pytest.mark.parametrize("isa", [PHONE, AVX2])
def test_largest_within_is_the_last_that_fits(nano: Header, isa: str) -> None:
    memory = predict_memory(nano, Settings(), isa).working_set
    value = largest_within(memory.high, isa)
    assert abs(value - memory.value) <= 1
    assert largest_within(memory.high - 100_000, isa) < memory.value - 90_000


# ---- against brute force ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    chance = random.Random(seed)
    groups, objective, costs, others = [], [], [], []
    for _ in range(6):
        count = chance.randint(2, 5)
        groups.append((len(objective), len(objective) + count))
        objective += [10 ** chance.uniform(-8, -3) for _ in range(count)]
        costs += [float(chance.randint(1, 1000) * 18) for _ in range(count)]
        others += [chance.random() for _ in range(count)]
    middle = sum(sum(costs[start:end]) / (end - start) for start, end in groups)
    rows = [(costs, middle), (others, 3.2)]
    best, found = math.inf, None
    for choice in product(*(range(start, end) for start, end in groups)):
        fits = all(sum(row[index] for index in choice) <= bound for row, bound in rows)
        total = math.fsum(objective[index] for index in choice)
        if fits and total < best:
            best, found = total, list(choice)
    assert choose(objective, groups, rows) == found


def test_no_choice_is_no_choice() -> None:
    assert choose([1.0, 2.0], [(0, 2)], [([5.0, 6.0], 4.0)]) is None
    assert choose([1.0, 2.0], [(0, 2)], [([5.0, 6.0], -1.0)]) is None


# ---- plans for memory ---------------------------------------------------------------------------------------------


def pass_memory(plan: QuantPlan, header: Header, name: str) -> tuple[float, float]:
    """(high end of the memory predicted for the plan's own header, limit) on a device."""
    device = load_device(name)
    memory = predict_memory(planned_header(header, types_of(plan)), device.settings, device.isa)
    return memory.working_set.high, plan.on[0].limit_bytes


@pytest.mark.parametrize("limit", [1.2e9, 1.4e9, 1.7e9])
@pytest.mark.parametrize("name", ["raspberry-pi-5", "n150-mini-pc"])
def test_a_plan_for_linux_leaves_room_for_huge_pages(
    nano: Header, nano_table: Sensitivities, name: str, limit: float
) -> None:
    device = load_device(name)
    plan = solve(nano_table, nano, budget=Budget(memory_bytes=limit), device=device)
    planned = planned_header(nano, types_of(plan))
    memory = predict_memory(planned, device.settings, device.isa, os=device.os)
    assert memory.working_set.note
    assert plan.on[0].memory.high == memory.working_set.high <= limit
    held = memory.working_set.high - predict_memory(planned, device.settings, device.isa).working_set.high
    assert limit - memory.working_set.high < held, "no more is left than what was kept free for them"


@pytest.mark.parametrize("limit", [0.95e9, 1.1e9, 1.2e9, 1.5e9])
def test_never_over_and_nearly_full(nano: Header, nano_table: Sensitivities, limit: float) -> None:
    device = load_device("galaxy-s25")
    plan = solve(nano_table, nano, budget=Budget(memory_bytes=limit), device=device)
    high, most = pass_memory(plan, nano, "galaxy-s25")
    assert most == limit
    assert high <= limit
    assert high >= 0.99 * limit
    assert plan.used == pytest.approx(high / limit)
    assert (plan.binding, plan.reason) == ("memory", "")


def test_a_larger_budget_is_never_worse(nano: Header, nano_table: Sensitivities) -> None:
    device = load_device("galaxy-s25")
    klds = []
    for limit in (1.0e9, 1.1e9, 1.3e9):
        figure = solve(nano_table, nano, budget=Budget(memory_bytes=limit), device=device).kld
        assert isinstance(figure, Estimate)
        klds.append(figure.value)
    assert klds[0] > klds[1] > klds[2]


def test_a_class_fits_every_member(nano: Header, nano_table: Sensitivities) -> None:
    device = load_device("smartphone")
    plan = solve(nano_table, nano, device=device)
    assert {one.device for one in plan.on} == set(device.members)
    for one in plan.on:
        assert one.memory.high <= one.limit_bytes
    assert max(one.memory.high / one.limit_bytes for one in plan.on) >= 0.99


def test_the_smallest_budget_that_works_is_told_and_works(nano: Header, nano_table: Sensitivities) -> None:
    device = load_device("galaxy-s25")
    with pytest.raises(EdgekitError, match="the smallest plan may take") as caught:
        solve(nano_table, nano, budget=Budget(memory_bytes=3e8), device=device)
    smallest = float(next(word for word in caught.value.hint.split() if word.isdigit()))
    plan = solve(nano_table, nano, budget=Budget(memory_bytes=smallest), device=device)
    assert set(types_of(plan).values()) <= {"q3_k", "q4_k"}
    with pytest.raises(EdgekitError):
        solve(nano_table, nano, budget=Budget(memory_bytes=smallest - 2), device=device)


def test_a_table_that_is_only_looked_up_takes_no_memory_and_is_not_blown_up() -> None:
    header = plan_header(load_shape("base-7b"), "f16")
    sens = table(header, types=(*TYPES, "f16"))
    plan = solve(sens, header, budget=Budget(memory_bytes=5.6e9), device=load_device("macbook-air-m4"))
    assert types_of(plan)["token_embd.weight"] in ("q6_k", "q8_0")


def test_memory_without_a_device_needs_an_isa(tiny: Header) -> None:
    sens = table(tiny)
    with pytest.raises(EdgekitError, match="depends on the device"):
        solve(sens, tiny, budget=Budget(memory_bytes=1e9))
    plan = solve(sens, tiny, budget=Budget(memory_bytes=1e9), isa=AVX2)
    assert (plan.binding, plan.reason) == ("types", "every tensor has the best type on offer")
    with pytest.raises(EdgekitError, match="no budget"):
        solve(sens, tiny)


# ---- plans for size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [3.6, 4.5, 5.25, 6.6])
def test_bits_per_weight(nano: Header, nano_table: Sensitivities, bits: float) -> None:
    plan = solve(nano_table, nano, budget=Budget(bits_per_weight=bits))
    weights = sum(math.prod(tensor.shape) for tensor in nano.tensors)
    assert plan.bits_per_weight == pytest.approx(plan.size_bytes * 8 / weights)
    assert 0.99 * bits <= plan.bits_per_weight <= bits


def test_file_bytes_are_those_of_the_file(nano: Header, nano_table: Sensitivities) -> None:
    plan = solve(nano_table, nano, budget=Budget(file_bytes=900e6))
    size = planned_header(nano, types_of(plan)).size_bytes
    assert 0.99 * 900e6 <= size + METADATA_BYTES <= 900e6


def test_brute_force_on_a_whole_model(tiny: Header) -> None:
    sens = table(tiny, tensors=6, seed=5)
    names = list(dict.fromkeys(cell.tensor for cell in sens.cells))
    tensors = {tensor.name: tensor for tensor in tiny.tensors}
    kept = sum(tensor.size_bytes for tensor in tiny.tensors if tensor.name not in names)
    weights = sum(math.prod(tensor.shape) for tensor in tiny.tensors)
    by_tensor = [[cell for cell in sens.cells if cell.tensor == name] for name in names]
    sizes = {(cell.tensor, cell.type): retyped(tensors[cell.tensor], cell.type).size_bytes for cell in sens.cells}
    low = kept + sum(min(sizes[cell.tensor, cell.type] for cell in own) for own in by_tensor)
    high = kept + sum(max(sizes[cell.tensor, cell.type] for cell in own) for own in by_tensor)
    for part in (0.1, 0.4, 0.7):
        bits = (low + part * (high - low)) * 8 / weights
        plan = solve(sens, tiny, budget=Budget(bits_per_weight=bits))
        best = min(
            math.fsum(cell.kld for cell in choice)
            for choice in product(*by_tensor)
            if kept + sum(sizes[cell.tensor, cell.type] for cell in choice) <= math.floor(bits * weights / 8)
        )
        assert math.fsum(tensor.kld for tensor in plan.tensors) == pytest.approx(best, rel=1e-9)


def test_too_few_bits_tell_the_smallest(nano: Header, nano_table: Sensitivities) -> None:
    with pytest.raises(EdgekitError, match=r"the smallest plan has 3\.4") as caught:
        solve(nano_table, nano, budget=Budget(bits_per_weight=2.0))
    smallest = float(caught.value.hint.split("`")[1])
    assert solve(nano_table, nano, budget=Budget(bits_per_weight=smallest)).bits_per_weight <= smallest


def test_another_models_sensitivities_are_refused(tiny: Header, nano_table: Sensitivities) -> None:
    with pytest.raises(EdgekitError, match="another model"):
        solve(nano_table, tiny, budget=Budget(bits_per_weight=4))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "q9_k"},
        {"probe": 10_000},
        {"probe": -1},
    ],
)
def test_sensitivities_that_contradict_themselves_are_refused(tiny: Header, change: dict[str, object]) -> None:
    sens = table(tiny)
    broken = replace(sens, cells=(replace(sens.cells[0], **change), *sens.cells[1:]))  # type: ignore[arg-type]
    with pytest.raises(EdgekitError, match="contradict"):
        solve(broken, tiny, budget=Budget(bits_per_weight=4))
    with pytest.raises(EdgekitError, match="contradict"):
        solve(replace(sens, base=(0.0,)), tiny, budget=Budget(bits_per_weight=4))


# ---- speed --------------------------------------------------------------------------------------------------------


def test_only_types_whose_speed_is_known_on_the_device(nano: Header) -> None:
    sens = table(nano, types=("q4_k", "q8_0", "tq2_0", "iq3_s"))
    plan = solve(sens, nano, budget=Budget(memory_bytes=1.3e9), device=load_device("galaxy-s25"))
    assert set(types_of(plan).values()) == {"q4_k", "q8_0"}


def test_a_speed_floor_is_met_by_the_projection_itself(nano: Header, nano_table: Sensitivities) -> None:
    device = load_device("galaxy-s25")
    budget = Budget(memory_bytes=1.9e9)
    free = solve(nano_table, nano, budget=budget, device=device)
    decode = free.on[0].decode
    assert isinstance(decode, Estimate)
    floor = decode.low * 1.15
    plan = solve(nano_table, nano, budget=budget, device=device, min_decode=floor)
    again = project_to(device, planned_header(nano, types_of(plan)), device.settings).decode
    assert isinstance(again, Estimate)
    assert floor <= again.low <= floor * 1.02
    assert plan.binding == "speed"
    assert isinstance(plan.kld, Estimate)
    assert isinstance(free.kld, Estimate)
    assert plan.kld.value > free.kld.value


def test_a_speed_beyond_the_device_is_refused_with_the_fastest(nano: Header, nano_table: Sensitivities) -> None:
    with pytest.raises(EdgekitError, match="no plan surely decodes 900 tok/s on `galaxy-s25`; the fastest reaches"):
        solve(nano_table, nano, device=load_device("galaxy-s25"), min_decode=900)
    with pytest.raises(EdgekitError, match="on a device"):
        solve(nano_table, nano, budget=Budget(bits_per_weight=4), min_decode=5)


def test_a_cut_touches_the_projection_where_it_was_made(nano: Header) -> None:
    from edgekit.quantize.pricing import places_of

    place = places_of(load_device("galaxy-s25"), None, None, "")[0]
    header = planned_header(
        nano, {tensor.name: "q4_k" for tensor in nano.tensors if len(tensor.shape) > 1 and "attn" in tensor.name}
    )
    cut = time_cut(place, header, ["q4_k", "f16"], min_decode=10.0)
    decode = place.decode(header)
    assert isinstance(decode, Estimate)
    streamed = {"q4_k": 0.0, "f16": 0.0}
    for tensor in header.tensors:
        streamed[tensor.type] = streamed.get(tensor.type, 0.0) + tensor.size_bytes
    spent = sum(cut.seconds_per_byte[kind] * streamed[kind] for kind in ("q4_k", "f16"))
    assert spent - cut.most_s == pytest.approx(1 / decode.low - 0.1, rel=1e-6)
    assert cut.seconds_per_byte["q4_k"] > cut.seconds_per_byte["f16"] > 0


# ---- the front ----------------------------------------------------------------------------------------------------


def test_the_front_falls_and_holds_no_beaten_point(nano: Header, nano_table: Sensitivities) -> None:
    points = front(nano_table, nano, points=6)
    assert len(points) >= 5
    assert points[0].plan.bits_per_weight < 3.6
    assert points[-1].plan.binding in ("types", "file")
    merits = [merit(point.plan) for point in points]
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(merits))
    assert undominated([*points, points[2]]) == points
    worse = replace(points[2], plan=replace(points[2].plan, size_bytes=points[2].plan.size_bytes + 1))
    assert worse not in undominated([*points, worse])


# ---- the file -----------------------------------------------------------------------------------------------------


def test_a_plan_reads_back_as_written(nano: Header, nano_table: Sensitivities, tmp_path: Path) -> None:
    plan = solve(nano_table, nano, budget=Budget(memory_bytes=1.1e9), device=load_device("galaxy-s25"), min_decode=5)
    write_plan(tmp_path / "plan.toml", plan)
    again = read_plan(tmp_path / "plan.toml", nano)
    assert types_of(again) == types_of(plan)
    for field in ("source_sha256", "imatrix_sha256", "text_sha256", "budget", "device", "min_decode", "size_bytes"):
        assert getattr(again, field) == getattr(plan, field), field
    assert again.bits_per_weight == plan.bits_per_weight
    assert isinstance(again.kld, Unknown)
    assert tensor_types(again)[0][0].startswith("^")
    assert file_type(again, nano) in ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("q4_k", "q9_k"), "unknown tensor type"),
        (("blk.0.attn_q.weight", "blk.0.attn_z.weight"), "another model"),
        (("version = 1", "version = 7"), "version of plans"),
        (("[budget]", "[bugdet]"), "unknown key in plan"),
        (("[tensors]", '[tensors]\n"output_norm.weight" = "q8_0"'), "one dimension"),
        (("[tensors]", "[tensors]\nextra = 3"), "must be text"),
        (('source_sha256 = "a', 'source_sha256 = "z'), "no sha256"),
        (("[tensors]", "[tensors"), "not valid TOML"),
        (('"blk.0.attn_q.weight"', '# "blk.0.attn_q.weight"'), "leaves out a tensor"),
    ],
)
def test_plans_of_strangers(
    nano: Header, nano_table: Sensitivities, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, solve(nano_table, nano, budget=Budget(bits_per_weight=4.6)))
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(change[0], change[1], 1), encoding="utf-8")
    with pytest.raises(EdgekitError, match=message):
        read_plan(path, nano)


def test_a_plan_without_quantized_types_has_no_patterns(tiny: Header) -> None:
    plan = solve(table(tiny, types=("q8_0", "f16")), tiny, budget=Budget(bits_per_weight=16.5))
    assert set(types_of(plan).values()) == {"f16"}
    assert (file_type(plan, tiny), tensor_types(plan)) == ("f16", ())


def test_rows_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    header = plan_header(load_shape("tiny"), "f16")
    narrow = replace(
        header,
        tensors=tuple(
            replace(tensor, shape=(96, tensor.shape[1])) if tensor.name == "blk.0.attn_q.weight" else tensor
            for tensor in header.tensors
        ),
    )
    path = tmp_path / "plan.toml"
    path.write_text('version = 1\n[tensors]\n"blk.0.attn_q.weight" = "q4_k"\n', encoding="utf-8")
    with pytest.raises(EdgekitError, match="rows of 96 values"):
        read_plan(path, narrow)


# ---- ranges -------------------------------------------------------------------------------------------------------


def test_the_range_is_students_t() -> None:
    from scipy import stats

    chunks = [0.010, 0.012, 0.009, 0.015, 0.011]
    found = mean_over_chunks(chunks)
    assert isinstance(found, Estimate)
    low, high = stats.t.interval(0.9, 4, loc=sum(chunks) / 5, scale=stats.sem(chunks))
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)
    assert isinstance(mean_over_chunks(chunks[:2]), Unknown)
