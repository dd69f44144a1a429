"""The numbers that quality rests on, against the plainest possible float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtimes import scores
from edgekit.runtimes.scores import is_shortlisted, nll_rows, score_rows


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def plain(logits: np.ndarray, reference: np.ndarray, targets: list[int]) -> tuple[np.ndarray, ...]:
    q, p = np.stack([log_softmax(row) for row in logits]), np.stack([log_softmax(row) for row in reference])
    each = np.arange(len(targets))
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    return kld, -q[each, targets], -p[each, targets], q.argmax(axis=1) == p.argmax(axis=1)


def models(rows: int, vocabulary: int, apart: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray, list[int]]:
    source = np.random.default_rng(seed)
    reference = (source.standard_normal((rows, vocabulary)) * 4).astype(np.float32)
    logits = reference + (source.standard_normal((rows, vocabulary)) * apart).astype(np.float32)
    return logits, reference, source.integers(0, vocabulary, rows).tolist()


@pytest.mark.parametrize("apart", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("vocabulary", [2, 1000, 70_000])
def test_scores_are_those_of_plain_arithmetic(vocabulary: int, apart: float) -> None:
    logits, reference, targets = models(9, vocabulary, apart)
    found = score_rows(logits, reference, targets)
    wanted = plain(logits, reference, targets)
    np.testing.assert_allclose(found.kld, wanted[0], atol=5e-7, rtol=1e-5)
    np.testing.assert_allclose(found.nll, wanted[1], atol=2e-6)
    np.testing.assert_allclose(found.reference_nll, wanted[2], atol=2e-6)
    np.testing.assert_allclose(found.p, np.exp(-wanted[1]), atol=1e-6)
    np.testing.assert_allclose(found.p_reference, np.exp(-wanted[2]), atol=1e-6)
    assert (found.top1 == wanted[3]).all()
    assert {column.dtype for column in (found.kld, found.nll, found.reference_nll)} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(found.kld_lower, found.kld)
    np.testing.assert_array_equal(nll_rows(logits, targets), found.nll)


@pytest.mark.parametrize("apart", [0.0, 2.0, 6.0])
def test_the_five_likeliest_are_those_of_a_full_sort(apart: float) -> None:
    logits, reference, targets = models(200, 300, apart)
    five = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    wanted = (five == reference.argmax(axis=1)[:, None]).any(axis=1)
    found = score_rows(logits, reference, targets)
    np.testing.assert_array_equal(found.top5, wanted)
    assert found.top5.all() if apart == 0 else found.top1.sum() < found.top5.sum() < 200


def test_lower_ids_come_first_among_equals() -> None:
    """Six tokens share the first place: the sixth of them is not among five."""
    row = np.float32([7, 7, 0, 7, 7, 7, 7])
    assert [is_shortlisted(row, token) for token in range(7)] == [True, True, False, True, True, True, False]
    assert is_shortlisted(np.float32([1, 2, 3]), 0)  # fewer than five are all among five


def test_a_thousandth_of_a_nat_is_told_to_a_percent() -> None:
    logits, reference, targets = models(64, 5000, 0.01)
    kld, wanted = score_rows(logits, reference, targets).kld.mean(), plain(logits, reference, targets)[0].mean()
    assert 1e-5 < wanted < 1e-3
    assert kld == pytest.approx(wanted, rel=0.002)


@pytest.mark.parametrize("threads", [2, 7])
def test_threads_and_block_size_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, reference, targets = models(50, 300, 1.0)
    wanted = score_rows(logits, reference, targets)
    monkeypatch.setattr(scores, "CACHE_BYTES", 4 * 300 * 3)
    found = score_rows(logits, reference, targets, threads=threads)
    for column in ("kld", "nll", "reference_nll", "top1", "top5"):
        np.testing.assert_array_equal(getattr(found, column), getattr(wanted, column))


def test_a_model_equals_itself() -> None:
    logits, _, targets = models(20, 4000, 0.0)
    found = score_rows(logits, logits.copy(), targets)
    assert np.abs(found.kld).max() < 1e-12
    assert found.top1.all()
    assert found.top5.all()
    np.testing.assert_array_equal(found.p, found.p_reference)


def test_the_direction_is_from_the_reference() -> None:
    """KL(p ‖ q) of (½, ½) and (¾, ¼) by hand."""
    even, uneven = np.log(np.float32([[0.5, 0.5]])), np.log(np.float32([[0.75, 0.25]]))
    kld = score_rows(uneven, even, [0]).kld[0]
    assert kld == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25), abs=1e-7)


def test_the_first_of_equal_tokens_counts() -> None:
    logits = np.float32([[1, 3, 3, 0], [0, 3, 1, 3]])
    reference = np.float32([[0, 2, 2, 2], [0, 1, 1, 3]])
    assert score_rows(logits, reference, [0, 0]).top1.tolist() == [True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_spoil_their_own_row_only(bad: float) -> None:
    logits, reference, targets = models(5, 100, 0.5)
    wanted = score_rows(logits, reference, targets)
    logits[2, 7] = bad
    found = score_rows(logits, reference, targets)
    assert not np.isfinite(found.kld[2])
    assert not found.top1[2]
    assert not found.top5[2]
    kept = [0, 1, 3, 4]
    for column in ("kld", "nll", "top1", "top5"):
        np.testing.assert_array_equal(getattr(found, column)[kept], getattr(wanted, column)[kept])


def test_a_ruled_out_token_costs_without_end() -> None:
    logits, reference, targets = models(2, 10, 0.5)
    logits[0, 3] = -np.inf
    kld = score_rows(logits, reference, targets).kld
    assert kld[0] == np.inf
    assert np.isfinite(kld[1])


def test_shapes_must_agree() -> None:
    logits, reference, targets = models(3, 10, 1.0)
    with pytest.raises(ValueError, match="shapes"):
        score_rows(logits, reference[:, :9], targets)
    with pytest.raises(ValueError, match="shapes"):
        score_rows(logits, reference, targets[:2])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 40), st.floats(0, 8), st.floats(-40, 40), st.floats(-40, 40), st.integers(0, 99)
)
def test_shifts_change_nothing_and_divergence_is_not_negative(
    rows: int, vocabulary: int, apart: float, shift: float, other: float, seed: int
) -> None:
    logits, reference, targets = models(rows, vocabulary, apart, seed)
    found = score_rows(logits, reference, targets)
    assert (found.kld >= -1e-6).all()
    assert (found.top5 | ~found.top1).all()
    shifted = score_rows(logits + np.float32(shift), reference + np.float32(other), targets)
    for column in ("kld", "nll", "reference_nll"):
        np.testing.assert_allclose(getattr(shifted, column), getattr(found, column), atol=2e-4, rtol=1e-4)
