"""What the finished processes say about each other: refused peaks, unlike runs, and how the repetitions ended."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from edgekit.gate.onsite import disk_reads
from edgekit.records import Finding, Header, MemoryLimit, MemoryPeak, Runtime, Sample, Settings, Workload
from edgekit.summary import median_interval
from edgekit.units import format_bytes, format_percent

STOPPING_CONFIDENCE = 0.95
"""The stopping rule looks more than once, so at a wider interval than the one shown (`benchmarks/coverage.py`)."""

PEAKS_APART = 0.05

MAPPED_APART = 0.05
"""Part of a file by which two may differ in how they are mapped: the end of a file is no huge page."""


def half_width(samples: Sequence[Sample]) -> float | None:
    """Larger side of the exact binomial interval of the median speed as a fraction of the median; `None` when there
    are too few samples.
    """
    rates = [sample.tokens / sample.elapsed_s for sample in samples]
    interval = median_interval(rates, STOPPING_CONFIDENCE)
    if interval is None:
        return None
    middle = median(rates)
    return max(middle - interval[0], interval[1] - middle) / middle


def is_settled(samples: Sequence[Sample], workload: Workload) -> bool:
    """Whether a test needs no further repetition: precise enough, or as many as allowed."""
    if len(samples) >= workload.repetitions_max:
        return True
    width = half_width(samples)
    return len(samples) >= workload.repetitions_min and width is not None and width <= workload.precision


def precision_note(test: str, samples: Sequence[Sample], workload: Workload) -> Finding | None:
    """How the repetitions of `test` ended: precise enough, or given up at the most allowed."""
    width = half_width(samples)
    if width is None:
        return None
    reached = f"the interval of the median is within ± {format_percent(width)}"
    if width <= workload.precision:
        return Finding(level="note", code="precision", message=f"`{test}`: after {len(samples)} repetitions {reached}")
    return Finding(
        level="note",
        code="precision-missed",
        message=f"`{test}`: stopped at {len(samples)} repetitions, {reached}",
        hint="a quieter machine narrows it; `--quick` never goes beyond ten",
    )


def refuse_peak(peak: MemoryPeak, header: Header, settings: Settings) -> Finding | None:
    """A fault when the process cannot have held what it ran: without mmap every weight is private memory, with it
    the working set holds at least the tensors read on every token.
    """
    if settings.mmap or peak.unevictable_bytes is None:
        return None
    weights_bytes = sum(tensor.size_bytes for tensor in header.tensors)
    if peak.unevictable_bytes >= weights_bytes:
        return None
    return Finding(
        level="fault",
        code="peak-below-file",
        message=f"measuring fault in process {peak.process}: a peak of {format_bytes(peak.unevictable_bytes)} without "
        f"mmap is below the weights' own {format_bytes(weights_bytes)}, so it is refused",
        hint="please report it with the output of `edgekit bench --json`",
    )


def compare_peaks(peaks: Sequence[MemoryPeak]) -> tuple[Finding, ...]:
    """A warning for each figure in which the processes disagree: they ran the same configuration."""
    findings = []
    for words, values in (
        ("working set", [peak.working_set_bytes for peak in peaks]),
        ("unevictable memory", [peak.unevictable_bytes for peak in peaks]),
    ):
        known = [value for value in values if value]
        if known and max(known) > (1 + PEAKS_APART) * min(known):
            findings.append(
                Finding(
                    level="warning",
                    code="peaks-apart",
                    message=f"the processes' peaks of {words} lie {format_percent(max(known) / min(known) - 1)} apart: "
                    f"{format_bytes(min(known))} to {format_bytes(max(known))}",
                    hint="was the machine short of memory? was the file mapped by other pages? run again",
                )
            )
    return tuple(findings)


def mapped_unlike(base: Sequence[MemoryPeak], new: Sequence[MemoryPeak], sizes: tuple[int, int]) -> str:
    """Why the working sets of two builds must not be compared; empty where the kernel mapped both files by pages of the
    same size. By huge pages a file shows up to 40 % more of it in use (`benchmarks/LOG.md`, Memory).
    """
    shares = [
        [(peak.huge_mapped_bytes or 0) / size for peak in peaks]
        for peaks, size in zip((base, new), sizes, strict=True)
        if size > 0
    ]
    known = [share for one in shares for share in one]
    if not known or max(known) - min(known) <= MAPPED_APART:
        return ""
    return (
        f"the kernel mapped {format_percent(min(known))} of one file by huge pages and {format_percent(max(known))} of "
        "the other, so that their working sets are counted unlike"
    )


def limit_notes(limit: MemoryLimit | None, peaks: Sequence[MemoryPeak], header: Header) -> tuple[Finding, ...]:
    """What held the memory down, and a warning where the model lived on the disk instead."""
    if limit is None:
        return ()
    held = Finding(level="note", code="memory-limit-held", message=f"the memory of the run was limited: {limit.words}")
    reads = disk_reads(peaks, header)
    if not reads or header.experts:  # an expert is read when a token first comes to it
        return (held,)
    message = f"{reads}: under {format_bytes(limit.limit_bytes)} the model thrashes, so it does not fit"
    hint = "a smaller context, ubatch, KV type or quant needs less memory"
    if not limit.mapped:
        message = f"{reads}: the model thrashes, and not for the limit, which leaves mapped weights"
        hint = "close other programs, and run again"
    return held, Finding(level="warning", code="thrashing", message=message, hint=hint)


def compare_runtimes(first: Runtime, other: Runtime, process: int) -> Finding | None:
    """A fault when a later process effectively ran something else: unlike rows are never joined."""
    changed = [name for name in Runtime.__slots__ if getattr(first, name) != getattr(other, name)]
    if not changed:
        return None
    values = ", ".join(f"{name} `{getattr(first, name)}` → `{getattr(other, name)}`" for name in changed)
    return Finding(
        level="fault",
        code="runtime-changed",
        message=f"process {process} ran another runtime than the first, its samples are left out: {values}",
        hint="was llama-cpp-python reinstalled, or the CPU set changed, during the run?",
    )
