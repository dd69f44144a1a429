"""Runs held to a device's share of memory, in the judge's hands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gate_records import DECODE, HOST_ISA, ISA, case, evidence, gates, host, measurement, on_phone, peak, phone

from edgekit.gate import judge
from edgekit.records import Check, Finding, Gate, Measurement, MemoryLimit, Settings, Workload

STREAMED = 144_000
"""Bytes of weights a token of the test's student reads."""

READS = Gate(metric="disk_read_bytes_per_token", max=3000)
MEMORY = Gate(metric="memory_bytes", max=1.2e9)
SHARE = Gate(metric="memory_share_of_budget", max=1.0)
SCOPE = MemoryLimit(limit_bytes=4_000_000_000, means="scope", mapped=True, words="held")


def check(run: Measurement | None, gate: Gate, isa: str = ISA) -> Check:
    device = phone(isa=isa, gates=gates(gate, DECODE))
    found = judge(evidence(case(device), measurement=run), device, members=())
    return found.checks[0]


def limited_here(read: float, isa: str = HOST_ISA, limit: MemoryLimit = SCOPE, **changes: object) -> Measurement:
    peaks = tuple(replace(peak(1.1e9), process=index, read_bytes_per_token=read) for index in range(3))
    settings = Workload(settings=case().settings)
    return measurement(**{"host": host(isa), "peaks": peaks, "memory_limit": limit, "workload": settings, **changes})


def leak(code: str) -> Finding:
    return Finding(level="warning", code=code, message="nobody saw")


def test_what_stays_in_memory_passes_and_what_is_read_again_fails() -> None:
    assert check(limited_here(0.0, ISA), READS).status == "pass"
    assert check(limited_here(70_000.0, ISA), READS).status == "fail"
    there = on_phone(peaks=(replace(peak(1.1e9), read_bytes_per_token=100.0),))
    assert check(there, READS).figure.basis == "measured"
    assert check(limited_here(0.0, ISA), READS).figure.basis == "measured-here"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (None, "no run was held"),
        (limited_here(0.0, ISA, limit=replace(SCOPE, means="rlimit", mapped=False)), "did not count mapped weights"),
        (limited_here(0.0, ISA, limit=replace(SCOPE, limit_bytes=5_000_000_000)), "had more memory than the device"),
        (limited_here(0.0), "repacks other tensors"),
        (limited_here(0.0, ISA, artifact_sha256="00" * 32), "another file"),
        (limited_here(0.0, ISA, workload=Workload(settings=Settings(context_tokens=512))), "other settings"),
        (limited_here(0.0, ISA, memory_limit=None), "no run was held"),
        (limited_here(0.0, ISA, findings=(leak("limit-leaves-cache"),)), "nobody saw"),
        (limited_here(0.0, ISA, findings=(leak("limit-reads-uncounted"),)), "nobody saw"),
        (on_phone(), "not recorded"),
    ],
)
def test_a_run_that_says_nothing_of_the_device_passes_nothing(run: Measurement | None, words: str) -> None:
    found = check(run, READS)
    assert found.status == "unknown"
    assert words in found.reason


@pytest.mark.parametrize(
    ("limit", "gate", "status"),
    [
        (1_200_000_000, MEMORY, "fail"),
        (1_199_999_999, MEMORY, "unknown"),  # held tighter than the gate asks: it may yet fit
        (4_000_000_000, SHARE, "fail"),
        (3_999_999_999, SHARE, "unknown"),
    ],
)
def test_thrashing_under_the_limit_does_not_fit_though_nothing_was_killed(limit: int, gate: Gate, status: str) -> None:
    """Without a limit other programs may be to blame; a group's limit is the model's own."""
    run = on_phone(
        peaks=(replace(peak(0.9e9), read_bytes_per_token=0.5 * STREAMED),),
        memory_limit=replace(SCOPE, limit_bytes=limit),
    )
    assert check(run, gate).status == status
    assert check(replace(run, memory_limit=None), gate).status == "unknown"
    only_private = replace(SCOPE, limit_bytes=limit, means="rlimit", mapped=False)
    assert check(replace(run, memory_limit=only_private), gate).status == "unknown"


def test_weights_read_again_say_nothing_of_what_cannot_be_evicted() -> None:
    run = on_phone(peaks=(replace(peak(0.9e9), read_bytes_per_token=0.5 * STREAMED),), memory_limit=SCOPE)
    assert check(run, Gate(metric="unevictable_bytes", max=1.2e9)).status == "unknown"
    device = replace(phone(gates=gates(MEMORY, DECODE)), memory_metric="unevictable")
    assert judge(evidence(case(device), measurement=run), device, members=()).checks[0].status == "unknown"


def test_an_expert_read_for_the_first_time_is_no_thrashing() -> None:
    """Nothing was wrong with the run, so nothing fails; and nothing passes."""
    run = on_phone(peaks=(replace(peak(0.9e9), read_bytes_per_token=STREAMED),), memory_limit=SCOPE)
    device = phone(gates=gates(MEMORY, DECODE))
    found = evidence(case(device), measurement=run)
    header = replace(found.artifact.header, experts=8, experts_used=2)
    routed = replace(found, artifact=replace(found.artifact, header=header))
    assert judge(found, device, members=()).checks[0].status == "fail"
    assert judge(routed, device, members=()).checks[0].status == "unknown"


def test_a_peak_under_a_limit_that_was_too_tight_refutes_no_predictor() -> None:
    found = check(limited_here(0.5 * STREAMED, limit=replace(SCOPE, limit_bytes=500_000_000)), MEMORY)
    assert found.status == "unknown"
    assert "held to 500 MB here" in found.reason
    assert "did not fit" in found.reason
