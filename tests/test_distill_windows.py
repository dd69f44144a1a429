"""Windows, and the order they are seen in."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")

from edgekit.distill.windows import windows_of  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402


def test_windows_overlap_by_the_token_that_is_foretold() -> None:
    windows = windows_of(range(50), [token / 100 for token in range(50)], 16)
    assert len(windows) == 3
    assert windows.length == 16
    assert windows.ids[1].tolist() == list(range(16, 33))
    inputs, labels, weights = windows.part(torch.tensor([2, 0]))
    assert inputs[0].tolist() == list(range(32, 48))
    assert labels[1].tolist() == list(range(1, 17))
    assert weights[1] == pytest.approx(labels[1] / 100)
    assert windows.weight(torch.tensor([2, 0])) == pytest.approx(float(weights.sum()))


def test_without_weights_all_tokens_count_alike() -> None:
    assert windows_of(range(33), None, 16).weights.eq(1).all()


def test_every_window_is_seen_once_before_any_is_seen_again() -> None:
    windows = windows_of(range(161), None, 16)
    seen = [int(number) for step in range(10) for number in windows.batch(step, 3, seed=5)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == sorted(seen[20:]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert seen[:10] != [int(number) for step in range(10) for number in windows.batch(step, 3, seed=6)][:10]


def test_a_batch_may_be_larger_than_the_text() -> None:
    counts = windows_of(range(49), None, 16).batch(0, 8, seed=1).bincount()
    assert sorted(counts.tolist()) == [2, 3, 3]


def test_the_order_needs_no_memory() -> None:
    windows = windows_of(range(161), None, 16)
    forward = {step: windows.batch(step, 3, seed=9).tolist() for step in range(40)}
    for step in (39, 0, 17, 3, 38, 5):
        assert windows.batch(step, 3, seed=9).tolist() == forward[step]
        windows.batch(step, 7, seed=2)  # another order in between


def test_the_hash_is_of_ids_weights_and_cut() -> None:
    one = windows_of(range(65), None, 16).sha256
    assert one == windows_of(range(65), None, 16).sha256
    others = [
        windows_of(range(65), None, 32).sha256,
        windows_of([*range(64), 7], None, 16).sha256,
        windows_of(range(65), [0.5] + [1.0] * 64, 16).sha256,
    ]
    assert len({one, *others}) == 4


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(EdgekitError, match="16 tokens, fewer than one window of `17`"):
        windows_of(range(16), None, 16)
    with pytest.raises(EdgekitError, match="40 tokens, but the number of weights is `3`"):
        windows_of(range(40), [1.0] * 3, 16)
