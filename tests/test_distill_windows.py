"""Windows, and the order they are seen in."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")

from edgekit.distill import windows as module  # noqa: E402
from edgekit.distill.shuffling import shuffled  # noqa: E402
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


@pytest.mark.parametrize("count", [1, 2, 5, 97, 4096, 65_539])
def test_a_shuffle_without_memory_has_each_number_once(count: int) -> None:
    orders = [shuffled(torch.arange(count), count, seed, number) for seed, number in ((1, 0), (1, 1), (2, 0))]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(count))
    if count > 50:
        assert not any(torch.equal(one, other) for one in orders for other in orders if one is not other)
        assert torch.equal(shuffled(torch.tensor([7, 3]), count, 1, 0), orders[0][[7, 3]]), "each place alone"


def test_a_shuffle_without_memory_mixes() -> None:
    """Neighbours, places and bits tell nothing of each other, for counts just above and below a power of four."""
    for count in (2**16 + 1, 2**18 - 1):
        order = shuffled(torch.arange(count), count, 3, 0).double()
        places = torch.arange(count).double()
        far = 5 / count**0.5
        for one, other in (
            (places, order),
            (order[:-1], order[1:]),
            (places % 2, order % 2),
            (places % 256, order % 256),
        ):
            assert abs(float(torch.corrcoef(torch.stack((one, other)))[0, 1])) < far
        steps = (order[1:] - order[:-1]).abs() / count
        assert float(steps.mean()) == pytest.approx(1 / 3, abs=0.01)


def test_large_numbers_are_shuffled_too() -> None:
    count = 10**13 + 7
    places = torch.tensor([0, 1, 2, count - 1])
    found = shuffled(places, count, 1, 0)
    assert len(set(found.tolist())) == 4
    assert 0 <= int(found.min()) <= int(found.max()) < count


def test_windows_too_many_to_count_out_are_each_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED", 5)
    windows = windows_of(range(161), None, 16)
    seen = [int(number) for step in range(10) for number in windows.batch(step, 3, seed=5)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == sorted(seen[20:]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert windows.batch(7, 3, seed=5).tolist() == seen[21:24]
