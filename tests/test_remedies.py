"""What a failed check says would pass must itself pass, by the same functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.devices import load_device
from edgekit.energy import estimate_battery
from edgekit.gate import judge
from edgekit.gate.alternatives import Build, clears, figure_of, leaner, requantized, smaller_quants, smaller_students
from edgekit.gate.gates import make_gates
from edgekit.gate.metrics import METRICS
from edgekit.gate.onsite import Subject
from edgekit.memory import predict_memory
from edgekit.projection import project_to
from edgekit.records import (
    Artifact,
    Case,
    Check,
    Device,
    Estimate,
    Evidence,
    Gate,
    Header,
    Projection,
    Settings,
    Unknown,
)
from edgekit.shapes import SHAPES, plan_header

NANO = plan_header(SHAPES["nano-1.5b"], "q4_0")


def subject_of(header: Header, device: Device) -> Subject:
    projection = project_to(device, header, device.settings)
    case = Case(
        device=device.name,
        device_title=device.title,
        device_sha256=device.sha256,
        settings=device.settings,
        memory=predict_memory(header, device.settings, device.isa),
        projection=projection,
        battery=estimate_battery(device, projection),
    )
    artifact = Artifact(path="student.gguf", header=header)
    evidence = Evidence(edgekit_version="0", created_at="", artifact=artifact, cases=(case,))
    return Subject(evidence=evidence, case=case, device=device)


def check_of(header: Header, device: Device, gate: Gate) -> Check:
    gates = make_gates((gate,), (), origin="test")
    return judge(subject_of(header, device).evidence, device, gates).checks[0]


@pytest.fixture(scope="module")
def phone() -> Device:
    return load_device("galaxy-s25")


# ---- other builds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["nano-0.6b", "nano-1.5b", "mini-3b", "base-7b"])
@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q6_k", "q8_0"])
def test_requantizing_a_header_gives_the_bytes_llama_quantize_would(shape: str, quant: str) -> None:
    wanted = sum(tensor.size_bytes for tensor in plan_header(SHAPES[shape], quant).tensors)
    got = requantized(plan_header(SHAPES[shape], "q8_0"), quant)
    assert sum(tensor.size_bytes for tensor in got.tensors) == pytest.approx(wanted, rel=0.01)
    assert got.quant == quant


def test_rows_that_do_not_divide_fall_back() -> None:
    narrow = replace(NANO, tensors=tuple(replace(t, shape=(896, *t.shape[1:])) for t in NANO.tensors))
    kinds = {tensor.type for tensor in requantized(narrow, "q4_k_m").tensors if len(tensor.shape) > 1}
    assert kinds == {"q5_0", "q8_0"}


def test_smaller_builds_are_smaller_and_ordered() -> None:
    sizes = [build.header.size_bytes for build in smaller_quants(NANO, Settings())]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < NANO.size_bytes
    students = [build.header.size_bytes for build in smaller_students(NANO, Settings())]
    assert students
    assert max(students) < NANO.size_bytes


def test_the_least_painful_settings_come_first() -> None:
    words = [build.words for build in leaner(NANO, Settings())]
    assert words[:3] == ["", "ubatch 256", "ubatch 128"]
    assert len(words) == len(set(words)) == 2 * 4 * 2 * 2
    assert all("KV" not in build.words for build in leaner(NANO, Settings(flash_attention="off")))


# ---- what would pass, passes --------------------------------------------------------------------------------------


def test_the_memory_remedy_is_the_first_that_clears(phone: Device) -> None:
    subject = subject_of(NANO, phone)
    assert isinstance(subject.case.memory.working_set, Estimate)
    gate = Gate(metric="memory_bytes", max=subject.case.memory.working_set.low - 30e6)
    check = check_of(NANO, phone, gate)
    assert check.status == "fail"
    assert "KV cache" in check.physics
    offered, _, figures = check.remedy.partition(" would clear it with ")
    assert figures
    for build in leaner(NANO, phone.settings):
        status = check_of(NANO, replace(phone, settings=build.settings), gate).status
        if build.words == offered:
            assert status == "pass"
            break
        assert status != "pass"
    else:
        pytest.fail(f"{offered} is not a build that was tried")


def test_a_smaller_quantization_is_offered_where_settings_do_not_suffice(phone: Device) -> None:
    wide = plan_header(SHAPES["nano-1.5b"], "q8_0")
    check = check_of(wide, phone, Gate(metric="memory_bytes", max=1.2e9))
    assert check.status == "fail"
    assert "made from the original weights" in check.remedy


def test_an_impossible_memory_limit_is_called_so(phone: Device) -> None:
    remedy = check_of(NANO, phone, Gate(metric="memory_bytes", max=1e6)).remedy
    assert "no quantization down to `q2_k` clears it" in remedy
    assert "no smaller reference student does either" in remedy


def test_the_decode_remedy_names_bytes_and_factor(phone: Device) -> None:
    check = check_of(NANO, phone, Gate(metric="decode_tokens_per_s", min=2000))
    assert check.status == "fail"
    assert "beyond any kernel" in check.physics
    assert "GB/s ÷" in check.physics
    assert "draft model" in check.remedy
    assert "no smaller reference student does either" in check.remedy


def test_a_student_that_is_offered_passes(phone: Device) -> None:
    small = plan_header(SHAPES["nano-0.6b"], "q4_0")
    subject = subject_of(NANO, phone)
    figure = figure_of(subject, METRICS["decode_tokens_per_s"], Build(words="", header=small, settings=phone.settings))
    assert isinstance(figure, Estimate)
    gate = Gate(metric="decode_tokens_per_s", min=figure.low * 0.99)
    check = check_of(NANO, phone, gate)
    assert check.status != "pass"
    assert "`nano-0.6b` student" in check.remedy or "q2_k` made from" in check.remedy or "q3_k_m` made" in check.remedy
    assert check_of(small, phone, gate).status == "pass"


def test_an_offer_must_clear_with_its_whole_range(phone: Device) -> None:
    gate = Gate(metric="decode_tokens_per_s", min=50)
    assert clears(Estimate(value=60, low=50, high=70, basis="projected"), gate)
    assert not clears(Estimate(value=60, low=49, high=70, basis="projected"), gate)


def test_nothing_is_offered_on_an_uncalibrated_projection(phone: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncalibrated(device: Device, header: Header, settings: Settings) -> Projection:
        return replace(project_to(device, header, settings), calibrated=False)

    monkeypatch.setattr("edgekit.projection.project_to", uncalibrated)
    build = Build(words="uncalibrated", header=NANO, settings=phone.settings)
    figure = figure_of(subject_of(NANO, phone), METRICS["decode_tokens_per_s"], build)
    assert isinstance(figure, Unknown)


def test_battery_advice_states_the_power_budget_and_a_rate(phone: Device) -> None:
    check = check_of(NANO, phone, Gate(metric="battery_h", min=4))
    assert check.status != "pass"
    assert "usable Wh ÷ 4 h" in check.physics
    assert "capped at about" in check.remedy
    hopeless = check_of(NANO, phone, Gate(metric="battery_h", min=400))
    assert "idle draw" in hopeless.remedy


def test_a_passing_check_needs_no_advice(phone: Device) -> None:
    check = check_of(NANO, phone, Gate(metric="memory_bytes", max=1e11))
    assert (check.status, check.physics, check.remedy) == ("pass", "", "")
