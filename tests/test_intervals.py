"""Ranges that hold what they say, also where neighbours resemble each other and the spread is lopsided."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from edgekit.intervals import mean_interval, quantile_interval, share_interval


def text_like(count: int, correlation: float, source: np.random.Generator) -> np.ndarray:
    """Log-normal pieces (spread 0.4) whose neighbours correlate; their true mean is exp(0.08)."""
    noise = source.standard_normal(count + 20)
    for index in range(1, len(noise)):
        noise[index] = correlation * noise[index - 1] + math.sqrt(1 - correlation**2) * noise[index]
    return np.exp(0.4 * noise[20:])


@pytest.mark.parametrize(("count", "correlation", "least"), [(12, 0.0, 0.86), (40, 0.0, 0.87), (40, 0.3, 0.82)])
def test_it_covers(count: int, correlation: float, least: float) -> None:
    source = np.random.default_rng(7)
    held, runs = 0, 400
    for _ in range(runs):
        low, high = mean_interval(text_like(count, correlation, source).tolist()) or (0.0, 0.0)
        held += low <= math.exp(0.08) <= high
    assert least <= held / runs <= 0.97


@pytest.mark.parametrize(("share", "pieces", "least"), [(0.5, 12, 0.84), (0.9, 20, 0.84), (0.99, 40, 0.84)])
def test_quantiles_are_covered(share: float, pieces: int, least: float) -> None:
    """Pieces that differ, and within them bursts: what resampling single tokens would take for certainty."""
    source = np.random.default_rng(3)
    truth = math.exp(NormalDist(sigma=math.hypot(0.4, 1.8)).inv_cdf(share))
    held, runs = 0, 120
    for _ in range(runs):
        own = 1.8 * (
            0.87 * source.standard_normal((pieces, 120)) + 0.49 * source.standard_normal((pieces, 15)).repeat(8, 1)
        )
        found = quantile_interval(np.exp(own + 0.4 * source.standard_normal((pieces, 1))).tolist(), share)
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert least <= held / runs


def test_a_quantile_near_the_end_of_the_numbers_has_no_range() -> None:
    pieces = np.random.default_rng(1).standard_normal((20, 100))
    assert quantile_interval(pieces.tolist(), 0.9) is not None
    assert quantile_interval(pieces.tolist(), 0.9999) is None
    assert quantile_interval(pieces[:1].tolist(), 0.5) is None


def test_equal_numbers_have_one_quantile() -> None:
    assert quantile_interval([[0.5] * 50] * 20, 0.5) == (0.5, 0.5)
    # seven in ten are nothing: so is the median, and what lies around it
    assert quantile_interval([[0.0] * 35 + [0.5] * 15] * 20, 0.5) == (0.0, 0.0)


def test_a_few_values_by_hand() -> None:
    """1, 2, 3: mean 2, standard error 1/√3, t(2) = 2.920."""
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert low == pytest.approx(2 - 2.920 / math.sqrt(3), rel=1e-4)
    assert high == pytest.approx(2 + 2.920 / math.sqrt(3), rel=1e-4)


def test_one_value_has_no_range() -> None:
    assert mean_interval([1.0]) is None
    assert mean_interval([]) is None


@pytest.mark.parametrize("count", [2, 10, 100])
def test_equal_values_have_a_range_of_nothing(count: int) -> None:
    assert mean_interval([0.25] * count) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("count", [10, 11, 29, 100])
def test_the_mean_lies_within_and_the_answer_is_the_same_again(count: int) -> None:
    values = text_like(count, 0.3, np.random.default_rng(count)).tolist()
    low, high = mean_interval(values) or (0.0, 0.0)
    assert low < sum(values) / count < high
    assert mean_interval(values) == (low, high)


def test_a_few_bad_pieces_stretch_the_upper_side() -> None:
    low, high = mean_interval([*[0.01] * 20, 0.5, *[0.01] * 15, 0.7]) or (0.0, 0.0)
    mean = (35 * 0.01 + 1.2) / 37
    assert high - mean > 1.5 * (mean - low)


def test_a_share_by_hand() -> None:
    """Wilson's 90 % interval of 8 of 10, and of all of 100: the rule of three's better brother."""
    assert share_interval(8, 10) == pytest.approx((0.5408, 0.9314), abs=2e-4)
    low, high = share_interval(100, 100)
    assert (low, high) == pytest.approx((100 / (100 + 1.6449**2), 1.0), abs=1e-6)
    assert share_interval(0, 100)[0] == 0.0
