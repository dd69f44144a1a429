from __future__ import annotations

import platform
import random
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import BUFFERS, RUNTIME, Fakes, artifact, died, steady

from edgekit.bench import PRESETS, measure
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Finding, Measurement, Settings, Workload
from edgekit.runtimes import Step
from edgekit.storage import from_json, to_json

EMPTY = Path("/nonexistent-root")


def run(fakes: Fakes, workload: Workload | None = None, **options: object) -> Measurement:
    workload = workload or Workload(settings=Settings(context_tokens=8192))
    return measure(
        options.pop("artifact", artifact()),  # type: ignore[arg-type]
        workload,
        open_worker=fakes.open_worker,  # type: ignore[arg-type]
        clock=fakes.clock,
        sleep=fakes.clock.sleep,
        root=EMPTY,
        **options,  # type: ignore[arg-type]
    )


def count(measured: Measurement, test: str) -> int:
    return sum(sample.test == test and not sample.warmup for sample in measured.samples)


def noisy(spread: float, seed: int = 1):  # type: ignore[no-untyped-def]
    source = random.Random(seed)
    return lambda step, process, repetition: steady(step, process, repetition) * (1 + source.gauss(0, spread))


def test_default_runs_ten_repetitions_in_three_fresh_processes_with_warmup_apart() -> None:
    fakes = Fakes()
    measured = run(fakes)
    assert len(fakes.opened) == 3
    assert fakes.steps(0) == [("pp512", 1, True), ("pp512", 4, False), ("tg128", 1, True), ("tg128", 4, False)]
    assert count(measured, "pp512") == count(measured, "tg128") == 10
    assert count(measured, "tg16@d1024") == count(measured, "tg16@d4096") == 10
    assert [sample.process for sample in measured.samples if sample.test == "tg128" and not sample.warmup] == (
        [0] * 4 + [1] * 3 + [2] * 3
    )
    assert all(opened.finished and opened.closed for opened in fakes.opened)
    assert len({opened.seed for opened in fakes.opened}) == 3
    assert (measured.runtime, measured.buffers) == (RUNTIME, BUFFERS)
    assert measured.load_s == (1.0, 1.1, 1.2)
    assert [peak.process for peak in measured.peaks] == [0, 1, 2]
    assert measured.energy_unknown
    assert not measured.energy


def test_the_host_is_recorded_with_the_isa_that_ran() -> None:
    features = {"x86_64": "SSE3 AVX2 FMA LLAMAFILE", "aarch64": "NEON DOTPROD", "arm64": "NEON DOTPROD"}
    expected = {"x86_64": "x86_64+avx2", "aarch64": "arm64+dotprod", "arm64": "arm64+dotprod"}
    machine = platform.machine()
    runtime = replace(RUNTIME, cpu_features=features.get(machine, ""))
    assert run(Fakes(runtimes=lambda process: runtime)).host.isa == expected.get(machine, machine)


def test_what_the_worker_found_is_reported_once() -> None:
    broken = Finding(level="warning", code="amx-broken", message="went without")
    assert run(Fakes(findings=(broken,))).findings.count(broken) == 1


def test_a_measurement_survives_the_file() -> None:
    measured = run(Fakes())
    assert from_json(to_json(measured), Measurement, origin="test") == measured


def test_depths_beyond_the_judged_context_get_a_process_whose_peak_does_not_count() -> None:
    fakes = Fakes()
    measured = run(fakes, Workload(settings=Settings(context_tokens=4096)))
    assert [opened.settings.context_tokens for opened in fakes.opened] == [4096, 4096, 4096, 4352]
    assert [peak.process for peak in measured.peaks] == [0, 1, 2]
    assert len(measured.load_s) == 3
    assert count(measured, "tg16@d4096") == 10
    assert "larger-context" in {finding.code for finding in measured.findings}


def test_the_cache_is_filled_once_for_each_depth_from_shallow_to_deep() -> None:
    fakes = Fakes()
    run(fakes)
    deep = [(step.test, step.depth) for step in fakes.opened[-1].steps if step.depth and not step.warmup]
    assert deep == [("tg16@d1024", 1024), ("tg16@d4096", 4096)]


def test_noise_adds_fresh_processes_until_the_median_is_precise() -> None:
    fakes = Fakes(seconds=noisy(0.03))
    measured = run(fakes)
    assert len(fakes.opened) > 3
    assert all(10 <= count(measured, test) < 60 for test in ("pp512", "tg128"))
    assert len({s.process for s in measured.samples if s.test == "tg128"}) > 3
    notes = [finding for finding in measured.findings if finding.code == "precision"]
    assert len(notes) == 2
    # an added process may skip prefill and never touch its buffers: its peak would be too low
    assert [peak.process for peak in measured.peaks] == [0, 1, 2]


def test_repetitions_end_at_sixty_and_say_so() -> None:
    measured = run(Fakes(seconds=noisy(0.3)))
    assert count(measured, "pp512") == count(measured, "tg128") == 60
    assert [finding.code for finding in measured.findings].count("precision-missed") == 2


def test_a_settled_test_is_not_repeated_with_an_unsettled_one() -> None:
    def seconds(step: Step, process: int, repetition: int) -> float:
        spread = 0.2 * ((process + repetition) % 3) if step.prompt else 0.0
        return steady(step, process, repetition) * (1 + spread)

    measured = run(Fakes(seconds=seconds))
    assert count(measured, "tg128") == 10
    assert count(measured, "pp512") == 60


def test_quick_is_ten_of_each_and_never_more() -> None:
    fakes = Fakes(seconds=noisy(0.3))
    measured = run(fakes, PRESETS["quick"])
    assert {s.test for s in measured.samples} == {"pp128", "tg32"}
    assert count(measured, "pp128") == count(measured, "tg32") == 10
    assert len(fakes.opened) == 3


def test_a_worker_that_dies_leaves_its_samples_and_a_fault() -> None:
    def dies(step: Step, process: int) -> None:
        if process == 1 and step.test == "tg128" and not step.warmup:
            raise died("worker-out-of-memory")

    fakes = Fakes(dies=dies)
    measured = run(fakes)
    assert count(measured, "pp512") == 7
    assert count(measured, "tg128") == 4
    assert [f.code for f in measured.findings if f.level == "fault"] == ["worker-out-of-memory"]
    assert len(fakes.opened) == 2
    assert all(opened.closed for opened in fakes.opened)


def test_a_worker_that_dies_while_loading_is_a_measurement_without_runtime() -> None:
    def on_open(process: int) -> None:
        raise died("worker-segfault")

    measured = run(Fakes(on_open=on_open))
    assert measured.runtime is None
    assert measured.samples == ()
    assert [f.code for f in measured.findings if f.level == "fault"] == ["worker-segfault"]


def test_a_model_the_runtime_declines_is_bad_input() -> None:
    def on_open(process: int) -> None:
        raise died("model-rejected")

    with pytest.raises(EdgekitError) as caught:
        run(Fakes(on_open=on_open))
    assert caught.value.code is ExitCode.USAGE


def test_a_larger_context_that_does_not_fit_costs_the_depths_only() -> None:
    def on_open(process: int) -> None:
        if process == 3:
            raise died("context-rejected")

    measured = run(Fakes(on_open=on_open), Workload(settings=Settings(context_tokens=2048)))
    assert not [finding for finding in measured.findings if finding.level == "fault"]
    assert "context-rejected" in {finding.code for finding in measured.findings if finding.level == "warning"}
    assert count(measured, "tg128") == 10


def test_interruption_passes_and_the_worker_is_closed() -> None:
    def dies(step: Step, process: int) -> None:
        raise KeyboardInterrupt

    fakes = Fakes(dies=dies)
    with pytest.raises(KeyboardInterrupt):
        run(fakes)
    assert [opened.closed for opened in fakes.opened] == [True]


def test_a_process_that_runs_something_else_is_not_joined() -> None:
    fakes = Fakes(runtimes=lambda process: replace(RUNTIME, threads=4 if process < 2 else 2))
    measured = run(fakes)
    assert count(measured, "tg128") == 7
    faults = [finding for finding in measured.findings if finding.level == "fault"]
    assert [fault.code for fault in faults] == ["runtime-changed"]
    assert "threads `4` → `2`" in faults[0].message


def test_a_peak_below_the_weights_without_mmap_is_refused() -> None:
    fakes = Fakes(peak_bytes=lambda process: 700_000_000 if process == 1 else 900_000_000)
    measured = run(fakes, Workload(settings=Settings(context_tokens=8192, mmap=False)))
    assert [peak.process for peak in measured.peaks] == [0, 2]
    assert [finding.code for finding in measured.findings if finding.level == "fault"] == ["peak-below-file"]


def test_with_mmap_a_peak_below_the_weights_is_possible() -> None:
    measured = run(Fakes(peak_bytes=lambda process: 300_000_000))
    assert len(measured.peaks) == 3


def test_peaks_that_disagree_are_warned_of() -> None:
    measured = run(Fakes(peak_bytes=lambda process: 900_000_000 + 100_000_000 * process))
    assert "peaks-apart" in {finding.code for finding in measured.findings if finding.level == "warning"}


def test_sustained_runs_last_and_may_take_its_time() -> None:
    fakes = Fakes()
    workload = Workload(settings=Settings(context_tokens=8192), sustained_s=600, timeout_s=100)
    measured = run(fakes, workload)
    assert count(measured, "sustained") == 600
    assert fakes.opened[-1].timeout_s == 700
    assert fakes.opened[0].timeout_s == 100
    assert fakes.opened[-1].steps[0].generate == 128
    assert [peak.process for peak in measured.peaks] == [0, 1, 2]


def test_drifting_samples_are_contaminated_here_and_a_result_on_the_device() -> None:
    def seconds(step: Step, process: int, repetition: int) -> float:
        return steady(step, process, repetition) * (1 + 0.01 * (4 * process + repetition))

    here = run(Fakes(seconds=seconds))
    assert here.noise is not None
    assert {"pp512", "tg128"} <= set(here.noise.contaminated)
    there = run(Fakes(seconds=seconds), on_device="pixel-9")
    assert there.noise is not None
    assert there.noise.contaminated == ()
    assert there.on_device == "pixel-9"
    assert "contaminated" in {finding.code for finding in there.findings}


def test_progress_counts_up_to_its_total() -> None:
    told: list[tuple[str, float, float]] = []
    run(Fakes(), progress=lambda stage, done, total, detail="": told.append((stage, done, total)))
    done = [entry[1] for entry in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2] > 0
    assert {stage for stage, _, _ in told} == {"measuring"}
