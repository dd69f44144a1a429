"""Memory of a GGUF model under llama.cpp's CPU backend, predicted from the header alone; nothing is loaded or run.

What is counted follows llama.cpp 0c1e57098: weights and their repacked copies (`edgekit.memory.repack`), the KV cache
(`src/llama-kv-cache*.cpp`), compute and output buffers (`src/llama-context.cpp`, `ggml/src/ggml-alloc.c`) and the
tokenizer. The prediction is for a context filled to the end by a prompt of at least one ubatch, of which only the last
token's logits are asked, as chat and llama-bench do. `benchmarks/memory.py` compares it with measurements.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from edgekit.errors import EdgekitError
from edgekit.memory.buffers import check_settings, compute_bytes, kv_bytes
from edgekit.memory.onnx import predict_onnx
from edgekit.memory.repack import features_of
from edgekit.memory.tensors import Metric, Placed, huge_page_bytes, place, streamed
from edgekit.records import (
    Device,
    Estimate,
    Header,
    KvType,
    MemoryBreakdown,
    MemoryPeak,
    Settings,
    Sourced,
    Status,
    exact,
)
from edgekit.units import format_bytes

TOKENIZER_BYTES_PER_TOKEN = {"llama": 155, "none": 40}
MERGES_TOKENIZER_BYTES_PER_TOKEN = 290
"""Tables of a vocabulary (`src/llama-vocab.cpp`), measured: sentence-piece, absent, and byte-pair with its merges."""
RUNTIME_BASE_BYTES = 4_500_000
"""What llama.cpp, its threads and the loop around them hold besides, measured."""

RELATIVE_ERROR, ABSOLUTE_ERROR_BYTES = 0.005, 4_000_000
"""Half-width of the 90 % range where the predictor was checked (x86-64 Linux): residuals of `benchmarks/memory.py`."""
MAPS_BY_SMALL_PAGES = ("windows", "macos", "darwin", "ios", "ipados", "android", "emui", "hyperos")
"""Systems that map model files by pages of 4 to 64 KB. Android's kernels (6.12 and before) cache ext4 and f2fs by small
folios; Linux may have large ones since 5.18 (xfs) and 6.16 (ext4).
"""

UNCHECKED_WIDENING = 3.0
"""On an instruction set no measurement has checked, ranges are this much wider: by judgement, for other allocators (a
third more or less of the tokenizer's tables), page sizes and thread stacks.
"""


def predict_memory(header: Header, settings: Settings, isa: str, *, os: str | None = None) -> MemoryBreakdown:
    """Bytes that `header`'s model takes under `settings` on `isa`, with 90 % ranges of basis `predicted`.

    Where a system is named by `os` that may map files by huge pages, the range of the working set reaches up to what
    those may hold: whether they do depends on kernel, file system and how the file was read before.
    Raises EdgekitError for settings the runtime refuses and for an instruction set edgekit does not know.
    """
    if header.format == "onnx":
        return predict_onnx(header, settings, isa)
    check_settings(header, settings)
    weights = _weights(header, settings.repack, isa)
    kv = kv_bytes(header, settings)
    touched, reserved = compute_bytes(header, settings)
    output = header.vocabulary * 4
    runtime = _runtime_bytes(header)
    private = weights.repacked + kv + touched + output + runtime
    dormant = huge = 0
    if settings.mmap:
        dormant, huge = weights.stored - weights.read, _huge_page_bytes(header, settings.repack, isa)
        unevictable, working_set, resident = private, private + weights.read, private + weights.stored
    else:
        unevictable = working_set = resident = private + weights.read + weights.idle
    return MemoryBreakdown(
        isa=isa,
        settings=settings,
        weights_bytes=weights.stored,
        repacked_bytes=weights.repacked,
        dormant_bytes=dormant,
        huge_page_bytes=huge,
        kv_bytes=kv,
        compute_bytes=touched,
        reserved_bytes=max(reserved - touched, 0),
        output_bytes=output,
        runtime_bytes=runtime,
        unevictable=_estimate(unevictable, isa),
        # of a table that is looked up, every row in use keeps a page
        working_set=_up_to(
            _estimate(working_set, isa), min(dormant, huge + weights.idle) if os is not None and may_map_huge(os) else 0
        ),
        resident=_estimate(resident, isa),
    )


def figure_of(memory: MemoryBreakdown, metric: Metric) -> Estimate:
    """The figure of `memory` that a device is judged by."""
    return memory.working_set if metric == "working_set" else memory.unevictable


def _up_to(figure: Estimate, more_bytes: int) -> Estimate:
    if not more_bytes:
        return figure
    note = f"up to {format_bytes(more_bytes)} of its range is what huge pages of the file may hold"
    return replace(figure, high=figure.high + more_bytes, note=note)


def may_map_huge(os: str) -> bool:
    """Whether a system of that name may map files by huge pages: every one but those known not to."""
    names = re.split(r"[,;/()]|\bor\b|\band\b", os.lower())
    named = [name.strip() for name in names if name.strip()]
    return not named or not all(name.startswith(MAPS_BY_SMALL_PAGES) for name in named)


def held_by_huge_pages(memory: MemoryBreakdown, huge_mapped_bytes: int | None) -> tuple[float, float]:
    """What of a measured working set is dormant and counted for its huge page, at least and at most, where so much of
    the file was mapped by them: which part that was is not known. `None` (not recorded) is taken for none.
    """
    mapped = min(memory.weights_bytes, max(0, huge_mapped_bytes or 0))
    return max(0, memory.huge_page_bytes - (memory.weights_bytes - mapped)), min(mapped, memory.huge_page_bytes)


def working_set_by_page(memory: MemoryBreakdown, peak: MemoryPeak) -> float:
    """The measured working set of a process less what huge pages hold of the file; where the mapping leaves that open,
    as much as brings the file's part nearest to `memory`, the prediction. 0 where none was measured.
    """
    if not peak.working_set_bytes:
        return 0.0
    private = peak.unevictable_bytes or 0
    in_use, read = peak.working_set_bytes - private, memory.weights_bytes - memory.dormant_bytes
    least, most = held_by_huge_pages(memory, peak.huge_mapped_bytes)
    return private + min(max(read, in_use - most), in_use - least)


def streamed_bytes(header: Header) -> tuple[tuple[str, int], ...]:
    """Weight bytes read per decoded token by ggml type, most bytes first.

    A tied embedding counts once, as output matrix; an untied input embedding is looked up and does not count; of the
    experts only those a token is routed to (design §5).
    """
    total: Counter[str] = Counter()
    for tensor in header.tensors:
        size_bytes = streamed(tensor, header)
        if size_bytes:
            total[tensor.type] += size_bytes
    return tuple(total.most_common())


@lru_cache(maxsize=64)  # a fit table and its remedies ask about hundreds of settings of the same few files
def _weights(header: Header, repack: bool, isa: str) -> Placed:
    features = features_of(isa)
    placed = [place(tensor, tied=header.tied_embedding, repack=repack, features=features) for tensor in header.tensors]
    return Placed(
        stored=sum(one.stored for one in placed),
        repacked=sum(one.repacked for one in placed),
        read=sum(one.read for one in placed),
        idle=sum(one.idle for one in placed),
    )


@lru_cache(maxsize=64)
def _huge_page_bytes(header: Header, repack: bool, isa: str) -> int:
    return huge_page_bytes(header, repack=repack, features=features_of(isa))


def _runtime_bytes(header: Header) -> int:
    tokenizer = dict(header.metadata).get("tokenizer.ggml.model", "")
    per_token = TOKENIZER_BYTES_PER_TOKEN.get(tokenizer, MERGES_TOKENIZER_BYTES_PER_TOKEN)
    return RUNTIME_BASE_BYTES + per_token * header.vocabulary


def _estimate(value: int, isa: str) -> Estimate:
    half = value * RELATIVE_ERROR + ABSOLUTE_ERROR_BYTES
    if not isa.startswith("x86_64"):
        half *= UNCHECKED_WIDENING
    return Estimate(value=value, low=max(value - half, 0), high=value + half, basis="predicted")


def largest_within(limit_bytes: float, isa: str) -> int:
    """The largest predicted value whose whole 90 % range lies within `limit_bytes`; negative where none does."""
    widening = 1.0 if isa.startswith("x86_64") else UNCHECKED_WIDENING
    value = math.floor((limit_bytes - ABSOLUTE_ERROR_BYTES * widening) / (1 + RELATIVE_ERROR * widening))
    return value - 1 if value > 0 and _estimate(value, isa).high > limit_bytes else value  # rounding of the last byte


# ---- against a device's budget --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One configuration against the device's budget. `status`: the whole range fits, misses, or straddles it."""

    settings: Settings
    needed: Estimate
    """By the device's memory metric, in bytes."""
    budget: Estimate
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatFits:
    """The configuration nearest to the device's own that surely fits, or why there is none.

    `changes` names what differs, as `ubatch 128, q8_0 KV`; empty when the device's own configuration fits. When
    nothing fits, `row` is the leanest configuration and `missing_bytes` what even that is over the budget.
    """

    row: FitRow
    changes: str
    missing_bytes: float
    reason: str


def memory_budget(device: Device) -> Estimate:
    """Bytes the model may take on `device`: what one process may hold, and no more than the tightest required memory
    gate; a limit of the class does not make a small device larger.
    """
    process = process_budget(device)
    limits = [
        gate.max
        for gate in device.gates.gates
        if gate.metric == "memory_bytes" and gate.level == "required" and gate.max is not None
    ]
    if not limits or min(limits) > process.high:
        return process
    limit = min(limits)
    if limit <= process.low:
        return exact(limit, "claimed", "the memory gate")
    return replace(process, value=min(process.value, limit), high=limit, note="the memory gate or RAM × share")


def process_budget(device: Device) -> Estimate:
    """Bytes one process may hold on `device`: RAM × the share of it, with the sources' ranges."""
    ram, share = _ends(device.ram_bytes), _ends(device.process_share)
    low, value, high = (size * part for size, part in zip(ram, share, strict=True))
    return Estimate(value=value, low=low, high=high, basis="claimed", note="RAM × share of a process")


def _ends(figure: Sourced) -> tuple[float, float, float]:
    low = figure.value if figure.low is None else min(figure.low, figure.value)
    high = figure.value if figure.high is None else max(figure.high, figure.value)
    return low, figure.value, high


def fit_table(header: Header, device: Device) -> tuple[FitRow, ...]:
    """Context × ubatch × KV type against the device's budget, otherwise in the device's own configuration."""
    base = device.settings
    contexts = sorted({base.context_tokens, 2048, 4096, 8192, 16384, 32768})
    ubatches = sorted({base.ubatch_tokens, 128, 512})
    rows = (
        _row(header, device, replace(base, context_tokens=context, ubatch_tokens=ubatch, kv_type=kv_type))
        for context in contexts
        if context <= max(header.context_train, base.context_tokens)
        for ubatch in ubatches
        for kv_type in _kv_types(base)
    )
    return tuple(row for row in rows if row)


def what_fits(header: Header, device: Device) -> WhatFits:
    """The configuration nearest to the device's own whose whole range fits the budget.

    Tried in the order of `leaner_settings`, least painful first.
    """
    base = device.settings
    rows = (_row(header, device, settings) for settings in leaner_settings(base, shorter=True))
    tried = [row for row in rows if row]
    for row in tried:
        if row.status == "pass":
            changes = changed_settings(row.settings, base)
            return WhatFits(row=row, changes=changes, missing_bytes=0.0, reason="")
    if not tried:
        predict_memory(header, base, device.isa)  # says why not
        raise EdgekitError(f"no configuration of this model can be predicted: `{header.architecture}`")
    leanest = min(tried, key=lambda row: row.needed.high)
    missing = leanest.needed.high - leanest.budget.low
    reason = (
        f"even the leanest configuration may need {format_bytes(leanest.needed.high)} where "
        f"{format_bytes(leanest.budget.low)} are sure: {format_bytes(missing)} too many"
    )
    changes = changed_settings(leanest.settings, base)
    return WhatFits(row=leanest, changes=changes, missing_bytes=missing, reason=reason)


def _row(header: Header, device: Device, settings: Settings) -> FitRow | None:
    """None where llama.cpp would refuse the settings for this model."""
    try:
        memory = predict_memory(header, settings, device.isa, os=device.os)
    except EdgekitError:
        return None
    needed = figure_of(memory, device.memory_metric)
    budget = memory_budget(device)
    status: Status = "pass" if needed.high <= budget.low else "fail" if needed.low > budget.high else "unknown"
    return FitRow(settings=settings, needed=needed, budget=budget, status=status)


def _kv_types(base: Settings) -> tuple[KvType, ...]:
    if base.flash_attention == "off":
        return ("f16",)  # a quantized V needs flash attention
    return ("f16", "q8_0") if base.kv_type != "q4_0" else ("f16", "q8_0", "q4_0")


def leaner_settings(base: Settings, *, shorter: bool = False) -> list[Settings]:
    """`base` and its leaner variants, the least painful first; with `shorter`, of shorter contexts too.

    The order is a judgement of what each change costs the user: a small ubatch prefills slower, a q8_0 KV cache loses a
    little quality, (not) mapping the file changes how the OS may evict it, unpacked weights decode slower, and a
    shorter context is another product.
    """
    contexts = [base.context_tokens]
    if shorter:
        contexts += [size for size in (8192, 4096, 2048, 1024, 512) if size < base.context_tokens]
    ubatches = [base.ubatch_tokens, *(size for size in (256, 128, 64) if size < base.ubatch_tokens)]
    kv_types: tuple[KvType, ...] = _kv_types(base) if base.kv_type == "f16" else (base.kv_type,)
    costed = [
        (
            u + 2.5 * k + 3.5 * m + 4.5 * r + 6 * c,
            replace(base, context_tokens=context, ubatch_tokens=ubatch, kv_type=kv_type, mmap=mmap, repack=repack),
        )
        for (c, context), (m, mmap), (r, repack), (k, kv_type), (u, ubatch) in product(
            enumerate(contexts),
            enumerate((base.mmap, not base.mmap)),
            enumerate(dict.fromkeys((base.repack, False))),
            enumerate(kv_types),
            enumerate(ubatches),
        )
    ]
    return [settings for _, settings in sorted(costed, key=lambda one: one[0])]


def changed_settings(settings: Settings, base: Settings) -> str:
    """`ubatch 128, q8_0 KV, no mmap, no repacking (slower kernels), context 2048`; empty when nothing differs."""
    words = {
        f"ubatch {settings.ubatch_tokens}": settings.ubatch_tokens != base.ubatch_tokens,
        f"{settings.kv_type} KV": settings.kv_type != base.kv_type,
        "mmap" if settings.mmap else "no mmap": settings.mmap != base.mmap,
        "repacking" if settings.repack else "no repacking (slower kernels)": settings.repack != base.repack,
        f"context {settings.context_tokens}": settings.context_tokens != base.context_tokens,
    }
    return ", ".join(word for word, changed in words.items() if changed)
