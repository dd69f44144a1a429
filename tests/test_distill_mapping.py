"""Layer maps and what a student's states are held against, on states whose right answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit.distill.mapping import FeatureMatch, last, relative, uniform  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402


def config(layers: int, hidden: int) -> Any:
    return SimpleNamespace(num_hidden_layers=layers, hidden_size=hidden)


def states(layers: int, hidden: int, *, tokens: int = 6, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """The embedding and one per layer, (2, tokens, hidden), each layer of its own size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [3.0**layer for layer in range(layers + 1)]
    return tuple(size * torch.randn(2, tokens, hidden, generator=generator) for size in sizes)


def test_fixed_maps() -> None:
    assert uniform(2, 6).argmax(-1).tolist() == [2, 5]
    assert uniform(3, 3).argmax(-1).tolist() == [0, 1, 2]
    assert last(2, 6).argmax(-1).tolist() == [4, 5]
    assert relative(3, 6).tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert relative(1, 3).tolist() == [[0, 0, 1]]
    for rows in (uniform(3, 7), last(3, 7), relative(3, 7)):
        assert rows.sum(-1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_a_student_that_has_its_teachers_states_is_at_no_distance(loss: str) -> None:
    theirs = states(4, 8)
    match = FeatureMatch(config(2, 8), config(4, 8), "last", loss)
    sized = [state / state.square().mean(-1, keepdim=True).sqrt() for state in theirs]
    weights = torch.ones(2, 6)
    assert match.match([sized[0], sized[3], sized[4]], theirs, weights, 12).item() == pytest.approx(0, abs=1e-6)
    assert match.match([sized[0], sized[4], sized[3]], theirs, weights, 12).item() > 0.5


@pytest.mark.parametrize("loss", ["cosine", "mse"])
@pytest.mark.parametrize("mapping", ["learned", "relative"])
def test_the_loss_is_the_weighted_mean_over_tokens_of_the_mean_over_layers(mapping: str, loss: str) -> None:
    own, theirs = states(3, 5, seed=1), states(5, 8)
    match = FeatureMatch(config(3, 5), config(5, 8), mapping, loss, start=(0, 2, 4))
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(2, 6, generator=generator) * (torch.rand(2, 6, generator=generator) > 0.4)
    shares = match.layer_map().weights
    total = 0.0
    for row, token in weights.nonzero().tolist():
        for layer in range(3):
            mixed = sum(
                share * (state := theirs[number + 1][row, token]) / state.square().mean().sqrt()
                for number, share in enumerate(shares[layer])
            )
            mixed = mixed / mixed.square().mean().sqrt()
            seen = match.projection.weight @ own[layer + 1][row, token]
            turned = 1 - torch.cosine_similarity(seen, mixed, dim=0)
            far = turned if loss == "cosine" else (seen - mixed).square().mean()
            total += (weights[row, token] * far).item() / 3
    assert match.match(own, theirs, weights, 7.0).item() == pytest.approx(total / 7, rel=1e-5)


def test_parts_of_a_batch_add_up_and_the_teacher_gets_no_gradient() -> None:
    own, theirs = states(2, 8, seed=1), states(4, 8)
    own, theirs = ([state.requires_grad_() for state in group] for group in (own, theirs))
    match = FeatureMatch(config(2, 8), config(4, 8), "learned")
    weights = torch.rand(2, 6)
    whole = match.match(own, theirs, weights, 12)
    parts = [
        match.match([state[row] for state in own], [state[row] for state in theirs], weights[row], 12)
        for row in range(2)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    whole.backward()
    assert all(state.grad is None for state in theirs)
    assert own[1].grad is not None
    assert own[0].grad is None  # the embedding is held against nothing
    assert match.shares.logits.grad.abs().min() > 0


def test_where_nothing_counts_there_is_no_distance() -> None:
    found = FeatureMatch(config(2, 8), config(4, 8), "learned").match(states(2, 8), states(4, 8), torch.zeros(2, 6), 5)
    assert found.item() == 0
    found.backward()


def test_a_learned_map_finds_the_layers_that_the_student_has() -> None:
    """Students whose layers are their teacher's first and third, in another basis: the map starts at the second and
    the fourth and has to move."""
    theirs = states(4, 8, tokens=200)
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3))).Q
    own = [theirs[0], theirs[1] @ turned, theirs[3] @ turned]
    match = FeatureMatch(config(2, 8), config(4, 8), "learned", start=(1, 3))
    assert [row.index(max(row)) for row in match.layer_map().weights] == [1, 3]
    groups = match.groups(1e-2)
    assert [group.name for group in groups] == ["projection", "layer_map"]
    optimizer = torch.optim.Adam(
        [{"params": list(group.module.parameters()), "lr": group.learning_rate} for group in groups]
    )
    weights = torch.ones(2, 200)
    for _ in range(150):
        loss = match.match(own, theirs, weights, 400)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = match.layer_map()
    assert loss.item() < 0.05
    assert learned.weights[0][0] > 0.8
    assert learned.weights[1][2] > 0.8
    assert [sum(row) for row in learned.weights] == pytest.approx([1, 1])


def test_a_map_starts_at_the_layers_that_the_student_was_carved_of() -> None:
    found = FeatureMatch(config(2, 8), config(6, 8), "learned", start=(1, 2)).layer_map()
    assert (found.student_layers, found.teacher_layers, found.mapping) == (2, 6, "learned")
    assert [row.index(max(row)) for row in found.weights] == [1, 2]
    assert 0.5 < found.weights[0][1] < 0.9
    assert len(FeatureMatch(config(2, 8), config(6, 8), "last").groups(1e-3)) == 1  # nothing to learn of the map


def test_where_nothing_is_said_layers_meet_those_of_the_same_depth() -> None:
    fixed, learned = FeatureMatch(config(3, 8), config(6, 8)), FeatureMatch(config(3, 8), config(6, 8), "learned")
    assert fixed.layer_map().weights == ((1, 0, 0, 0, 0, 0), (0, 0, 0.5, 0.5, 0, 0), (0, 0, 0, 0, 0, 1))
    assert [row.index(max(row)) for row in learned.layer_map().weights] == [0, 2, 5]


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"mapping": "unifrom"}, "unknown layer mapping: `unifrom`", "did you mean `uniform`"),
        ({"loss": "cosin"}, "unknown feature loss: `cosin`", "did you mean `cosine`"),
        ({"layers": 5}, "the student has 5 layers, more than its teacher: `4`", ""),
        ({"start": (0, 4)}, "one of 4 teacher layers for each of 2 student layers, not at `0, 4`", ""),
        ({"start": (0,)}, "for each of 2 student layers, not at `0`", ""),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str, hint: str) -> None:
    layers = given.pop("layers", 2)
    with pytest.raises(EdgekitError) as failure:
        FeatureMatch(config(layers, 8), config(4, 8), **given)
    assert message in failure.value.message
    assert hint in failure.value.hint


def test_states_of_another_model_are_refused() -> None:
    match = FeatureMatch(config(2, 8), config(4, 8), "learned")
    with pytest.raises(EdgekitError, match=r"teacher has 4 layers, and with its embedding 5 hidden states, not `4`"):
        match.match(states(2, 8), states(4, 8)[1:], torch.ones(2, 6), 1)
