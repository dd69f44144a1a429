"""The training loop on models whose right answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")

from edgekit.distill import next_token, train_causal, unigram_entropy  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402


class Bigram(torch.nn.Module):
    """The logits of the next token are a row of a table."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(tokens, tokens))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


CYCLE = [0, 3, 1, 2] * 200


def train(seed: int = 1, **changes: object) -> tuple[Bigram, tuple[float, ...]]:
    model = Bigram(5)
    settings = {"steps": 60, "batch": 4, "length": 16, "learning_rate": 0.2} | changes
    return model, train_causal(model, CYCLE, seed=seed, **settings)


def test_it_learns_what_follows_what() -> None:
    model, losses = train()
    assert losses[0] == pytest.approx(math.log(5), rel=1e-2)
    assert losses[-1] < 0.1
    score = next_token(model, CYCLE, length=16)
    assert score.top1 == 1.0
    assert score.loss == pytest.approx(losses[-1], abs=0.05)


def test_the_same_seed_gives_the_same_losses() -> None:
    uneven = [0, 3, 1, 2] * 100 + [4, 4, 1, 0] * 100
    runs = [train_causal(Bigram(5), uneven, steps=20, batch=2, length=16, learning_rate=0.1, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_each_token_is_foretold_once_in_a_text_of_whole_windows() -> None:
    assert next_token(Bigram(5), CYCLE[:161], length=16).tokens == 160
    assert next_token(Bigram(5), CYCLE[:175], length=16).tokens == 160


def test_an_untrained_model_scores_chance() -> None:
    score = next_token(Bigram(5), CYCLE, length=16)
    assert score.loss == pytest.approx(math.log(5), rel=1e-6)


def test_unigram_entropy_of_known_mixtures() -> None:
    assert unigram_entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert unigram_entropy([7, 7, 7]) == 0
    assert unigram_entropy([0, 0, 0, 1]) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_what_weighs_nothing_is_not_learned() -> None:
    noisy = [0, 3, 1, 2] * 200
    weights = [1.0 if token in (1, 2) else 0.0 for token in noisy]
    model = Bigram(5)
    losses = train_causal(model, noisy, steps=60, batch=4, length=16, learning_rate=0.2, weights=weights)
    assert losses[-1] < 0.1
    with torch.no_grad():
        shares = model.table.softmax(-1)
    assert shares[3, 1] > 0.9
    assert shares[1, 2] > 0.9
    assert shares[0] == pytest.approx(torch.full((5,), 0.2), abs=1e-3)  # what follows 0 and 2 was never asked
    assert shares[2] == pytest.approx(torch.full((5,), 0.2), abs=1e-3)
    score = next_token(model, noisy, length=16, weights=weights)
    assert score.top1 == 1.0
    assert score.loss < 0.1 < next_token(model, noisy, length=16).loss
    assert (score.tokens, next_token(model, noisy, length=16).tokens) == (392, 784)


def test_equal_weights_change_nothing() -> None:
    plain = train(steps=5)[1]
    assert train(steps=5, weights=[0.3] * len(CYCLE))[1] == pytest.approx(plain, rel=1e-6)


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(EdgekitError, match="800 tokens, but the number of weights is `3`"):
        train(weights=[1.0] * 3)


def test_progress_counts_the_steps() -> None:
    told: list[tuple[str, float, float]] = []
    train(steps=3, progress=lambda stage, done, total, detail="": told.append((stage, done, total)))
    assert told == [("train", 1, 3), ("train", 2, 3), ("train", 3, 3)]


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(EdgekitError, match="16 tokens, fewer than one window of `17`"):
        next_token(Bigram(5), CYCLE[:16], length=16)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = Bigram(5)
    with torch.no_grad():
        model.table[0, 0] = math.inf
    with pytest.raises(
        EdgekitError, match=r"diverged at step 1 of 9 \(the loss is no number: nan\) with learning rate `0.2`"
    ):
        train_causal(model, CYCLE, steps=9, batch=4, length=16, learning_rate=0.2)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_share_of_none_or_all_has_a_range(right: float) -> None:
    """That twelve windows were all wrong proves no zero: as for any share, by Wilson over the windows."""
    from edgekit.distill.held_out import summed
    from edgekit.intervals import share_interval
    from edgekit.records import Estimate
    from edgekit.records.distillation import ScoredWindow

    windows = [ScoredWindow(weight=5.0, nll=10.0, top1=5.0 * right, kld=None) for _ in range(12)]
    top1 = summed(windows, 60).top1
    assert isinstance(top1, Estimate)
    assert (top1.value, (top1.low, top1.high)) == (right, share_interval(round(right) * 12, 12))
    assert top1.high - top1.low > 0.1
