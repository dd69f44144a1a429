"""Figures made of raw chunks: by hand, and with ranges that hold what they say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.bench import text_figures as figures
from edgekit.records import Estimate, Figure, Quality, ScoredChunk, Unknown


def value(figure: Figure) -> float:
    assert isinstance(figure, Estimate), figure
    assert figure.basis == "measured-here"
    return figure.value


def chunk(nats: float = 200.0, **changes: Any) -> ScoredChunk:
    values = {
        "tokens": 100,
        "nll": nats,
        "reference_nll": 190.0,
        "kld": 1.0,
        "top1": 90,
        "top5": 95,
        "dp2": 0.04,
        "token_kld": (0.01,) * 100,
        **changes,
    }
    return ScoredChunk(**values)


def of_tokens(klds: Sequence[Sequence[float]]) -> list[ScoredChunk]:
    return [chunk(tokens=len(part), token_kld=tuple(map(float, part))) for part in klds]


def test_every_figure_of_a_text_is_made() -> None:
    made = figures.text_figures([chunk(), chunk()])
    fields = {field.name for field in dataclasses.fields(Quality)}
    assert set(made) <= fields
    assert {name for name in fields if name.startswith(("kld_", "top", "dp_"))} <= set(made)


def test_figures_by_hand() -> None:
    chunks = (chunk(200.0, kld=1.0, top1=90), chunk(220.0, kld=3.0, top1=80), chunk(210.0, kld=2.0, top1=85))
    assert value(figures.perplexity(chunks)) == pytest.approx(math.exp(2.1))
    assert value(figures.reference_perplexity(chunks)) == pytest.approx(math.exp(1.9))
    assert value(figures.perplexity_ratio(chunks)) == pytest.approx(math.exp(0.2))
    assert value(figures.kld_mean(chunks)) == pytest.approx(0.02)
    assert value(figures.top1_agreement(chunks)) == pytest.approx(0.85)
    assert value(figures.top5_agreement(chunks)) == pytest.approx(0.95)
    assert value(figures.dp_rms(chunks)) == pytest.approx(0.02)
    kld = figures.kld_mean(chunks)
    assert isinstance(kld, Estimate)
    # ± t(2) × 0.01 / √3
    assert (kld.low, kld.high) == pytest.approx((0.02 - 2.920 * 0.01 / 3**0.5, 0.02 + 2.920 * 0.01 / 3**0.5), rel=1e-4)


def test_the_change_in_probability_has_a_range() -> None:
    """Mean squares 1e-4, 4e-4 and 7e-4: their mean 4e-4 ± t(2) × 3e-4 / √3 begins below nothing."""
    figure = figures.dp_rms([chunk(dp2=0.01), chunk(dp2=0.04), chunk(dp2=0.07)])
    assert isinstance(figure, Estimate)
    assert figure.value == pytest.approx(0.02)
    assert (figure.low, figure.high) == (0.0, pytest.approx((4e-4 + 2.920 * 3e-4 / 3**0.5) ** 0.5, rel=1e-4))


def test_full_agreement_still_has_a_range() -> None:
    for figure in (figures.top1_agreement([chunk(top1=100)] * 20), figures.top5_agreement([chunk(top5=100)] * 20)):
        assert isinstance(figure, Estimate)
        assert figure.value == figure.high == 1.0
        assert figure.low == pytest.approx(1 - 1.6449**2 / (2000 + 1.6449**2), rel=1e-5)


def test_a_divergence_is_never_below_nothing() -> None:
    figure = figures.kld_mean([chunk(kld=0.0), chunk(kld=0.0), chunk(kld=0.001)])
    assert isinstance(figure, Estimate)
    assert figure.low == 0.0


def test_quantiles_are_the_peers() -> None:
    """1 to 4000 over forty chunks: linear between neighbours, (n − 1) q from the first on."""
    klds = np.random.default_rng(1).permutation(np.arange(1, 4001)).reshape(40, 100)
    chunks = of_tokens(klds)
    for share in (0.5, 0.9, 0.99):
        assert value(figures.kld_quantile(chunks, share)) == pytest.approx(1 + 3999 * share)
    median = figures.kld_quantile(chunks, 0.5)
    assert isinstance(median, Estimate)
    assert 1900 < median.low < 1980 < 2020 < median.high < 2100


def test_too_few_tokens_beyond_a_quantile_leave_it_unknown_and_say_what_it_takes() -> None:
    klds = np.random.default_rng(1).lognormal(size=(140, 100))
    assert isinstance(figures.kld_quantile(of_tokens(klds[:20]), 0.99), Estimate)
    figure = figures.kld_quantile(of_tokens(klds[:20]), 0.999)
    assert isinstance(figure, Unknown)
    assert "`2` of 2000 tokens lie beyond 99.9 %" in figure.reason
    assert "100 chunks" in figure.settle
    assert isinstance(figures.kld_quantile(of_tokens(klds), 0.999), Estimate)


def test_chunks_that_differ_too_much_give_no_range() -> None:
    """All of what lies beyond 90 % is in one of four chunks: another text may have none of it."""
    figure = figures.kld_quantile(of_tokens([[0.1, 0.2] * 50, [0.1, 0.2] * 50, [0.1, 0.2] * 50, [5.0, 9.0] * 50]), 0.9)
    assert isinstance(figure, Unknown)
    assert "`4` chunks of text differ too much" in figure.reason
    assert "10 chunks" in figure.settle


def test_a_quantile_of_one_chunk_has_no_range() -> None:
    figure = figures.kld_quantile(of_tokens([[0.1] * 2000]), 0.5)
    assert isinstance(figure, Unknown)
    assert "`1` chunks" in figure.reason


def test_the_largest_is_counted_and_says_what_it_is() -> None:
    figure = figures.kld_max(of_tokens([[0.1, 0.5], [0.7, 0.2]]))
    assert isinstance(figure, Estimate)
    assert figure.low == figure.value == figure.high == 0.7
    assert "of the 4 tokens scored" in figure.note


def test_broken_logits_leave_only_the_disagreement() -> None:
    """A model that gives no numbers must not look better than one that gives bad ones."""
    chunks = [chunk(), chunk(), chunk(50.0, broken=60, top1=30, top5=35, token_kld=(0.0,) * 40)]
    made = figures.text_figures(chunks)
    for name, figure in made.items():
        if name in ("top1_agreement", "top5_agreement", "kld_lower"):
            continue
        assert isinstance(figure, Unknown), name
        assert "no numbers" in figure.reason
    assert value(made["top1_agreement"]) == pytest.approx(210 / 300)
    assert value(made["top5_agreement"]) == pytest.approx(225 / 300)


def test_without_a_reference_everything_but_the_perplexity_is_unknown() -> None:
    alone = ScoredChunk(tokens=100, nll=200.0)
    made = figures.text_figures([alone, alone])
    assert value(made.pop("perplexity")) == pytest.approx(math.exp(2))
    for figure in made.values():
        assert isinstance(figure, Unknown)
        assert "no reference" in figure.reason


def test_what_old_chunks_do_not_hold_is_not_recorded() -> None:
    old = ScoredChunk(tokens=100, nll=200.0, reference_nll=190.0, kld=1.0, top1=90)
    made = figures.text_figures([old, old])
    assert value(made["kld_mean"]) == pytest.approx(0.01)
    for name in ("kld_median", "kld_p90", "kld_p99", "kld_p999", "kld_max", "top5_agreement", "dp_rms"):
        assert made[name] == Unknown(reason="not recorded"), name


def test_only_an_estimate_has_a_lower_bound() -> None:
    live = figures.kld_lower([chunk(), chunk()])
    assert isinstance(live, Unknown)
    assert "needs no bound" in live.reason
    assert value(figures.kld_lower([chunk(kld_lower=0.5), chunk(kld_lower=0.7)])) == pytest.approx(0.006)


def test_single_tokens_of_a_compact_reference_are_not_known() -> None:
    """Estimates that are right in their mean have other quantiles: a median read up to a ninth too low."""
    made = figures.text_figures([chunk(kld_lower=0.9)] * 20)
    for name in ("kld_median", "kld_p90", "kld_p99", "kld_max"):
        figure = made[name]
        assert isinstance(figure, Unknown), name
        assert "only the mean is known" in figure.reason
        assert "--reference" in figure.settle
    assert value(made["kld_mean"]) == pytest.approx(0.01)
    assert isinstance(figures.kld_quantile([chunk()] * 20, 0.5), Estimate)


def test_a_perplexity_beyond_all_scales_is_unknown() -> None:
    figure = figures.perplexity([chunk(90_000.0), chunk(95_000.0)])
    assert isinstance(figure, Unknown)
    assert "beyond" in figure.reason
