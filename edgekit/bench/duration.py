"""How long a run should take, before it starts: from the bytes a token reads and what this host's memory delivers."""

from __future__ import annotations

import time

from edgekit.bench.plan import Plan, ProcessPlan
from edgekit.memory import streamed_bytes
from edgekit.records import Header

PROBE_BYTES = 96 * 2**20
"""Larger than most last-level caches; small enough to take a tenth of a second."""

DECODE_SHARE = (0.25, 0.8)
"""Decode reaches this part of what a plain matrix–vector product reads; the low end is for slow kernels."""

PREFILL_SPEEDUP = (1.5, 8.0)
"""Prefill ÷ decode tok/s on CPUs at a ubatch of 512, from the published CPU rows."""

LOAD_BYTES_PER_S = (0.4e9, 3e9)
"""Reading and repacking."""

PROCESS_START_S = 0.7


def read_bandwidth_bytes_per_s() -> float:
    """What this host reads now, with numpy's threads: f32 `M @ x` moves every byte of M once."""
    import numpy as np

    matrix = np.ones((PROBE_BYTES // 4 // 1024, 1024), dtype=np.float32)
    vector = np.ones(1024, dtype=np.float32)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        matrix @ vector
        best = max(best, matrix.nbytes / (time.perf_counter() - start))
    return best


def expected_duration_s(plan: Plan, header: Header, bandwidth_bytes_per_s: float) -> tuple[float, float]:
    """Seconds from start to end, low and high; adaptive repetitions are not counted."""
    streamed = sum(size_bytes for _, size_bytes in streamed_bytes(header))
    low = high = 0.0
    for process in (*plan.main, *plan.after):
        prompt, generated = _tokens(process)
        slow, fast = (streamed / (bandwidth_bytes_per_s * share) for share in DECODE_SHARE)
        low += _seconds(header, prompt, generated, process, fast, PREFILL_SPEEDUP[1], LOAD_BYTES_PER_S[1])
        high += _seconds(header, prompt, generated, process, slow, PREFILL_SPEEDUP[0], LOAD_BYTES_PER_S[0])
    return low, high


def answering_duration_s(
    header: Header, evaluated: tuple[int, int], generated: tuple[int, int], bandwidth_bytes_per_s: float
) -> tuple[float, float]:
    """Seconds, low and high, that a fresh process takes for so many tokens, low and high, of texts it is given and of
    its own. Texts that are written side by side go as fast as a prefill at best.
    """
    streamed = sum(size_bytes for _, size_bytes in streamed_bytes(header))
    slow, fast = (streamed / (bandwidth_bytes_per_s * share) for share in DECODE_SHARE)
    low = (
        PROCESS_START_S
        + header.size_bytes / LOAD_BYTES_PER_S[1]
        + sum((evaluated[0], generated[0])) * fast / PREFILL_SPEEDUP[1]
    )
    high = (
        PROCESS_START_S
        + header.size_bytes / LOAD_BYTES_PER_S[0]
        + (evaluated[1] / PREFILL_SPEEDUP[0] + generated[1]) * slow
    )
    return low, high


def _tokens(process: ProcessPlan) -> tuple[int, int]:
    """Tokens prefilled (depths are filled once) and generated."""
    timed = [step for step in process.steps if step.duration_s == 0]
    prompt = sum(step.prompt * step.repetitions for step in timed) + max((step.depth for step in timed), default=0)
    return prompt, sum(step.generate * step.repetitions for step in timed)


def _seconds(
    header: Header,
    prompt: int,
    generated: int,
    process: ProcessPlan,
    token_s: float,
    speedup: float,
    load_bytes_per_s: float,
) -> float:
    load_s = PROCESS_START_S + header.size_bytes / load_bytes_per_s
    return load_s + generated * token_s + prompt * token_s / speedup + process.duration_s
