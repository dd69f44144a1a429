from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from bench_fakes import measurement, samples_of
from hypothesis import given
from hypothesis import strategies as st

from edgekit.records import Estimate, Sample, Unknown
from edgekit.summary import (
    InterToken,
    depth_curve,
    grouped_median_interval,
    inter_token,
    load_time,
    median_interval,
    quantile_interval,
    speed,
    student_t_95,
    summarize,
    sustained_curve,
    sustained_speed,
    time_to_first_token,
)

rates = st.lists(st.floats(min_value=0.1, max_value=1e4), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("count", "ranks"),
    # Conover, Practical Nonparametric Statistics, table A3: largest k with 2·P(Binomial(n, ½) < k) ≤ 0.10
    [(4, None), (5, (1, 5)), (7, (1, 7)), (8, (2, 7)), (10, (2, 9)), (11, (3, 9)), (20, (6, 15)), (60, (24, 37))],
)
def test_ranks_of_the_binomial_interval(count: int, ranks: tuple[int, int] | None) -> None:
    values = [float(value) for value in range(1, count + 1)]
    random.Random(1).shuffle(values)
    assert median_interval(values) == ranks


@pytest.mark.parametrize("count", [1030, 2000, 5001])
def test_many_values_have_an_interval_too(count: int) -> None:
    found = median_interval([float(value) for value in range(1, count + 1)])
    assert found is not None
    assert found[0] == pytest.approx(count / 2 - 1.6449 * math.sqrt(count) / 2, abs=1)
    assert found[0] + found[1] == count + 1


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 6.3138), (2, 2.9200), (12, 1.7823), (13, 1.7709), (30, 1.6973)])
def test_student_t(freedom: int, quantile: float) -> None:
    assert student_t_95(freedom) == pytest.approx(quantile, abs=6e-4)


def test_student_t_reaches_the_normal_quantile() -> None:
    assert student_t_95(100_000) == pytest.approx(NormalDist().inv_cdf(0.95), abs=1e-3)


def test_processes_that_differ_widen_the_range() -> None:
    alike = speed(measurement(samples_of("tg128", [[99, 100, 101, 100], [99, 100, 101], [99, 100, 101]])), "tg128")
    apart = speed(measurement(samples_of("tg128", [[89, 90, 91, 90], [99, 100, 101], [109, 110, 111]])), "tg128")
    assert isinstance(alike, Estimate)
    assert isinstance(apart, Estimate)
    assert (alike.low, alike.high) == (pytest.approx(99), pytest.approx(101))
    # t with 2 degrees of freedom on three medians 10 % apart
    half_width = 2.920 * math.log(110 / 90) / 2 / math.sqrt(3)
    assert apart.high == pytest.approx(100 * math.exp(half_width), rel=0.01)
    assert apart.low < 88


def test_one_process_says_so() -> None:
    figure = speed(measurement(samples_of("tg128", [[100.0] * 10])), "tg128")
    assert isinstance(figure, Estimate)
    assert "one process" in figure.note


@given(st.lists(rates, min_size=1, max_size=6))
def test_the_range_holds_the_median_and_the_binomial_interval(groups: list[list[float]]) -> None:
    interval = grouped_median_interval(groups)
    values = sorted(value for group in groups for value in group)
    inner = median_interval(values)
    if interval is None:
        assert inner is None
        assert len(groups) == 1
        return
    low, high = interval
    assert 0 < low <= values[len(values) // 2]
    assert values[(len(values) - 1) // 2] <= high * (1 + 1e-12)
    if inner:
        assert low <= inner[0]
        assert inner[1] <= high


def test_warmup_and_impossible_samples_do_not_count() -> None:
    samples = samples_of("tg128", [[100.0] * 10])
    warm = Sample(test="tg128", process=0, repetition=0, warmup=True, tokens=8, elapsed_s=10.0)
    instant = Sample(test="tg128", process=0, repetition=0, tokens=128, elapsed_s=0.0)
    assert speed(measurement([warm, instant, *samples]), "tg128") == speed(measurement(samples), "tg128")


def test_too_few_repetitions_are_unknown_with_a_reason() -> None:
    figure = speed(measurement(samples_of("tg128", [[100.0] * 3])), "tg128")
    assert isinstance(figure, Unknown)
    assert "3 repetitions" in figure.reason
    assert isinstance(speed(measurement([]), "tg128"), Unknown)


def test_the_basis_is_measured_on_the_device_only() -> None:
    samples = samples_of("tg128", [[100.0] * 10])
    assert speed(measurement(samples), "tg128").basis == "measured-here"  # type: ignore[union-attr]
    assert speed(measurement(samples, on_device="pixel-9"), "tg128").basis == "measured"  # type: ignore[union-attr]


def test_time_to_first_token_is_the_prompt_evaluation() -> None:
    figure = time_to_first_token(measurement(samples_of("pp512", [[512.0] * 4, [256.0] * 3, [512.0] * 3], tokens=512)))
    assert isinstance(figure, Estimate)
    assert figure.value == pytest.approx(1.0)
    assert figure.high >= 2.0


def test_load_time_holds_every_load_seen() -> None:
    figure = load_time(measurement([], load_s=(5.0, 1.0, 1.1)))
    assert isinstance(figure, Estimate)
    assert figure.value == 1.1
    assert figure.low <= 1.0
    assert figure.high >= 5.0
    assert isinstance(load_time(measurement([], load_s=(1.0,))), Unknown)


def test_percentiles_between_tokens() -> None:
    slow = samples_of("tg128", [[100.0] * 4, [100.0] * 3, [100.0] * 3])
    stumbling = [
        Sample(**{**{name: getattr(s, name) for name in Sample.__slots__}, "token_s": (0.05, *s.token_s[1:])})
        for s in slow
    ]
    found = inter_token(measurement(stumbling))
    assert isinstance(found, InterToken)
    assert found.tokens == 1280
    assert isinstance(found.p50, Estimate)
    assert found.p50.value == found.p50.high == 0.01
    assert isinstance(found.p99, Estimate)
    assert found.p99.high == 0.05


def test_a_percentile_needs_tokens_beyond_it() -> None:
    assert quantile_interval([[1.0, 2.0, 3.0]], 0.99) is None
    assert isinstance(inter_token(measurement([])), Unknown)


def test_percentile_ranges_cover_under_dependence_within_repetitions() -> None:
    source = random.Random(5)
    truth = math.exp(1.2816 * math.sqrt(0.2**2 + 0.2**2))
    covered = 0
    for _ in range(200):
        shifts = [source.gauss(0, 0.2) for _ in range(20)]
        groups = [[math.exp(shift + source.gauss(0, 0.2)) for _ in range(64)] for shift in shifts]
        found = quantile_interval(groups, 0.90)
        assert found
        covered += found[1] <= truth <= found[2]
    assert covered >= 170


def test_depth_curve_is_sorted_and_takes_the_longest_burst_for_depth_zero() -> None:
    samples = (
        samples_of("tg16@d4096", [[50.0] * 10], 16)
        + samples_of("tg32", [[90.0] * 10], 32)
        + samples_of("tg128", [[100.0] * 10])
        + samples_of("tg16@d1024", [[80.0] * 10], 16)
    )
    curve = depth_curve(measurement(samples))
    assert [(point.depth, point.tokens_per_s.value) for point in curve] == [(0, 100), (1024, 80), (4096, 50)]  # type: ignore[union-attr]


def windows(seconds: int) -> list[Sample]:
    """Decode that falls from 100 to 50 tok/s within 300 s and stays."""
    return [
        Sample(
            test="sustained",
            process=4,
            repetition=at,
            tokens=max(50, 100 - at // 6),
            elapsed_s=1.0,
            started_s=at + 30.0,
        )
        for at in range(seconds)
    ]


def test_sustained_speed_is_that_of_the_tenth_minute() -> None:
    figure = sustained_speed(measurement(windows(600)))
    assert isinstance(figure, Estimate)
    assert figure.value == 50
    assert speed(measurement(windows(600)), "sustained") == figure
    curve = sustained_curve(measurement(windows(600)))
    assert (curve[0].at_s, curve[0].tokens_per_s) == (0.0, 100.0)


def test_a_shorter_sustained_run_is_a_curve_and_no_figure() -> None:
    figure = sustained_speed(measurement(windows(120)))
    assert isinstance(figure, Unknown)
    assert "119 s" in figure.reason
    assert len(sustained_curve(measurement(windows(120)))) == 120


def test_summaries_come_in_the_order_the_tests_ran() -> None:
    samples = samples_of("pp512", [[400.0, 420.0]], 512) + samples_of("tg128", [[100.0] * 10])
    prefill, decode = summarize(measurement(samples))
    assert (prefill.test, decode.test) == ("pp512", "tg128")
    assert isinstance(prefill.tokens_per_s, Unknown)
    assert prefill.mean_tokens_per_s == pytest.approx(410)
    assert prefill.sd_tokens_per_s == pytest.approx(14.142, abs=0.001)
    assert (decode.repetitions, decode.processes) == (10, 1)
