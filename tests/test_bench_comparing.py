"""The pull-request gate: pairs on fake workers whose truth is known, and recorded runs."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import RUNTIME, Clock, Fakes, artifact
from report_records import evidence as recorded_evidence
from report_records import measurement

from edgekit import in_turn
from edgekit.bench import compare, compare_recorded
from edgekit.bench.comparing import BETTER
from edgekit.errors import EdgekitError
from edgekit.records import Artifact, Comparison, Estimate, Evidence, Finding, MemoryLimit
from edgekit.report import render_comparison
from edgekit.runtimes import Step
from edgekit.storage import from_json, to_json

LIMITS = {"decode": 0.97, "memory": 1.01}


def build(name: str, sha256: str = "11" * 32) -> Artifact:
    return replace(artifact(), path=f"/nowhere/{name}.gguf", sha256=sha256)


def idle(root: Path, now_s: float) -> None:
    """Four CPUs that have done nothing up to `now_s`."""
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  0 0 0 {int(now_s * 400)} 0 0 0 0\n")


def compared(
    *,
    slower: float = 1.0,
    noise: float = 0.01,
    drift: float = 0.0,
    peak: float = 1.0,
    seed: int = 1,
    limits: dict[str, float] | None = None,
    root: Path | None = None,
    huge: Callable[[Path], int | None] = lambda path: None,
) -> Comparison:
    """A comparison of fake builds: NEW takes `slower` times as long, runs scatter by `noise`, and the whole machine
    gets slower by `drift` with every second.
    """
    dice = random.Random(seed)
    fakes = Fakes(clock=Clock())
    if root is None:
        root = Path(tempfile.mkdtemp())
        idle(root, 0.0)
    machine_root = root

    def seconds(step: Step, process: int, repetition: int) -> float:
        if machine_root.exists():
            idle(machine_root, fakes.clock.now_s)
        new = "new" in fakes.opened[process].path.name
        machine = 1 + drift * (fakes.clock.now_s - 1000.0)
        return (
            (step.prompt / 1000 + step.generate / 100)
            * machine
            * math.exp(dice.gauss(0, noise))
            * (slower if new else 1.0)
        )

    fakes.seconds = seconds
    fakes.peak_bytes = lambda process: int(9e8 * (peak if "new" in fakes.opened[process].path.name else 1.0))
    fakes.huge_bytes = huge
    return compare(
        build("base"),
        build("new"),
        LIMITS if limits is None else limits,
        open_worker=fakes.open_worker,  # type: ignore[arg-type]
        clock=fakes.clock,
        sleep=fakes.clock.sleep,
        root=root,
    )


def change(comparison: Comparison, metric: str) -> tuple[str, Estimate]:
    found = next(one for one in comparison.changes if one.metric == metric)
    assert isinstance(found.ratio, Estimate)
    return found.status, found.ratio


def test_a_slowdown_is_caught_and_no_change_is_not_one() -> None:
    same, slow = compared(), compared(slower=1 / 0.95)
    assert same.status == "pass"
    status, ratio = change(slow, "decode")
    assert (slow.status, status) == ("fail", "fail")
    assert ratio.low < 0.95 < ratio.high < 0.97


def test_a_steady_drift_of_the_machine_takes_the_same_from_both() -> None:
    _, ratio = change(compared(drift=0.02, noise=0.0), "decode")
    assert ratio.value == pytest.approx(1.0, abs=0.004)


def test_it_stops_at_the_first_look_that_settles_and_gives_up_at_the_last() -> None:
    settled = compared(noise=0.002)
    assert {pair.pair for pair in settled.pairs} == set(range(in_turn.LOOKS[0]))
    undecided = compared(slower=1 / 0.97, noise=0.02)
    assert {pair.pair for pair in undecided.pairs} == set(range(in_turn.LOOKS[-1]))
    assert undecided.status == "unknown"
    assert "inconclusive after 40 pairs" in undecided.changes[0].reason


def test_more_memory_fails_by_itself() -> None:
    comparison = compared(peak=1.02)
    assert change(comparison, "memory")[0] == "fail"
    assert comparison.status == "fail"


@pytest.mark.parametrize("peak", [1.0, 1.4])
def test_files_mapped_unlike_say_nothing_of_memory(peak: float) -> None:
    whole = build("base").header.size_bytes
    unlike = compared(peak=peak, huge=lambda path: whole if "new" in path.name else 0)
    found = next(one for one in unlike.changes if one.metric == "memory")
    assert (found.status, unlike.status) == ("unknown", "unknown")
    assert "huge pages" in found.reason
    alike = compared(peak=peak, huge=lambda path: whole)
    assert change(alike, "memory")[0] == ("pass" if peak == 1.0 else "fail")


def test_both_files_are_fetched_anew_before_the_first_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    monkeypatch.setattr("edgekit.bench.comparing.put_out", lambda files: put.extend(file.name for file in files))
    compared()
    assert put == ["base.gguf", "new.gguf"]


def test_false_alarms_and_misses_over_many_seeds() -> None:
    """A heavier scatter than most machines have; `benchmarks/false_alarms.py` does this at length."""
    same = [compared(seed=seed, noise=0.015, limits={"decode": 0.97}).status for seed in range(60)]
    slow = [compared(seed=seed, slower=1 / 0.95, noise=0.015, limits={"decode": 0.97}).status for seed in range(60)]
    assert same.count("fail") == 0
    assert slow.count("fail") >= 57


def test_a_machine_that_was_busy_is_inconclusive(tmp_path: Path) -> None:
    ticks = iter(range(10_000))

    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0\n")
    fakes = Fakes(clock=Clock())

    def seconds(step: Step, process: int, repetition: int) -> float:
        used = 100 * next(ticks)
        stat.write_text(f"cpu  {used} 0 0 0 0 0 0 0\n")
        return 0.1

    fakes.seconds = seconds
    found = compare(
        build("base"),
        build("new"),
        {"decode": 0.97},
        open_worker=fakes.open_worker,  # type: ignore[arg-type]
        clock=fakes.clock,
        sleep=fakes.clock.sleep,
        root=tmp_path,
    )
    assert found.status == "unknown"
    assert found.changes[0].reason == "inconclusive: the machine was not quiet"


def test_a_machine_that_tells_nothing_is_inconclusive() -> None:
    found = compared(root=Path("/nonexistent"), limits={"decode": 0.5})
    assert (found.status, found.changes[0].reason) == (
        "unknown",
        "inconclusive: whether the machine was quiet cannot be told",
    )


def test_unlike_runtimes_are_refused_with_the_field() -> None:
    fakes = Fakes(runtimes=lambda process: replace(RUNTIME, build=f"b{process}"))
    with pytest.raises(EdgekitError, match="do not run alike: `build` is `b0` and `b1`"):
        compare(build("base"), build("new"), LIMITS, open_worker=fakes.open_worker)  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"speed": 0.97}, {"decode": 1.03}, {"decode": 0.999}, {"memory": 0.99}])
def test_limits_that_nothing_can_be_judged_by(limits: dict[str, float]) -> None:
    with pytest.raises(EdgekitError, match=r"unknown metric|a limit must allow"):
        compared(limits=limits)


def test_without_a_limit_nothing_passes() -> None:
    assert compared(limits={}).status == "unknown"


def test_the_interval_is_exact() -> None:
    """No outlier moves it, and its level is the signed ranks' own: 1/1024 is the share of the extreme order of ten."""
    values = [0.01 * value for value in range(10)]
    near, far = in_turn.interval(values), in_turn.interval([*values[:-1], 1e6])
    assert near is not None
    assert far is not None
    assert far[2] < 1e6
    assert in_turn.interval(values[:9], alpha=2 / 1024) is None
    assert in_turn.interval(values, alpha=2 / 1024) == (pytest.approx(0.045), 0.0, 0.09)


def test_mann_whitney_agrees_with_scipy() -> None:
    from scipy.stats import mannwhitneyu

    dice = random.Random(3)
    base, new = [dice.gauss(0, 1) for _ in range(14)], [dice.gauss(0.8, 1) for _ in range(12)]
    expected = mannwhitneyu(base, new, method="asymptotic").pvalue
    assert in_turn.mann_whitney(base, new) == pytest.approx(expected, rel=1e-9)


def test_it_is_read_back_and_escaped() -> None:
    comparison = compared()
    assert from_json(to_json(comparison), Comparison, origin="here") == comparison
    hostile = replace(comparison, new=replace(comparison.new, path="/x/a|b<script>`.gguf"))
    page = render_comparison(hostile)
    assert "<script>" not in page
    assert all(metric in {one.metric for one in comparison.changes} for metric in BETTER)


# ---- recorded runs --------------------------------------------------------------------------------------------------


def recorded(**changes: object) -> Evidence:
    """Recorded evidence; `factor` multiplies all times, the rest replaces fields of the measurement."""
    factor = float(changes.pop("factor", 1.0))  # type: ignore[arg-type]
    measured = replace(measurement(), artifact_sha256=recorded_evidence().artifact.sha256)
    slower = tuple(replace(sample, elapsed_s=sample.elapsed_s * factor) for sample in measured.samples)
    return recorded_evidence(measured=replace(measured, **{"samples": slower, **changes}))  # type: ignore[arg-type]


def test_recorded_runs_allow_for_drift() -> None:
    close = compare_recorded(recorded(), recorded(factor=1.05), LIMITS)
    assert change(close, "decode")[0] == "unknown"
    assert change(close, "memory")[0] == "pass"
    far = compare_recorded(recorded(), recorded(factor=1.4), LIMITS)
    assert (far.status, far.interleaved) == ("fail", False)
    assert far.findings[0].code == "not-interleaved"


def unlike(name: str) -> Evidence:
    ours = measurement()
    assert ours.runtime is not None
    changed: dict[str, object] = {
        "host": replace(ours.host, cpu_model="another"),
        "runtime": replace(ours.runtime, threads=7),
        "workload": replace(ours.workload, settings=replace(ours.workload.settings, kv_type="q8_0")),
        "on_device": "pi-5",
        "memory_limit": MemoryLimit(limit_bytes=10**9, means="scope", mapped=True, words="held"),
    }
    return recorded(**{name: changed[name]})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("host", "`cpu_model`"),
        ("runtime", "`threads`"),
        ("workload", "`kv_type`"),
        ("on_device", "different devices"),
        ("memory_limit", "memory limit: none, 1.00 GB"),
    ],
)
def test_unlike_records_are_refused_with_the_field(name: str, said: str) -> None:
    with pytest.raises(EdgekitError, match=said):
        compare_recorded(recorded(), unlike(name), LIMITS)


def test_records_without_a_run_or_with_a_broken_one_are_refused() -> None:
    with pytest.raises(EdgekitError, match="BASE holds no measurement"):
        compare_recorded(recorded_evidence(), recorded(), LIMITS)
    broken = recorded(findings=(Finding(level="fault", code="worker-killed", message="it died"),))
    with pytest.raises(EdgekitError, match="the run of NEW broke"):
        compare_recorded(recorded(), broken, LIMITS)


def test_runs_without_a_test_in_common_are_not_divided() -> None:
    ours = measurement()
    short = tuple(replace(s, test="tg32") if s.test == "tg128" else s for s in ours.samples)
    found = compare_recorded(recorded(), recorded(samples=short), LIMITS)
    assert next(one for one in found.changes if one.metric == "decode").status == "unknown"
    assert "no test in common" in found.changes[0].reason


def test_records_of_files_mapped_unlike_say_nothing_of_memory() -> None:
    size = recorded_evidence().artifact.header.size_bytes
    huge, small = (
        recorded(peaks=tuple(replace(peak, huge_mapped_bytes=mapped) for peak in measurement().peaks))
        for mapped in (size, 0)
    )
    found = next(one for one in compare_recorded(small, huge, LIMITS).changes if one.metric == "memory")
    assert (found.status, "huge pages" in found.reason) == ("unknown", True)
    assert change(compare_recorded(huge, huge, LIMITS), "memory")[0] == "pass"


def test_a_spoilt_record_settles_nothing() -> None:
    """Half the speed of a busy base would make any slowdown a gain."""
    noise = measurement().noise
    assert noise is not None
    busy = recorded(noise=replace(noise, others_cpu_during=0.6))
    found = compare_recorded(busy, recorded(factor=0.5), LIMITS)
    assert next(one for one in found.changes if one.metric == "decode").status == "unknown"
    assert next(one for one in found.changes if one.metric == "memory").status == "pass"
    silent = compare_recorded(recorded(noise=None), recorded(factor=0.5), LIMITS)
    assert "cannot be told" in silent.changes[0].reason


def test_a_measurement_of_another_file_is_refused() -> None:
    with pytest.raises(EdgekitError, match="NEW is of another file"):
        compare_recorded(recorded(), recorded(artifact_sha256="99" * 32), LIMITS)
