"""Memory predicted from headers, against llama.cpp's own figures: source tables, logged buffers, published sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.header import read_header
from edgekit.header.ggml import BLOCK
from edgekit.memory import (
    fit_table,
    held_by_huge_pages,
    may_map_huge,
    memory_budget,
    predict_memory,
    process_budget,
    streamed_bytes,
    what_fits,
    working_set_by_page,
)
from edgekit.memory.buffers import compute_bytes, kv_bytes
from edgekit.memory.repack import features_of, repacked_bytes
from edgekit.pipeline import case_of
from edgekit.records import Device, Gate, Header, MemoryBreakdown, MemoryPeak, Settings, Sourced, TensorInfo
from edgekit.runtimes import open_worker
from edgekit.shapes import load_shape
from edgekit.shapes.mix import plan_header

MIB = 2**20
PHONE, AVX2 = "arm64+dotprod+i8mm", "x86_64+avx2"


@pytest.fixture(scope="module")
def nano() -> Header:
    return plan_header(load_shape("nano-1.5b"), "q4_0")


def with_kinds(header: Header, kind: str) -> Header:
    return replace(header, metadata=(("tokenizer.ggml.model", kind),))


# ---- repacking ----------------------------------------------------------------------------------------------------


def matrix(kind: str, columns: int = 1024, rows: int = 64) -> TensorInfo:
    return TensorInfo(name="blk.0.ffn_up.weight", type=kind, shape=(columns, rows), size_bytes=1000)


@pytest.mark.parametrize(
    ("isa", "repacked"),
    [
        ("x86_64", ""),
        (AVX2, "q4_0 q4_k iq4_nl mxfp4"),
        ("x86_64+avx512+vnni", "q4_0 q4_k iq4_nl mxfp4 q2_k"),
        ("x86_64+amx", "q4_0 q4_1 q4_k q5_k q6_k q8_0 iq4_xs f16 iq4_nl mxfp4 q2_k"),
        ("arm64", ""),
        ("arm64+dotprod", "q4_0 q4_k q5_k q6_k q8_0 iq4_nl mxfp4 q1_0"),
        (PHONE, "q4_0 q4_k q5_k q6_k q8_0 iq4_nl mxfp4 q1_0"),
    ],
)
def test_which_types_each_isa_repacks(isa: str, repacked: str) -> None:
    """`ggml_repack_get_optimal_repack_type` and the AMX buffer's `supports_op`, llama.cpp 0c1e57098."""
    kinds = [name for name in BLOCK if not name.startswith(("i8", "i16", "i32", "i64", "f64"))]
    features = features_of(isa)
    assert {kind for kind in kinds if repacked_bytes(matrix(kind), features)} == set(repacked.split())


def test_row_counts_decide() -> None:
    assert repacked_bytes(matrix("q4_0", rows=60), features_of(AVX2)) == 0
    assert repacked_bytes(matrix("q4_0", rows=60), features_of(PHONE)) == 1000
    assert repacked_bytes(matrix("q4_k", rows=60), features_of(PHONE)) == 0
    # AMX adds 4 bytes of compensation to a block of q8_0, and does not take rows not divisible by 32
    assert repacked_bytes(matrix("q8_0"), features_of("x86_64+amx")) == 1000 + 64 * 1024 // 32 * 4
    assert repacked_bytes(matrix("q8_0", rows=48), features_of("x86_64+amx")) == 0


def test_experts_repack_as_three_dimensions_only() -> None:
    experts = TensorInfo(name="blk.0.ffn_up_exps.weight", type="q4_0", shape=(1024, 64, 8), size_bytes=1000)
    assert repacked_bytes(experts, features_of(AVX2), expert=True) == 1000
    assert repacked_bytes(experts, features_of(AVX2)) == 0


@pytest.mark.parametrize("isa", ["", "riscv64", "x86_64+neon", "arm64+dotproduct"])
def test_unknown_isa(nano: Header, isa: str) -> None:
    with pytest.raises(EdgekitError, match="instruction set"):
        predict_memory(nano, Settings(), isa)


# ---- parts, against llama.cpp's log ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kv_type", "mib"), [("f16", 112), ("q8_0", 59.5), ("q4_0", 31.5)])
def test_kv_of_full_attention(nano: Header, kv_type: str, mib: float) -> None:
    assert kv_bytes(nano, replace(Settings(), kv_type=kv_type)) == mib * MIB  # type: ignore[arg-type]


def test_kv_is_padded_to_256_cells(nano: Header) -> None:
    assert kv_bytes(nano, Settings(context_tokens=257)) == kv_bytes(nano, Settings(context_tokens=512))


def test_kv_of_sliding_windows(nano: Header) -> None:
    windows = tuple(512 if layer % 6 < 5 else 0 for layer in range(nano.layers))
    sliding = replace(nano, sliding_window=windows)
    per_cell = 2 * 2 * 128 * 2
    full = sum(not window for window in windows)
    wanted = per_cell * (full * 16384 + (nano.layers - full) * 1024)  # 512 + ubatch 512
    assert kv_bytes(sliding, Settings(context_tokens=16384)) == wanted
    assert kv_bytes(sliding, Settings(context_tokens=512)) == kv_bytes(nano, Settings(context_tokens=512))


LOGGED = [
    ("nano-1.5b", 512, 4096, "auto", 0, 302.75),
    ("nano-1.5b", 512, 4096, "auto", 1, 68.51),
    ("nano-1.5b", 512, 16384, "auto", 1, 80.51),
    ("nano-1.5b", 128, 512, "auto", 1, 16.25),
    ("nano-1.5b", 512, 512, "off", 1, 63.51),
    ("nano-1.5b", 512, 16384, "off", 1, 432.01),
    ("nano-0.6b", 512, 4096, "auto", 0, 312.76),
    ("nano-0.6b", 512, 4096, "auto", 1, 30.01),
    ("nano-0.6b", 256, 8192, "auto", 1, 17.01),
    ("nano-0.6b", 512, 4096, "off", 1, 154.01),
    ("nano-0.6b", 64, 16384, "off", 1, 70.25),
    ("mini-3b", 64, 4096, "auto", 0, 38.09),
    ("mini-3b", 512, 512, "auto", 1, 81.01),
    ("mini-3b", 512, 4096, "off", 1, 157.01),
]
"""Shape, ubatch, context, flash attention, output rows → MiB of compute buffer as llama.cpp 0c1e57098 logs it."""


@pytest.mark.parametrize("logged", LOGGED, ids=str)
def test_reserved_compute_buffer(logged: tuple[str, int, int, str, int, float]) -> None:
    shape, ubatch, context, flash, rows, mib = logged
    settings = Settings(context_tokens=context, ubatch_tokens=ubatch, output_rows=rows)
    header = plan_header(load_shape(shape), "q4_0")
    _, reserved = compute_bytes(header, replace(settings, flash_attention=flash))  # type: ignore[arg-type]
    work = max(header.ffn[0], header.heads[0] * header.key_dim) * 292 / 256
    work = ubatch * max(work, header.heads[0] * context * 2 if flash == "off" else 0)
    assert (reserved - work) / MIB == pytest.approx(mib, rel=0.05)


def test_asked_logits_are_reserved_and_not_touched(nano: Header) -> None:
    one, all_rows = (predict_memory(nano, Settings(output_rows=rows), AVX2) for rows in (1, 0))
    assert one.unevictable == all_rows.unevictable
    assert all_rows.reserved_bytes - one.reserved_bytes == pytest.approx(234 * MIB, rel=0.03)


def test_against_a_running_llama_cpp(tiny_gguf: Path) -> None:
    """KV and repacked weights to the byte, on whatever CPU this test runs."""
    settings = Settings(context_tokens=1000, ubatch_tokens=64, kv_type="q8_0", threads=1)
    with open_worker(tiny_gguf, settings, timeout_s=120, seed=1) as worker:
        sizes: dict[str, int] = {}
        for buffer in worker.buffers:
            sizes[buffer.role] = sizes.get(buffer.role, 0) + buffer.size_bytes
        isa = isa_that_ran(probe_host(), worker.runtime)
        worker.finish()
    predicted = predict_memory(read_header(tiny_gguf), settings, isa)
    rounding = 0.011 * MIB  # the log has two decimals
    assert sizes["kv"] == pytest.approx(predicted.kv_bytes, abs=rounding)
    assert sizes.get("repacked", 0) == pytest.approx(predicted.repacked_bytes, abs=rounding)
    assert sizes["output"] == pytest.approx(predicted.output_bytes, abs=rounding)


# ---- the whole ----------------------------------------------------------------------------------------------------

MEASURED = [
    # context 4096 filled, ubatch 512: RssAnon over the baseline, and with the pages that decoding touches
    ("nano-0.6b", "q4_0", {}, 761.3, 883.6),
    ("nano-0.6b", "q6_k", {}, 526.1, 992.6),
    ("nano-0.6b", "q8_0", {"mmap": False}, 1129.2, 1129.2),
    ("nano-1.5b", "q4_0", {"repack": False}, 230.1, 1116.1),
    ("nano-1.5b", "q4_0", {"mmap": False}, 1117.5, 1117.5),
]
"""MiB, on a 4-core Xeon with Linux 6.18, before `benchmarks/memory.py` was written."""


@pytest.mark.parametrize("case", MEASURED, ids=str)
def test_recorded_measurements(case: tuple[str, str, dict[str, bool], float, float]) -> None:
    shape, quant, changes, unevictable, working_set = case
    settings = replace(Settings(), **changes)  # type: ignore[arg-type]
    memory = predict_memory(plan_header(load_shape(shape), quant), settings, "x86_64+avx512+vnni")
    assert memory.unevictable.value / MIB == pytest.approx(unevictable, rel=0.02)
    assert memory.working_set.value / MIB == pytest.approx(working_set, rel=0.02)
    assert memory.unevictable.low <= unevictable * MIB <= memory.unevictable.high


@pytest.mark.parametrize(
    ("shape", "pages"), [("nano-0.6b", 300_769_280), ("nano-1.5b", 386_756_608), ("mini-3b", 565_010_432)]
)
def test_huge_pages_hold_what_lies_between_the_norms(shape: str, pages: int) -> None:
    """Pages of the file in use, on Linux 6.18 with ext4, which mapped all but the file's end by 2 MB."""
    memory = predict_memory(plan_header(load_shape(shape), "q4_0"), Settings(), "x86_64+avx512+vnni")
    by_page = memory.weights_bytes - memory.dormant_bytes
    assert by_page + memory.huge_page_bytes == pytest.approx(pages, rel=0.02)
    assert by_page < 0.5 * pages
    whole, huge = memory.weights_bytes, memory.huge_page_bytes
    assert held_by_huge_pages(memory, whole) == held_by_huge_pages(memory, 10 * whole) == (huge, huge)
    assert held_by_huge_pages(memory, whole // 10) == (0, min(huge, whole // 10))
    assert held_by_huge_pages(memory, None) == held_by_huge_pages(memory, -5) == (0, 0)


def test_a_measured_working_set_by_the_page(nano: Header) -> None:
    memory = predict_memory(nano, Settings(), AVX2)
    private, read = 900_000_000, memory.weights_bytes - memory.dormant_bytes
    whole, huge = memory.weights_bytes, memory.huge_page_bytes

    def by_page(in_use: int, mapped: int | None) -> float:
        peak = MemoryPeak(
            process=0,
            baseline_bytes=0,
            unevictable_bytes=private,
            working_set_bytes=private + in_use,
            huge_mapped_bytes=mapped,
        )
        return working_set_by_page(memory, peak) - private

    assert by_page(read + 7, None) == by_page(read + huge + 7, whole) == read + 7
    assert by_page(read + huge + 7, 0) == read + huge + 7, "nothing excuses it"
    half = whole // 2
    assert by_page(read, half) == by_page(read + huge, half) == read, "either is what such a mapping may show"
    assert by_page(read + huge + 7, half) == read + 7
    assert by_page(read - 7, half) == read - 7
    none = MemoryPeak(process=0, baseline_bytes=0, unevictable_bytes=5, working_set_bytes=None)
    assert working_set_by_page(memory, none) == 0.0


def test_huge_pages_hold_no_more_than_the_file(nano: Header) -> None:
    for settings in (Settings(repack=False), Settings(mmap=False)):
        memory = predict_memory(nano, settings, AVX2)
        assert memory.huge_page_bytes < 0.01 * memory.weights_bytes


def test_a_page_counts_once_and_every_file_begins_with_one(nano: Header) -> None:
    def table(name: str, kind: str, size_bytes: int, shard: int) -> TensorInfo:
        shape = (256, size_bytes // BLOCK[kind][1] * BLOCK[kind][0] // 256)
        return TensorInfo(name=name, type=kind, shape=shape, size_bytes=size_bytes, shard=shard)

    def norm(at: int, shard: int = 0) -> TensorInfo:
        return TensorInfo(name=f"blk.{at}.attn_norm.weight", type="f32", shape=(1024,), size_bytes=4096, shard=shard)

    packed = 9 * 2**20  # q4_0 repacks on AVX2
    tensors = (norm(0), norm(1), table("blk.0.a.weight", "q4_0", packed, 0), norm(2), norm(3, shard=1))
    memory = predict_memory(replace(nano, tensors=tensors), Settings(), AVX2)
    assert memory.repacked_bytes == packed
    assert memory.huge_page_bytes == min(3 * 2**21, 4 * 4096 + packed) - 4 * 4096


def test_the_range_reaches_up_to_huge_pages_on_linux_alone(nano: Header) -> None:
    plain, windows, linux = (
        predict_memory(nano, Settings(), AVX2, os=os) for os in (None, "Windows 11", "Linux or Windows")
    )
    assert windows == plain
    table = next(tensor for tensor in nano.tensors if tensor.name == "token_embd.weight")
    assert linux.working_set.high == plain.working_set.high + plain.huge_page_bytes
    phone, board = (predict_memory(nano, Settings(), PHONE, os=os) for os in ("Android 14", "Linux"))
    more = board.working_set.high - phone.working_set.high
    assert more == min(phone.dormant_bytes, phone.huge_page_bytes + table.size_bytes), "rows looked up keep pages, too"
    assert (linux.working_set.value, linux.working_set.low) == (plain.working_set.value, plain.working_set.low)
    assert "huge pages" in linux.working_set.note
    assert (linux.unevictable, linux.resident) == (plain.unevictable, plain.resident)
    assert predict_memory(nano, Settings(mmap=False), AVX2, os="Linux").working_set.note == ""


@pytest.mark.parametrize(
    ("os", "may"),
    [
        *((name, False) for name in ("Windows 11 Arm", "iPadOS, Android or Windows", "EMUI 11 (Android)", "Darwin")),
        ("Android 16, HyperOS 3", False),
        *((name, True) for name in ("", "Linux", "Windows (WSL)", "Ubuntu 25.10", "Windows, macOS or Linux", ",")),
    ],
)
def test_a_system_nobody_named_may_map_huge_pages(os: str, may: bool) -> None:
    assert may_map_huge(os) is may


def test_tied_table_is_copied_only_where_its_type_repacks(nano: Header) -> None:
    """A tied q6_k table is one matrix on AVX2, and table plus repacked output matrix on a phone."""
    table = next(tensor for tensor in nano.tensors if tensor.name == "token_embd.weight")
    assert (table.type, nano.tied_embedding) == ("q6_k", True)
    laptop, phone = (predict_memory(nano, Settings(mmap=False), isa) for isa in (AVX2, PHONE))
    assert phone.repacked_bytes - laptop.repacked_bytes == table.size_bytes
    assert phone.unevictable.value - laptop.unevictable.value == table.size_bytes


def test_untied_input_table_is_not_in_the_working_set() -> None:
    header = plan_header(load_shape("base-7b"), "q4_0")
    table = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    memory = predict_memory(header, Settings(repack=False), AVX2)
    assert memory.dormant_bytes == table.size_bytes
    assert memory.resident.value - memory.working_set.value == table.size_bytes


def test_mapping_moves_weights_out_of_unevictable(nano: Header) -> None:
    mapped, read = (predict_memory(nano, Settings(mmap=mmap, repack=False), PHONE) for mmap in (True, False))
    assert read.unevictable.value - mapped.unevictable.value == mapped.weights_bytes
    assert mapped.working_set.value == read.working_set.value
    assert read.dormant_bytes == 0


def test_parts_add_up(nano: Header) -> None:
    for mmap in (True, False):
        memory = predict_memory(nano, Settings(mmap=mmap), PHONE)
        parts = memory.repacked_bytes + memory.kv_bytes + memory.compute_bytes + memory.output_bytes
        parts += memory.runtime_bytes
        if mmap:
            assert memory.unevictable.value == parts
            assert memory.working_set.value == parts + memory.weights_bytes - memory.dormant_bytes
        assert memory.unevictable.basis == "predicted"


def test_an_unchecked_isa_has_wider_ranges(nano: Header) -> None:
    settings = Settings(repack=False)
    checked, unchecked = (predict_memory(nano, settings, isa).working_set for isa in (AVX2, "arm64"))
    assert checked.value == unchecked.value
    assert unchecked.high - unchecked.low > 1.5 * (checked.high - checked.low)


def test_vocabulary_tables_by_tokenizer(nano: Header) -> None:
    sizes = [predict_memory(with_kinds(nano, kind), Settings(), PHONE).runtime_bytes for kind in ("llama", "gpt2", "?")]
    assert sizes[0] < sizes[1] == sizes[2]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(kv_type="q8_0", flash_attention="off"), "needs flash attention"),
        (Settings(context_tokens=0), "context_tokens"),
        (Settings(ubatch_tokens=-1), "ubatch_tokens"),
        (Settings(output_rows=-1), "output_rows"),
        (Settings(context_tokens=2**40), "context_tokens"),
    ],
)
def test_settings_llama_cpp_refuses(nano: Header, settings: Settings, reason: str) -> None:
    with pytest.raises(EdgekitError, match=reason):
        predict_memory(nano, settings, PHONE)


def test_quantized_kv_needs_whole_blocks(nano: Header) -> None:
    with pytest.raises(EdgekitError, match="do not divide"):
        predict_memory(replace(nano, key_dim=80, value_dim=80), Settings(kv_type="q8_0"), PHONE)


# ---- streamed bytes -----------------------------------------------------------------------------------------------


def test_streamed_bytes_of_a_tied_model(nano: Header) -> None:
    streamed = dict(streamed_bytes(nano))
    assert sum(streamed.values()) == sum(tensor.size_bytes for tensor in nano.tensors)
    assert next(iter(streamed)) == "q4_0"


def test_streamed_bytes_of_an_untied_model() -> None:
    header = plan_header(load_shape("base-7b"), "q4_0")
    table = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert (
        sum(dict(streamed_bytes(header)).values()) == sum(one.size_bytes for one in header.tensors) - table.size_bytes
    )


def test_streamed_bytes_of_experts(nano: Header) -> None:
    experts = TensorInfo(name="blk.0.ffn_up_exps.weight", type="q4_0", shape=(32, 32, 8), size_bytes=4608)
    routed = replace(nano, experts=8, experts_used=2, tensors=(experts,))
    assert streamed_bytes(routed) == (("q4_0", 1152),)


# ---- against a budget ---------------------------------------------------------------------------------------------


def device(limit_bytes: float | None) -> Device:
    profile = load_device("smartphone")
    gates = (Gate(metric="memory_bytes", max=limit_bytes),) if limit_bytes else ()
    share = Sourced(value=0.5, low=0.25, high=0.75, source="test")
    return replace(profile, gates=replace(profile.gates, gates=gates), process_share=share)


def test_budget_is_the_gate_or_the_share_of_ram() -> None:
    assert memory_budget(device(1.2e9)).value == 1.2e9
    budget, ram = memory_budget(device(None)), device(None).ram_bytes.value
    assert (budget.low, budget.value, budget.high) == (ram * 0.25, ram * 0.5, ram * 0.75)


def test_an_advisory_gate_is_no_budget_and_a_small_device_keeps_its_own() -> None:
    small = replace(device(2.4e9), ram_bytes=Sourced(value=2e9, low=1.5e9, high=8e9, source="test"))
    budget = memory_budget(small)
    assert (budget.low, budget.value, budget.high) == (1.5e9 * 0.25, 1e9, 2.4e9)
    advisory = replace(small.gates, gates=(replace(small.gates.gates[0], level="advisory", max=1.0),))
    assert memory_budget(replace(small, gates=advisory)) == process_budget(small)
    assert memory_budget(device(1e12)) == process_budget(device(None))


@pytest.mark.parametrize("name", ["smartphone", "tablet", "laptop", "sbc"])
def test_every_class_requires_that_a_process_may_hold_the_model(name: str) -> None:
    levels = {gate.metric: gate.level for gate in load_device(name).gates.gates}
    assert levels["memory_share_of_budget"] == "required"


def test_fit_table_judges_the_whole_range(nano: Header) -> None:
    rows = fit_table(nano, device(1.2e9))
    assert {row.status for row in rows} == {"pass", "fail", "unknown"}
    for row in rows:
        assert (row.status == "pass") == (row.needed.high <= 1.2e9)
        assert (row.status == "fail") == (row.needed.low > 1.2e9)
    assert {row.settings.kv_type for row in rows} == {"f16", "q8_0"}
    assert len({row.settings for row in rows}) == len(rows)


def test_what_fits_changes_nothing_that_need_not_change(nano: Header) -> None:
    found = what_fits(nano, device(2.4e9))
    assert (found.changes, found.missing_bytes, found.row.status) == ("", 0, "pass")
    assert found.row.settings == device(None).settings


def test_what_fits_takes_the_least_painful_change(nano: Header) -> None:
    needed = fit_table(nano, device(2.4e9))
    own = next(row for row in needed if row.settings == device(None).settings)
    found = what_fits(nano, device(own.needed.high - 1))
    assert found.changes == "ubatch 256"
    assert found.row.status == "pass"


def test_what_fits_says_what_is_missing(nano: Header) -> None:
    found = what_fits(nano, device(0.5e9))
    assert found.row.status == "fail"
    assert found.missing_bytes == pytest.approx(found.row.needed.high - 0.5e9)
    assert "too many" in found.reason
    leanest = min(row.needed.high for row in fit_table(nano, device(0.5e9)))
    assert found.row.needed.high <= leanest


def test_the_fit_of_a_linux_device_reckons_with_huge_pages(nano: Header) -> None:
    phone = load_device("smartphone").members[0]
    windows, linux = (
        fit_table(nano, replace(load_device(phone), isa=AVX2, os=os))[0].needed for os in ("Windows 11", "Linux")
    )
    assert linux.value == windows.value
    assert linux.high > windows.high + 100e6


def test_the_case_of_a_linux_device_reckons_with_huge_pages(nano: Header) -> None:
    device = replace(load_device(load_device("smartphone").members[0]), isa=AVX2)
    windows, linux = (case_of(nano, replace(device, os=os), Settings()).memory for os in ("Windows 11", ""))
    assert isinstance(windows, MemoryBreakdown)
    assert isinstance(linux, MemoryBreakdown)
    assert linux.working_set.high > windows.working_set.high + 100e6, "a system nobody named may be one"
