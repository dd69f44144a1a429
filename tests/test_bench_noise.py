from __future__ import annotations

import random
from pathlib import Path

import pytest
from bench_fakes import samples_of

from edgekit.bench.drift import trend, wander
from edgekit.bench.noise import (
    HostCounters,
    contaminated_tests,
    host_notes,
    judge_noise,
    others_share,
    pressure_share,
    read_counters,
)


def counters(at_s: float, total_s: float, idle_s: float, own_s: float, pressure_s: float | None = 0.0) -> HostCounters:
    return HostCounters(at_s=at_s, total_s=total_s, idle_s=idle_s, own_s=own_s, pressure_s=pressure_s)


def test_exact_trend_probability_matches_kendalls_tables() -> None:
    # n = 10, S = 45: 2 / 10!; n = 4, S = 6: 2 / 24 (Kendall, Rank Correlation Methods, table 1)
    assert trend([float(value) for value in range(10)]).p_value == pytest.approx(2 / 3_628_800)
    assert trend([1.0, 2.0, 3.0, 4.0]).p_value == pytest.approx(2 / 24)


def test_exact_trend_probability_matches_scipy() -> None:
    from scipy.stats import kendalltau

    source = random.Random(3)
    for n in (5, 10, 23, 60):
        values = [source.random() for _ in range(n)]
        expected = kendalltau(range(n), values, method="exact").pvalue
        assert trend(values).p_value == pytest.approx(expected, rel=1e-6)


def test_trend_effect_is_the_drift_from_end_to_end() -> None:
    assert trend([100.0 + step for step in range(11)]).effect == pytest.approx(10 / 105)
    assert trend([7.0] * 20).effect == 0


@pytest.mark.parametrize("n", [10, 20, 30])
def test_false_alarms_are_as_rare_as_promised(n: int) -> None:
    source = random.Random(n)
    runs = 6000 // n
    alarms = [0, 0]
    for _ in range(runs):
        values = [source.gauss(100, 5) for _ in range(n)]
        alarms[0] += trend(values).p_value < 0.05
        alarms[1] += wander(values).p_value < 0.05
    assert all(alarm / runs < 0.09 for alarm in alarms)


def test_wander_sees_what_has_no_trend() -> None:
    source = random.Random(2)
    waves = [100 + 5 * (index // 5 % 2) + source.gauss(0, 0.5) for index in range(20)]
    assert trend(waves).p_value > 0.01
    assert wander(waves).p_value < 0.005
    assert wander(waves).effect == pytest.approx(0.05, abs=0.01)
    assert wander([100.0, 105.0] * 10).p_value > 0.5


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 9, [0.0] * 20, [5.0] * 20])
def test_too_little_or_constant_is_no_finding(values: list[float]) -> None:
    assert trend(values).effect == wander(values).effect == 0.0


def test_small_drift_is_not_contamination_however_significant() -> None:
    samples = samples_of("tg128", [[100 + 0.02 * step for step in range(60)]])
    assert contaminated_tests(samples) == ((), ())


def test_drift_names_its_test_alone() -> None:
    samples = samples_of("tg128", [[100.0 - step for step in range(12)]]) + samples_of("pp512", [[400.0, 401.0] * 6])
    names, findings = contaminated_tests(samples)
    assert names == ("tg128",)
    assert findings[0].level == "warning"
    assert "drifts" in findings[0].message
    assert findings[0].hint


def test_sustained_is_meant_to_drift() -> None:
    assert contaminated_tests(samples_of("sustained", [[100.0 - step for step in range(40)]])) == ((), ())


def test_shares_take_off_our_own_work() -> None:
    before, after = counters(0, 100, 50, 5, 1.0), counters(10, 140, 60, 30, 3.0)
    assert others_share(before, after) == pytest.approx((40 - 10 - 25) / 40)
    assert pressure_share(before, after) == pytest.approx(0.2)
    assert others_share(None, after) is None
    assert pressure_share(counters(0, 1, 1, 0, None), after) is None


def test_a_busy_host_spoils_every_speed_even_on_the_device() -> None:
    samples = samples_of("tg128", [[100.0] * 10])
    busy = (counters(0, 0, 0, 0), counters(10, 40, 0, 30))
    noise, findings = judge_noise(0.5, *busy, samples, on_device=True)
    assert noise.contaminated == ("tg128",)
    assert {finding.code for finding in findings} == {"host-busy-before", "host-busy"}
    quiet = (counters(0, 0, 0, 0), counters(10, 40, 10, 30))
    noise, findings = judge_noise(0.0, *quiet, samples, on_device=False)
    assert (noise.contaminated, findings) == ((), ())


def test_counters_from_proc(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1 1 1\n")
    (tmp_path / "proc/pressure/cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull total=9\n")
    found = read_counters(tmp_path, lambda: 7.0)
    assert found is not None
    assert (found.at_s, found.total_s, found.idle_s, found.pressure_s) == (7.0, 10.0, 8.5, 2.5)


@pytest.mark.parametrize("text", ["", "cpu", "cpu  1 2", "cpu  a b c d e f g h"])
def test_a_machine_that_does_not_tell_is_none(tmp_path: Path, text: str) -> None:
    assert read_counters(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    assert read_counters(tmp_path) is None


def test_host_notes() -> None:
    from dataclasses import replace

    from bench_fakes import measurement

    host = measurement([]).host
    assert host_notes(host) == ()
    codes = [note.code for note in host_notes(replace(host, power_source="battery", governor="powersave"))]
    assert codes == ["on-battery", "governor"]
