"""Words and figures that every format shares."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from gate_records import evidence, on_phone
from hypothesis import given
from hypothesis import strategies as st
from report_records import HOSTILE, REPORTS, decode_check, hostile, measurement, projection

from edgekit import storage
from edgekit.errors import EdgekitError
from edgekit.records import BASES, CpuClock, DeviceState, Estimate, Gauge, Measurement, Report, Unknown, Waiver, Zone
from edgekit.report import FORMATS, curves, facts, render
from edgekit.report.facts import circumstances
from edgekit.report.words import (
    BASIS_MEANING,
    advice,
    clean,
    figure_text,
    limit_text,
    margin_text,
    moment_text,
    number_text,
    range_text,
    sentence,
    span_text,
    waiver_text,
)


@given(st.text(max_size=300))
def test_clean_leaves_one_visible_line(text: str) -> None:
    shown = clean(text, 100)
    assert len(shown) <= 100
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} for c in shown)
    assert shown == clean(shown, 100)
    shown.encode("utf-8")


def test_clean_shows_that_something_was_there_and_keeps_both_ends() -> None:
    assert clean("safe\u202egnp.exe") == "safe\ufffdgnp.exe"
    assert clean("a\nb\x00c") == "a b\ufffdc"
    cut = clean("start" + "x" * 10_000 + "end", 50)
    assert len(cut) == 50
    assert cut.startswith("start")
    assert cut.endswith("end")
    assert "…" in cut


def test_a_figure_is_never_without_range_and_basis() -> None:
    figure = Estimate(value=48.3, low=41.0, high=55.2, basis="projected")
    assert figure_text(figure, "tok/s") == "48.3 tok/s (41.0–55.2), projected"
    for basis in BASES:
        assert basis in figure_text(replace(figure, basis=basis), "tok/s")
    assert figure_text(Unknown(reason="not run"), "tok/s") == "unknown"


def test_units_are_repeated_only_where_they_differ() -> None:
    assert range_text(0.95e9, 1.2e9, "bytes") == "950 MB–1.20 GB"
    assert range_text(1.1e9, 1.2e9, "bytes") == "1.10–1.20 GB"
    assert range_text(110.0, 125.0, "s") == "1 min 50 s–2 min 05 s"
    assert span_text(Estimate(value=2e9, low=9e8, high=3e9, basis="predicted"), "bytes") == "900 MB–3.00 GB"


def test_a_range_never_reads_as_a_point_and_a_point_says_so() -> None:
    assert range_text(1.143, 1.148, "s") == "1.14–1.15 s"
    assert range_text(-0.002, 0.031, "fraction") == "-0.2 to 3.1 %"
    assert number_text(-0.0004, "fraction", 0.0) == "-0.0400 %"  # never minus nothing
    point = Estimate(value=5.0, low=5.0, high=5.0, basis="predicted")
    assert span_text(point, "h") == "exact"
    assert span_text(replace(point, basis="measured-here"), "h") == "no spread"
    assert span_text(replace(point, basis="claimed"), "h") == "no range"


def test_a_value_just_off_its_limit_does_not_read_like_the_limit() -> None:
    assert number_text(49.98, "tok/s", 50.0) == "49.98 tok/s"
    assert number_text(1.2004e9, "bytes", 1.2e9) != number_text(1.2e9, "bytes")
    assert number_text(50.0, "tok/s", 50.0) == "50.0 tok/s"
    check = decode_check(49.999, spread=1.00001)
    assert check.status == "fail"
    assert "50.0" not in figure_text(check.figure, check.unit, 50.0)


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [(31.2, 1.1, "misses by 38 %"), (66.0, 1.1, "clears by 32 %"), (52.0, 1.2, "leans to pass, +4.0 %")],
)
def test_margin_in_words(value: float, spread: float, said: str) -> None:
    assert margin_text(decode_check(value, spread=spread)) == said


def test_an_unknown_check_never_says_that_it_clears_or_misses() -> None:
    for value in (49.0, 50.0, 51.0):
        check = decode_check(value, spread=1.3)
        assert check.status == "unknown"
        assert "clears" not in margin_text(check)
        assert "misses" not in margin_text(check)
    assert margin_text(replace(decode_check(50.0), margin=None)) == ""


def test_small_words() -> None:
    assert limit_text(decode_check(1.0)) == "≥ 50.0 tok/s"
    assert sentence("the whole range") == "The whole range"
    assert sentence("q8_0 saves 55 MB") == "q8_0 saves 55 MB"
    assert moment_text("2026-11-22T01:05:00+00:00") == "22 November 2026, 01:05 UTC"
    assert moment_text("<b>") == "<b>"
    waived = replace(decode_check(1.0), waiver=Waiver(metric="m", until="2027-01-31", reason="trial"))
    assert waiver_text(waived) == "holds until 2027-01-31: trial"
    assert set(BASIS_MEANING) == set(BASES)


def test_advice_keeps_apart_what_passes_and_what_settles() -> None:
    asked = replace(decode_check(48.0), remedy="a smaller quant; q8_0 KV; to settle: run it there; or anchor it")
    assert advice(asked) == (
        ("to pass", ("a smaller quant", "q8_0 KV")),
        ("to settle", ("run it there", "or anchor it")),
    )
    assert advice(replace(asked, remedy="to settle: run it")) == (("to settle", ("run it",)),)
    assert advice(replace(asked, remedy="")) == ()
    open_ = replace(asked, figure=Unknown(reason="not run", settle="run it"), remedy="a smaller quant")
    assert advice(open_) == (("to pass", ("a smaller quant",)), ("to settle", ("run it",)))


def test_memory_parts_add_up_to_the_working_set() -> None:
    case = REPORTS["fail"]().evidence.cases[0]
    counted = sum(part.size_bytes for part in facts.memory_parts(case.memory) if part.counted)
    assert counted == pytest.approx(case.memory.working_set.value, rel=0.01)
    assert [part.key for part in facts.memory_parts(case.memory)][-1] == "dormant"


def test_the_nearest_member_is_one_that_does_not_pass() -> None:
    row = facts.by_metric(REPORTS["class"]().verdicts[0])[0]
    assert row.nearest[0].device_title == "iPhone 16 Pro"
    assert str(row.counts) == "2 pass, 3 fail, 2 unknown"


def test_battery_hours_come_with_their_speed_and_power() -> None:
    report = REPORTS["fail"]()
    said = [facts.beside(report, leaf, check) for leaf, check in facts.all_checks(report)]
    assert said[2] == "at 18.0 tok/s (12.0–27.0), projected, drawing 4.6 W (2.71–7.82), estimated"
    assert [text for text in said if text] == [said[2]]
    for form in ("terminal", "markdown", "junit", "html"):
        assert "4.6 W" in render(report, form)


def test_latencies_follow_the_workload_that_ran() -> None:
    run = measurement()
    labels = [label for label, _ in facts.latencies(run)]
    assert labels[0] == "time to first token, pp512"
    assert labels[1:4] == [f"inter-token latency p{share}, tg128" for share in (50, 90, 99)]
    assert all(isinstance(figure, Estimate) for _, figure in facts.latencies(run))
    quick = replace(run, workload=replace(run.workload, prompt_tokens=(128,), generated_tokens=(32,)))
    assert [label for label, _ in facts.latencies(quick)][:2] == [
        "time to first token, pp128",
        "inter-token latency, tg32",
    ]
    assert isinstance(facts.latencies(quick)[1][1], Unknown)


def test_a_projected_curve_starts_at_depth_zero() -> None:
    projected = projection("pixel-8", 40.0)
    bare = replace(projected, depths=projected.depths[1:])
    (series,) = curves.depths(None, bare, "Pixel 8")
    assert [point.x for point in series.points] == [0, 1024, 4096]
    assert series.points[0].y == 40.0


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(EdgekitError) as caught:
        render(REPORTS["pass"](), "pdf")
    assert caught.value.message == "unknown report format: `pdf`"
    assert all(name in caught.value.hint for name in FORMATS)


@pytest.mark.parametrize("name", REPORTS)
def test_json_is_valid_against_the_published_schema_and_reads_back(name: str) -> None:
    import jsonschema

    report = REPORTS[name]()
    text = render(report, "json")
    jsonschema.validate(json.loads(text), storage.report_schema(), cls=jsonschema.Draft202012Validator)
    assert storage.from_json(text, type(report), origin="test") == report


def test_json_of_a_path_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    report = hostile(HOSTILE["control"])
    storage.write_record(tmp_path / "report.json", report)
    read = storage.load_record(tmp_path / "report.json", type(report))
    assert "\x00" in read.evidence.artifact.path
    assert "\ud800" not in read.evidence.artifact.path


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "control"])
def test_json_keeps_hostile_text_as_data(kind: str) -> None:
    report = hostile(HOSTILE[kind])
    assert storage.from_json(render(report, "json"), type(report), origin="test") == report


def test_the_state_of_the_machine_is_told_by_its_worst() -> None:
    cool = DeviceState(
        at_s=0,
        process=0,
        zones=(Zone(name="skin", temperature_c=31),),
        clocks=(CpuClock(cpu="cpu0", now_mhz=None, allowed_mhz=3000, able_mhz=3000),),
        gauges=(Gauge(name="battery", percent=81, status="Discharging"),),
        waited_s=90,
    )
    hot = replace(
        cool,
        zones=(Zone(name="cpu-0", temperature_c=88), *cool.zones),
        clocks=(CpuClock(cpu="cpu0", now_mhz=None, allowed_mhz=1500, able_mhz=3000),),
        gauges=(Gauge(name="battery", percent=79, status="Discharging"),),
        waited_s=0,
    )
    run = replace(on_phone(), states=(cool, hot))
    told = {fact.label: fact.value for fact in circumstances(report_of(run))}
    assert told["device state"] == (
        "at most 88 °C (cpu-0), clocks allowed 50 % and more, battery 81 % to 79 %, waited 1 min 30 s to cool"
    )
    assert "device state" not in {fact.label for fact in circumstances(report_of(on_phone()))}


def report_of(run: Measurement) -> Report:
    return Report(evidence=evidence(measurement=run), verdicts=(), exit_code=3)
