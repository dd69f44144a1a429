"""The rules of design §3: a wrong pass is the worst bug."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import gate_records as r
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, ExitCode
from edgekit.gate import METRICS, exit_code, judge
from edgekit.gate.metrics import check_gate
from edgekit.records import (
    Check,
    Cluster,
    Device,
    Estimate,
    Evidence,
    Finding,
    Gate,
    Noise,
    Sourced,
    Status,
    Unknown,
    Verdict,
    Waiver,
    exact,
)

TODAY = date(2026, 11, 22)
ORDER: dict[Status, int] = {"fail": 0, "unknown": 1, "pass": 2}


def verdict_of(evidence: Evidence, *lines: Gate, device: Device | None = None, waivers: tuple[Waiver, ...] = ()):
    return judge(evidence, device or r.phone(), r.gates(*lines, waivers=waivers), today=TODAY)


def check_of(evidence: Evidence, gate: Gate, device: Device | None = None) -> Check:
    return verdict_of(evidence, gate, device=device).checks[0]


def with_decode(low: float, value: float, high: float) -> Evidence:
    return r.evidence(r.case(projection=r.projection(r.projected(low, value, high))))


# ---- the bare rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "status", "says"),
    [
        ((50, 55, 60), "pass", "at least 50.0 tok/s asked"),
        ((30, 40, 49.99), "fail", "at least 50.0 tok/s asked"),
        ((45, 55, 65), "unknown", "leans to pass"),
        ((45, 49, 65), "unknown", "leans to fail"),
        ((30, 40, 50), "unknown", "straddles"),
    ],
)
def test_whole_range_decides(span, status, says) -> None:
    check = check_of(with_decode(*span), r.DECODE)
    assert check.status == status
    assert says in check.reason
    assert check.remedy or status == "pass"


@pytest.mark.parametrize(
    ("span", "status"),
    [((1.0e9, 1.1e9, 1.2e9), "pass"), ((1.21e9, 1.3e9, 1.4e9), "fail"), ((1e9, 1.1e9, 1.3e9), "unknown")],
)
def test_upper_limits(span, status) -> None:
    evidence = r.evidence(r.case(memory=r.memory(r.predicted(*span))))
    assert check_of(evidence, r.MEMORY).status == status


def test_margin_is_a_fraction_of_the_limit() -> None:
    assert check_of(with_decode(55, 60, 65), r.DECODE).margin == pytest.approx(0.2)
    assert check_of(with_decode(35, 40, 45), r.DECODE).margin == pytest.approx(-0.2)
    memory = r.evidence(r.case(memory=r.memory(r.predicted(1e9, 1.08e9, 1.1e9))))
    assert check_of(memory, r.MEMORY).margin == pytest.approx(0.1)


def test_everything_known_and_met_passes_and_carries_the_gates_hash() -> None:
    verdict = verdict_of(r.evidence(), r.MEMORY, r.DECODE, r.BATTERY)
    assert verdict.status == "pass"
    assert verdict.gates_sha256 == "9a" * 32
    assert [check.status for check in verdict.checks] == ["pass"] * 3


def test_fail_beats_unknown_and_advisory_changes_nothing() -> None:
    slow = with_decode(20, 25, 30)
    assert verdict_of(slow, r.DECODE, r.RETENTION).status == "fail"
    advisory = verdict_of(slow, r.MEMORY, replace(r.DECODE, level="advisory"))
    assert advisory.status == "pass"
    assert advisory.checks[1].status == "fail"


def test_no_required_check_is_unknown() -> None:
    assert verdict_of(r.evidence()).status == "unknown"
    assert verdict_of(r.evidence(), replace(r.MEMORY, level="advisory")).status == "unknown"


# ---- what is not known --------------------------------------------------------------------------------------------


def test_quality_not_measured_and_stand_ins_are_unknown() -> None:
    assert "not measured" in check_of(r.evidence(), r.RETENTION).reason
    stand_in = replace(r.evidence().artifact, header=replace(r.HEADER, stand_in=True))
    good = r.quality(exact(0.0, "measured-here"))
    gate = Gate(metric="kld_mean", max=0.1)
    assert check_of(r.evidence(quality=good), gate).status == "pass"
    check = check_of(r.evidence(artifact=stand_in, quality=good), gate)
    assert (check.status, "stand-in" in check.reason) == ("unknown", True)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"artifact_sha256": "00" * 32}, "another file"),
        ({"artifact_sha256": ""}, "does not say of which file"),
        ({"reference_sha256": r.SHA}, "compared with itself"),
        ({"settings": replace(r.SETTINGS, kv_type="q8_0")}, "KV cache of `q8_0`"),
    ],
)
def test_quality_of_something_else_passes_nothing(changed: dict[str, object], says: str) -> None:
    good = replace(r.quality(exact(0.0, "measured-here")), **changed)
    check = check_of(r.evidence(quality=good), Gate(metric="kld_mean", max=0.1))
    assert (check.status, says in check.reason) == ("unknown", True), check.reason


def test_quality_with_a_plain_cache_says_nothing_of_a_quantized_one() -> None:
    """Nor does a record that names no settings: llama.cpp's own are an f16 cache."""
    settings = replace(r.SETTINGS, kv_type="q4_0")
    evidence = r.evidence(r.case(settings=settings), quality=r.quality(exact(0.0, "measured-here")))
    check = check_of(evidence, Gate(metric="kld_mean", max=0.1))
    assert (check.status, "KV cache of `f16`" in check.reason) == ("unknown", True), check.reason


def test_the_full_precision_build_is_its_own_reference() -> None:
    plain = replace(r.evidence().artifact, header=r.PLAIN)
    good = replace(r.quality(exact(0.0, "measured-here")), reference_sha256=r.SHA)
    check = check_of(r.evidence(artifact=plain, quality=good), Gate(metric="kld_mean", max=0.1))
    assert check.status == "pass"


@pytest.mark.parametrize(
    "changed",
    [
        {"device_title": "x", "device_sha256": ""},
        {"device_sha256": "older"},
        {
            "settings": replace(r.SETTINGS, context_tokens=512),
            "memory": r.memory(settings=replace(r.SETTINGS, context_tokens=512)),
        },
        {"memory": r.memory(isa="x86_64+avx2")},
        {"memory": r.memory(settings=replace(r.SETTINGS, ubatch_tokens=64))},
        {"memory": Unknown(reason="no")},
    ],
)
def test_evidence_of_something_else_never_passes(changed) -> None:
    check = check_of(r.evidence(r.case(**changed)), r.MEMORY)
    assert check.status == "unknown"


def test_a_projection_for_another_device_is_refused() -> None:
    stray = replace(r.case(), projection=r.projection(device="another"))
    check = check_of(r.evidence(stray), r.DECODE)
    assert (check.status, "another" in check.reason) == ("unknown", True)


def test_two_cases_of_one_device_are_refused() -> None:
    assert check_of(r.evidence(r.case(), r.case()), r.MEMORY).status == "unknown"


def test_settings_chosen_by_the_shipper_are_a_condition_of_the_verdict() -> None:
    settings = replace(r.SETTINGS, ubatch_tokens=128)
    verdict = verdict_of(r.evidence(r.case(settings=settings, memory=r.memory(settings=settings))), r.MEMORY)
    assert verdict.status == "pass"
    assert "holds only when shipped with `ubatch_tokens` 128 (profile: 512)" in verdict.reason


def test_uncalibrated_projections_cannot_pass_alone_but_can_fail() -> None:
    def evidence(*span: float) -> Evidence:
        uncalibrated = r.projection(r.projected(*span), calibrated=False, devices_behind=3)
        return r.evidence(r.case(projection=uncalibrated))

    check = check_of(evidence(60, 65, 70), r.DECODE)
    assert (check.status, "uncalibrated (3 devices" in check.reason) == ("unknown", True)
    assert check_of(evidence(20, 25, 30), r.DECODE).status == "fail"
    assert check_of(evidence(60, 65, 70), r.BATTERY).status == "unknown"
    assert check_of(evidence(60, 65, 70), r.MEMORY).status == "pass"


def test_a_projection_above_the_bandwidth_bound_does_not_pass() -> None:
    check = check_of(with_decode(90, 95, 100), r.DECODE)
    assert (check.status, "bandwidth" in check.reason) == ("unknown", True)


def test_min_basis_is_demanded() -> None:
    gate = replace(r.DECODE, min_basis="measured")
    check = check_of(r.evidence(), gate)
    assert (check.status, "accepts only `measured`" in check.reason) == ("unknown", True)
    assert check_of(r.evidence(measurement=r.on_phone()), gate).status == "pass"


# ---- measured on the device, or only here -------------------------------------------------------------------------


def test_a_fast_host_never_speaks_for_the_device() -> None:
    fast = r.measurement(samples=r.samples("tg128", 128, 900))
    evidence = replace(with_decode(20, 25, 30), measurement=fast)
    assert check_of(evidence, r.DECODE).status == "fail"
    assert check_of(r.evidence(r.case(projection=Unknown(reason="no")), measurement=fast), r.DECODE).status == "unknown"
    assert check_of(r.evidence(measurement=fast), Gate(metric="load_s", max=10)).status == "unknown"


def test_on_the_device_the_measured_figure_is_judged() -> None:
    evidence = replace(with_decode(20, 25, 30), measurement=r.on_phone())
    check = check_of(evidence, r.DECODE)
    assert (check.status, check.figure.basis) == ("pass", "measured")
    memory = check_of(evidence, r.MEMORY)
    assert (memory.status, memory.figure.basis, memory.figure.value) == ("pass", "measured", 1.1e9)
    over = replace(evidence, measurement=r.on_phone(peaks=(r.peak(1.1e9), r.peak(1.3e9))))
    assert check_of(over, r.MEMORY).status == "unknown"


def test_a_twin_of_the_device_is_not_the_device() -> None:
    twin = r.on_phone(on_device="phone-plus", peaks=())
    evidence = replace(with_decode(20, 25, 30), measurement=twin)
    check = check_of(evidence, r.DECODE)
    assert (check.status, check.figure.basis) == ("fail", "projected")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"artifact_sha256": "00"}, "another file"),
        ({"host": r.host("x86_64+avx2")}, "its host is"),
        ({"host": r.host("arm64+dotprod")}, "its host is"),
        ({"host": r.host(r.ISA, 64_000_000_000)}, "RAM"),
        ({"workload": replace(r.measurement().workload, settings=replace(r.SETTINGS, ubatch_tokens=64))}, "ubatch"),
        ({"runtime": replace(r.measurement().runtime, threads=8)}, "8 threads"),
    ],
)
def test_a_run_that_only_claims_the_device_counts_for_nothing(changes, says) -> None:
    check = check_of(r.evidence(measurement=r.on_phone(**changes)), r.DECODE)
    assert (check.status, says in check.reason) == ("unknown", True)


CORES = (Cluster(name="big", cores=3, big=True), Cluster(name="small", cores=1))


@pytest.mark.parametrize(
    ("host", "profile", "says"),
    [
        ({"system": "macOS"}, {"os": "Android 14"}, "its host runs `macOS`"),
        ({"system": "macOS"}, {"os": "iPadOS"}, "its host runs `macOS`"),
        ({"system": "Linux"}, {"os": "Windows 11"}, "its host runs `Linux`"),
        ({"system": ""}, {"os": "Linux"}, "an unknown OS"),
        ({"virtualized": "kvm"}, {}, "virtual (`kvm`)"),
        ({"virtualized": "kvm"}, {"device_class": "tablet"}, "virtual (`kvm`)"),
        ({"physical_cores": 3}, {"clusters": CORES}, "its host has 3"),
        ({}, {"os": "Android 14", "clusters": CORES}, ""),
        ({"system": "Android"}, {"os": "Android 15, HyperOS 2"}, ""),
        ({"system": "Darwin"}, {"os": "Windows, macOS or Linux"}, ""),
        ({"physical_cores": 8, "virtualized": "kvm"}, {"clusters": CORES, "device_class": "laptop"}, ""),
        ({"system": "Linux"}, {"os": "HarmonyOS"}, ""),
        ({"system": "Linux"}, {"os": "Windows (WSL)"}, ""),
    ],
)
def test_the_host_must_be_able_to_be_the_device(host, profile, says) -> None:
    device = r.phone(**profile)
    run = r.on_phone(host=replace(r.host(r.ISA), **host))
    check = check_of(r.evidence(r.case(device), measurement=run), r.DECODE, device)
    assert (check.status, check.figure.basis if not says else "") == ("unknown", "") if says else ("pass", "measured")
    assert says in check.reason


def test_a_machine_is_not_a_class() -> None:
    whole = r.phone(tier="class")
    check = check_of(r.evidence(measurement=r.on_phone()), r.DECODE, whole)
    assert (check.status, "class" in check.reason) == ("unknown", True)


def test_contamination_spares_projected_and_target_figures() -> None:
    noisy = Noise(others_cpu_before=0, others_cpu_during=0.4, pressure_some_during=0.2, contaminated=("tg128",))
    here = Gate(metric="host_decode_tokens_per_s", min=50)
    assert check_of(r.evidence(measurement=r.measurement()), here).status == "pass"
    assert check_of(r.evidence(measurement=r.measurement(noise=noisy)), here).status == "unknown"
    assert check_of(r.evidence(measurement=r.measurement(noise=None)), here).status == "unknown"
    assert check_of(r.evidence(), here).status == "unknown"
    assert check_of(r.evidence(measurement=r.measurement(noise=noisy)), r.DECODE).status == "pass"
    assert check_of(r.evidence(measurement=r.on_phone(noise=noisy)), r.DECODE).status == "pass"


@pytest.mark.parametrize(
    ("peak", "status"), [(1.07e9, "pass"), (1.02e9, "pass"), (1.0e9, "unknown"), (1.2e9, "unknown")]
)
def test_memory_here_checks_the_predictor(monkeypatch, peak, status) -> None:
    asked = []

    def predict(header, settings, isa):
        asked.append((settings, isa))
        return r.memory(isa=isa, settings=settings)

    monkeypatch.setattr("edgekit.memory.predict_memory", predict)
    check = check_of(r.evidence(measurement=r.measurement(peaks=(r.peak(peak),))), r.MEMORY)
    assert check.status == status
    assert asked == [(replace(r.SETTINGS, threads=0), r.HOST_ISA)]
    assert isinstance(check.figure, Unknown) or check.figure.value == r.memory().working_set.value


def test_the_predictor_is_checked_by_the_pages_that_the_host_maps(monkeypatch) -> None:
    found = replace(r.memory(isa=r.HOST_ISA), huge_page_bytes=200_000_000)
    monkeypatch.setattr("edgekit.memory.predict_memory", lambda header, settings, isa: found)
    mapped = replace(r.peak(found.working_set.value + 200e6), huge_mapped_bytes=found.weights_bytes)
    check = check_of(r.evidence(measurement=r.measurement(peaks=(mapped,))), r.MEMORY)
    assert check.status == "pass"
    assert check.figure.value == found.working_set.value, "the device's pages are its own"
    assert check.figure.high == pytest.approx(found.working_set.high)
    by_page = replace(mapped, huge_mapped_bytes=0)
    assert check_of(r.evidence(measurement=r.measurement(peaks=(by_page,))), r.MEMORY).status == "unknown"


def test_a_process_is_checked_by_its_own_pages(monkeypatch) -> None:
    found = replace(r.memory(isa=r.HOST_ISA), huge_page_bytes=200_000_000)
    monkeypatch.setattr("edgekit.memory.predict_memory", lambda header, settings, isa: found)
    right = replace(r.peak(found.working_set.value + 200e6), huge_mapped_bytes=found.weights_bytes)
    missed = r.peak(found.working_set.value + 150e6)
    assert check_of(r.evidence(measurement=r.measurement(peaks=(right,))), r.MEMORY).status == "pass"
    assert check_of(r.evidence(measurement=r.measurement(peaks=(right, missed))), r.MEMORY).status == "unknown"


def test_on_a_linux_device_the_next_start_may_hold_more(monkeypatch) -> None:
    found = replace(r.memory(isa=r.ISA), huge_page_bytes=200_000_000)
    monkeypatch.setattr("edgekit.memory.predict_memory", lambda header, settings, isa: found)
    small = r.on_phone(peaks=(replace(r.peak(1.1e9), huge_mapped_bytes=0),))
    huge = r.on_phone(peaks=(replace(r.peak(1.1e9), huge_mapped_bytes=found.weights_bytes),))
    gate = Gate(metric="memory_bytes", max=1.2e9)
    check = check_of(r.evidence(measurement=small), gate)
    assert (check.status, check.figure.high) == ("unknown", pytest.approx(1.3e9))
    assert "huge pages" in check.figure.note
    assert check_of(r.evidence(measurement=huge), gate).status == "pass"
    windows = replace(small, host=replace(small.host, system="Windows"))
    assert check_of(r.evidence(measurement=windows), gate).status == "pass"


@pytest.mark.parametrize(("factor", "low", "high"), [(1.048, 1, 1.048), (1.0, 1, 1), (0.96, 0.96, 1)])
def test_what_the_predictor_missed_here_widens_the_range(monkeypatch, factor, low, high) -> None:
    found = r.memory(isa=r.HOST_ISA)
    monkeypatch.setattr("edgekit.memory.predict_memory", lambda header, settings, isa: found)
    here = r.measurement(peaks=(r.peak(found.working_set.value * factor),))
    figure = check_of(r.evidence(measurement=here), r.MEMORY).figure
    assert figure.low == pytest.approx(found.working_set.low * low)
    assert figure.high == pytest.approx(found.working_set.high * high)
    tight = Gate(metric="memory_bytes", max=found.working_set.high)
    assert check_of(r.evidence(measurement=here), tight).status == ("unknown" if factor > 1 else "pass")


@pytest.mark.parametrize(
    ("case", "gate"),
    [
        (r.case(memory=r.memory(exact(1e9, "measured"))), r.MEMORY),
        (r.case(memory=r.memory(exact(1e9, "projected"))), r.MEMORY),
        (r.case(memory=r.memory(unevictable=exact(1e8, "measured-here"))), r.MEMORY),
        (r.case(projection=r.projection(exact(60, "measured"))), r.DECODE),
        (r.case(projection=r.projection(prefill=exact(60, "measured-here"))), r.DECODE),
        (r.case(battery=r.battery(exact(9, "projected"))), r.BATTERY),
        (r.case(battery=replace(r.battery(), at_tokens_per_s=exact(9, "measured"))), r.BATTERY),
    ],
)
def test_a_case_cannot_claim_what_only_a_run_can_know(case, gate) -> None:
    check = check_of(r.evidence(case), gate)
    assert (check.status, "more than a case can know" in check.reason) == ("unknown", True)


def test_a_case_may_know_less() -> None:
    assert check_of(r.evidence(r.case(memory=r.memory(exact(1e9, "claimed")))), r.MEMORY).status == "pass"


STREAMED = sum(tensor.size_bytes for tensor in r.HEADER.tensors)


@pytest.mark.parametrize(
    ("read", "status"), [(None, "pass"), (0.0, "pass"), (0.02 * STREAMED, "pass"), (0.021 * STREAMED, "unknown")]
)
@pytest.mark.parametrize("metric", ["memory_bytes", "unevictable_bytes", "memory_share_of_budget"])
def test_a_thrashing_run_on_the_device_fits_nothing(read, status, metric) -> None:
    run = r.on_phone(peaks=(r.peak(1.1e9), replace(r.peak(1.1e9), read_bytes_per_token=read)))
    limit = 1 if metric == "memory_share_of_budget" else 1.2e9
    check = check_of(r.evidence(measurement=run), Gate(metric=metric, max=limit))
    assert (check.status, "from disk" in check.reason) == (status, status == "unknown")
    assert check_of(r.evidence(measurement=run), Gate(metric=metric, max=limit / 1e6)).status == "fail"


def test_thrashing_here_is_told_where_the_predictor_is_refuted(monkeypatch) -> None:
    monkeypatch.setattr("edgekit.memory.predict_memory", lambda header, settings, isa: r.memory())
    here = r.measurement(peaks=(replace(r.peak(0.5e9), read_bytes_per_token=STREAMED),))
    check = check_of(r.evidence(measurement=here), r.MEMORY)
    assert (check.status, "from disk" in check.reason) == ("unknown", True)


def test_three_tokens_do_not_measure_a_mixture_of_experts() -> None:
    header = replace(r.HEADER, experts=8, experts_used=2)
    evidence = r.evidence(measurement=r.on_phone(), artifact=replace(r.evidence().artifact, header=header))
    check = check_of(evidence, r.MEMORY)
    assert (check.status, "8 experts" in check.reason) == ("unknown", True)
    assert check_of(evidence, Gate(metric="unevictable_bytes", max=1.2e9)).status == "pass"


def test_a_measurement_of_another_file_voids_the_predictor_check() -> None:
    other = r.measurement(artifact_sha256="00", peaks=(r.peak(1.07e9),))
    assert check_of(r.evidence(measurement=other), r.MEMORY).status == "unknown"


def test_a_broken_run_never_passes() -> None:
    broke = r.measurement(findings=(Finding(level="fault", code="died", message="the worker died"),), samples=())
    verdict = verdict_of(r.evidence(measurement=broke), r.MEMORY)
    assert (verdict.status, "the run broke" in verdict.reason) == ("unknown", True)
    assert verdict_of(r.evidence(measurement=broke), Gate(metric="memory_bytes", max=1e8)).status == "fail"


def test_memory_share_uses_the_pessimistic_budget() -> None:
    gate = Gate(metric="memory_share_of_budget", max=1)
    tight = r.phone(process_share=replace(r.phone().process_share, value=0.2, low=0.1, high=0.3))
    assert check_of(r.evidence(), gate).status == "pass"
    assert check_of(r.evidence(r.case(tight)), gate, tight).status == "unknown"


def test_memory_share_uses_the_range_of_the_ram_and_is_as_weak_as_its_claim() -> None:
    gate = Gate(metric="memory_share_of_budget", max=1)
    board = r.phone(ram_bytes=Sourced(value=4e9, low=2e9, high=8e9, source="sold with 2 to 8 GB"))
    check = check_of(r.evidence(r.case(board)), gate, board)
    assert (check.status, check.figure.basis) == ("unknown", "claimed")
    assert check.figure.high == pytest.approx(1.09e9 / 1e9)
    assert check.figure.low == pytest.approx(1.05e9 / 4e9)


def test_time_to_first_token_follows_prefill() -> None:
    check = check_of(r.evidence(), Gate(metric="ttft_s", max=3))
    assert check.status == "pass"
    assert check.figure.value == pytest.approx(2.0)
    assert check.figure.high == pytest.approx(512 / 200)


# ---- waivers ------------------------------------------------------------------------------------------------------


def waiver(until: str, metric: str = "decode_tokens_per_s") -> Waiver:
    return Waiver(metric=metric, until=until, reason="kernel lands in December")


def test_a_waived_fail_is_printed_and_not_counted() -> None:
    verdict = verdict_of(with_decode(20, 25, 30), r.MEMORY, r.DECODE, waivers=(waiver("2026-11-22"),))
    assert verdict.status == "pass"
    assert verdict.checks[1].status == "fail"
    assert "waived until 2026-11-22: decode (fail; kernel lands in December)" in verdict.reason


@pytest.mark.parametrize("until", ["2026-11-21", "soon", ""])
def test_an_expired_or_unreadable_waiver_does_not_count_and_says_so(until) -> None:
    verdict = verdict_of(with_decode(20, 25, 30), r.MEMORY, r.DECODE, waivers=(waiver(until),))
    assert verdict.status == "fail"
    assert "does not count" in verdict.checks[1].reason


def test_waiving_everything_is_not_passing() -> None:
    verdict = verdict_of(with_decode(20, 25, 30), r.DECODE, waivers=(waiver("2027-01-01"),))
    assert verdict.status == "unknown"


def test_a_waiver_that_still_holds_is_preferred() -> None:
    both = (waiver("2020-01-01"), waiver("2027-01-01"), waiver("soon"))
    assert verdict_of(with_decode(20, 25, 30), r.MEMORY, r.DECODE, waivers=both).status == "pass"


# ---- gates that make no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gate",
    [
        Gate(metric="decode_tokens_per_sec", min=50),
        Gate(metric="decode_tokens_per_s", max=50),
        Gate(metric="memory_bytes", min=50),
        Gate(metric="memory_bytes"),
        Gate(metric="memory_bytes", min=1, max=2),
        Gate(metric="memory_bytes", max=math.inf),
        Gate(metric="memory_bytes", max=math.nan),
        Gate(metric="decode_tokens_per_s", min=-1),
        Gate(metric="decode_tokens_per_s", min=0),
        Gate(metric="memory_bytes", max=0),
        Gate(metric="quality_retention", min=80),
        Gate(metric="memory_share_of_budget", max=100),
        Gate(metric="top1_agreement", min=0),
    ],
)
def test_senseless_gates_are_refused(gate) -> None:
    with pytest.raises(EdgekitError):
        verdict_of(r.evidence(), gate)


def test_percent_for_a_fraction_is_told() -> None:
    with pytest.raises(EdgekitError) as caught:
        check_gate(Gate(metric="quality_retention", min=80))
    assert caught.value.hint == "percent written for a fraction? `0.8` is 80 %"
    assert check_gate(Gate(metric="kld_mean", max=0)).title == "mean KL divergence"


def test_a_verdict_about_the_host_says_nothing_of_the_device() -> None:
    here = r.evidence(measurement=r.measurement())
    host, size = Gate(metric="host_decode_tokens_per_s", min=50), Gate(metric="size_bytes", max=1e9)
    verdict = verdict_of(here, host, size, replace(r.DECODE, level="advisory"))
    assert [check.status for check in verdict.checks] == ["pass"] * 3
    assert (verdict.status, "about the host only" in verdict.reason) == ("unknown", True)
    assert verdict_of(here, host, size, r.DECODE).status == "pass"
    waived = verdict_of(with_decode(20, 25, 30), size, r.DECODE, waivers=(waiver("2026-11-22"),))
    assert waived.status == "unknown"
    on_phone = r.evidence(measurement=r.on_phone(load_s=(0.5,) * 12))
    assert verdict_of(on_phone, Gate(metric="load_s", max=10)).status == "pass"


def test_a_misspelt_metric_suggests_the_nearest() -> None:
    with pytest.raises(EdgekitError) as caught:
        check_gate(Gate(metric="decode_tokens_per_sec", min=50))
    assert caught.value.hint == "did you mean `decode_tokens_per_s`?"


# ---- classes and exit codes ---------------------------------------------------------------------------------------


def class_verdict(*decodes: float, gates_of_members=(r.MEMORY, r.DECODE)) -> Verdict:
    members = tuple(r.phone(f"phone{i}", gates=r.gates(*gates_of_members)) for i in range(len(decodes)))
    cases = tuple(
        r.case(member, projection=r.projection(r.projected(speed - 1, speed, speed + 1)))
        for member, speed in zip(members, decodes, strict=True)
    )
    whole = r.phone("smartphone", tier="class", population="test phones", members=tuple(m.name for m in members))
    return judge(r.evidence(*cases), whole, members=members, today=TODAY)


@pytest.mark.parametrize(
    ("decodes", "status"), [((60, 70), "pass"), ((20, 30), "fail"), ((20, 60), "unknown"), ((50, 60), "unknown")]
)
def test_a_class_is_its_devices(decodes, status) -> None:
    verdict = class_verdict(*decodes)
    assert verdict.status == status
    assert [member.device for member in verdict.members] == ["phone0", "phone1"]
    assert verdict.population == "test phones"
    assert verdict.checks == ()


def test_a_mixed_class_lists_who_passes() -> None:
    assert "passing: Phone1" in class_verdict(20, 60).reason


def test_a_member_without_evidence_keeps_the_class_from_passing() -> None:
    members = (r.phone("phone0"), r.phone("phone1"))
    whole = r.phone("smartphone", tier="class", members=("phone0", "phone1"))
    verdict = judge(r.evidence(r.case(members[0])), whole, members=members, today=TODAY)
    assert [member.status for member in verdict.members] == ["pass", "unknown"]
    assert verdict.status == "unknown"


def test_a_class_without_members_is_judged_on_its_own_case() -> None:
    whole = r.phone("smartphone", tier="class")
    assert judge(r.evidence(r.case(whole)), whole, today=TODAY).status == "pass"


def test_given_gates_replace_the_members_own() -> None:
    members = (r.phone("phone0"),)
    whole = r.phone("smartphone", tier="class", members=("phone0",))
    strict = r.gates(Gate(metric="decode_tokens_per_s", min=500))
    assert judge(r.evidence(r.case(members[0])), whole, strict, members=members, today=TODAY).status == "fail"


def test_exit_codes() -> None:
    passing, failing, unknown = class_verdict(60, 70), class_verdict(20, 30), class_verdict(20, 60)
    assert exit_code((passing, passing), broke=False) == ExitCode.PASS
    assert exit_code((passing, unknown), broke=False) == ExitCode.UNKNOWN
    assert exit_code((unknown, failing, passing), broke=False) == ExitCode.FAIL
    assert exit_code((failing,), broke=True) == ExitCode.BROKE
    assert exit_code((), broke=False) == ExitCode.UNKNOWN


# ---- properties ---------------------------------------------------------------------------------------------------

positive = st.floats(0.001, 1e6)
spans = st.lists(positive, min_size=3, max_size=3).map(sorted)


@settings(deadline=None)  # a busy machine is no failure
@given(spans, positive, positive, positive)
def test_widening_a_range_decides_nothing_new(span, limit, wider_low, wider_high) -> None:
    low, value, high = span
    gate = Gate(metric="prefill_tokens_per_s", min=limit)

    def status(low: float, high: float) -> Status:
        figure = r.projected(low, value, high)
        return check_of(r.evidence(r.case(projection=r.projection(prefill=figure))), gate).status

    narrow, wide = status(low, high), status(min(low, wider_low), max(high, wider_high))
    assert wide in (narrow, "unknown")


@settings(deadline=None)  # a busy machine is no failure
@given(spans, st.floats(1.0, 10.0), positive)
def test_a_better_figure_never_gets_a_worse_status(span, factor, limit) -> None:
    low, value, high = span
    for metric, at_least in (("prefill_tokens_per_s", True), ("ttft_s", False)):
        gate = Gate(metric=metric, min=limit) if at_least else Gate(metric=metric, max=limit)
        found = [
            check_of(
                r.evidence(r.case(projection=r.projection(prefill=r.projected(low * f, value * f, high * f)))), gate
            ).status
            for f in (1.0, factor)
        ]
        assert ORDER[found[1]] >= ORDER[found[0]]


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.sets(st.sampled_from(["memory", "projection", "battery", "case", "decode", "sustained"]), min_size=1),
    st.booleans(),
)
def test_removing_evidence_never_yields_a_pass(removed, measured) -> None:
    gone = Unknown(reason="removed")
    whole = r.case()
    changes = dict.fromkeys(removed & {"memory", "projection", "battery"}, gone)
    if "decode" in removed and "projection" not in removed:
        changes["projection"] = r.projection(gone)
    cases = () if "case" in removed else (replace(whole, **changes),)
    evidence = replace(r.evidence(), cases=cases, measurement=r.measurement() if measured else None)
    verdict = verdict_of(evidence, r.MEMORY, r.DECODE, r.BATTERY, Gate(metric="sustained_decode_tokens_per_s", min=20))
    wanted = verdict_of(evidence, r.RETENTION)
    assert wanted.status == "unknown"
    assert verdict.status == ("pass" if removed == {"sustained"} else "unknown")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_become_a_figure(value) -> None:
    with pytest.raises(ValueError, match="finite"):
        Estimate(value=value, low=value, high=value, basis="projected")
    slow = r.on_phone(samples=tuple(replace(s, elapsed_s=value) for s in r.samples("tg128", 128, 60)))
    evidence = r.evidence(measurement=slow)
    try:
        assert check_of(evidence, r.DECODE).status != "pass"
    except ValueError:
        pytest.fail("a broken sample must be unknown, not a traceback")


@settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from(sorted(METRICS)), st.floats(1e-9, 1e12))
def test_empty_evidence_passes_no_metric(metric, limit) -> None:
    limit = min(limit, 2.0) if METRICS[metric].unit == "fraction" else limit
    side = {"min": limit} if METRICS[metric].better == "higher" else {"max": limit}
    evidence = replace(r.evidence(), cases=(), artifact=replace(r.evidence().artifact, sha256=""))
    status = check_of(evidence, Gate(metric=metric, **side)).status
    assert status == "unknown" or metric == "size_bytes"
