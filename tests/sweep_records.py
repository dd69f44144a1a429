"""Synthetic but realistic sweeps for the tests of their reports and of the recommendation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from report_records import (
    MEMBERS,
    artifact,
    case,
    decode_check,
    device_verdict,
    hostile,
    measurement,
    memory,
    memory_check,
    quality,
    quality_check,
)

from edgekit.gate import recommend
from edgekit.records import (
    Artifact,
    Check,
    Evidence,
    Measurement,
    MemoryBreakdown,
    Quality,
    Report,
    Sweep,
    SweepRow,
    Unknown,
    Verdict,
    Workload,
)

REFERENCE_SHA = "f1" * 32
MEASURED = replace(measurement(sustained=False), thermal=())


def made(target: str, size_bytes: int) -> Artifact:
    base = artifact(target.replace("gguf:", "zen-nano-1.5b-") + (".gguf" if target.startswith("gguf") else ""))
    sha = REFERENCE_SHA if target == "gguf:f16" else hashlib.sha256(target.encode()).hexdigest()
    header = replace(base.header, size_bytes=size_bytes, quant=target.partition(":")[2])
    return replace(base, sha256=sha, header=header)


def faster(run: Measurement, factor: float) -> Measurement:
    samples = tuple(
        replace(one, elapsed_s=one.elapsed_s / factor, token_s=tuple(step / factor for step in one.token_s))
        for one in run.samples
    )
    return replace(run, samples=samples)


def breakdown(size_bytes: int) -> MemoryBreakdown:
    base, total = memory(), size_bytes + 90e6
    around = replace(base.working_set, value=total, low=total * 0.97, high=total * 1.03)
    return replace(
        base, weights_bytes=size_bytes, repacked_bytes=0, dormant_bytes=0, working_set=around, unevictable=around
    )


def judged_memory(size_bytes: int, limit: float = 1.2e9) -> Check:
    return replace(memory_check(breakdown(size_bytes), limit), metric="memory_bytes", title="memory")


def judged_quality(found: Quality | None, limit: float = 0.05) -> Check:
    if found is None:
        return quality_check()
    figure = found.kld_mean
    assert not isinstance(figure, Unknown)
    status = "pass" if figure.high <= limit else "fail" if figure.low > limit else "unknown"
    return replace(
        quality_check(),
        metric="kld_mean",
        title="mean KL divergence",
        unit="nat",
        operating_point="against the reference's own distribution",
        min=None,
        max=limit,
        figure=figure,
        status=status,
        reason=f"{figure.low:.3g} to {figure.high:.3g} nat ({figure.basis}), at most {limit} nat asked",
        margin=1 - figure.value / limit,
        remedy="",
    )


def row(
    target: str,
    size_bytes: int,
    decode: float,
    kld: float | None = None,
    *,
    limit: float = 30.0,
    here: float = 1.0,
    scored: Quality | None = None,
) -> SweepRow:
    """A target judged for memory, decode and quality on one phone."""
    found = made(target, size_bytes)
    if kld is not None:
        scored = quality(kld, sha=found.sha256)
    one = case("oneplus-13", "OnePlus 13", decode, breakdown(size_bytes))
    checks = (decode_check(decode, limit, 1.15), judged_memory(size_bytes), judged_quality(scored))
    return _row(
        target,
        found,
        Evidence(
            edgekit_version="0.1.0",
            created_at="2026-11-22T01:05:00+00:00",
            artifact=found,
            cases=(one,),
            measurement=faster(MEASURED, here),
            quality=scored,
        ),
        device_verdict("oneplus-13", "OnePlus 13", checks),
    )


def _row(target: str, found: Artifact, evidence: Evidence, verdict: Verdict) -> SweepRow:
    code = {"pass": 0, "fail": 1, "unknown": 3}[verdict.status]
    return SweepRow(
        target=target, artifact=found, report=Report(evidence=evidence, verdicts=(verdict,), exit_code=code)
    )


def class_row(target: str, size_bytes: int, kld: float | None, speeds: Sequence[float]) -> SweepRow:
    """A target judged for every phone of a class."""
    single = row(target, size_bytes, speeds[0], kld)
    assert single.report is not None
    named = [(device, title, speed) for (device, title, _, _), speed in zip(MEMBERS, speeds, strict=False)]
    members = tuple(
        device_verdict(device, title, (decode_check(speed, 30.0, 1.15), judged_memory(size_bytes), quality_check()))
        for device, title, speed in named
    )
    failing = sum(member.status == "fail" for member in members)
    verdict = Verdict(
        device="smartphone",
        device_title="8 GB smartphone",
        status="fail" if failing == len(members) else "unknown",
        reason=f"of {len(members)} devices 0 pass, {failing} fail and the others are unknown",
        members=members,
        population="phones sold with 8 GB of RAM",
        gates_sha256="ef" * 32,
        gates_origin="devices/smartphone.toml",
    )
    cases = tuple(case(device, title, speed, breakdown(size_bytes)) for device, title, speed in named)
    return _row(
        target, single.artifact or made(target, size_bytes), replace(single.report.evidence, cases=cases), verdict
    )


def failed(target: str, reason: str, settle: str = "") -> SweepRow:
    return SweepRow(target=target, failed=Unknown(reason=reason, settle=settle))


def sweep(rows: Sequence[SweepRow], title: str = "OnePlus 13", name: str = "oneplus-13") -> Sweep:
    recommended, reason = recommend(rows)
    return Sweep(
        edgekit_version="0.1.0",
        created_at="2026-11-22T03:30:00+00:00",
        source="/models/zen-nano-1.5b",
        source_sha256="5c" * 32,
        device=name,
        device_title=title,
        rows=tuple(rows),
        recommended=recommended,
        reason=reason,
    )


def phone() -> Sweep:
    """The classic precisions on one phone: some pass, some do not fit, one could not be made."""
    return sweep(
        (
            row("gguf:f16", 3_100_000_000, 13.0, 0.0, here=0.31),
            row("gguf:q8_0", 1_650_000_000, 27.0, 0.0011, here=0.57),
            row("gguf:q6_k", 1_110_000_000, 33.0, 0.0042, here=0.66),
            row("gguf:q5_k_m", 1_060_000_000, 34.5, 0.0091, here=0.75),
            row("gguf:q4_k_m", 930_000_000, 41.0, 0.0212, here=0.94),
            row("gguf:q4_0", 872_000_000, 47.0, 0.0391, here=1.0),
            row("gguf:q2_k", 640_000_000, 38.0, 0.31, here=0.9),
            row("onnx:int8", 1_900_000_000, 21.0, 0.0034, here=0.4),
            failed(
                "onnx:int4", "the exporter ran out of memory after 11.2 GB", "free 4 GB, or export on a larger machine"
            ),
        )
    )


def phones() -> Sweep:
    """A class of phones, whose quality gate nobody can answer yet: none passes."""
    speeds = (71.0, 66.0, 58.0, 47.0, 33.0, 24.0, 14.5)
    return sweep(
        tuple(
            class_row(target, size, kld, [speed * factor for speed in speeds])
            for target, size, kld, factor in (
                ("gguf:q8_0", 1_650_000_000, 0.0011, 0.55),
                ("gguf:q4_k_m", 930_000_000, 0.0212, 0.85),
                ("gguf:q4_0", 872_000_000, None, 1.0),
            )
        ),
        "8 GB smartphone",
        "smartphone",
    )


def none_made() -> Sweep:
    return sweep(
        (
            failed("gguf:q4_k_m", "no space left on the device", "free 2.1 GB"),
            failed("onnx:int4", "a library that this needs is not installed: `onnx`", "pip install 'edgekit[onnx]'"),
        )
    )


def hostile_sweep(text: str) -> Sweep:
    """`text` wherever an outsider's words can reach."""
    report = hostile(text)
    rows = (
        SweepRow(target=text, artifact=report.evidence.artifact, report=report),
        *phone().rows[1:3],
        failed(text, text, text),
    )
    base = sweep(rows, text, text)
    return replace(base, recommended=text, reason=text, source=text, source_sha256=text, created_at=text)


SWEEPS = {"phone": phone, "class": phones, "none": none_made}

__all__ = ["SWEEPS", "Workload", "hostile_sweep"]
