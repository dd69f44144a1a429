"""What stages minimize and how students are scored, held against the plainest way to compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit.distill import held_out as scoring  # noqa: E402
from edgekit.distill.alignment import align  # noqa: E402
from edgekit.distill.held_out import held_out  # noqa: E402
from edgekit.distill.mapping import FeatureMatch  # noqa: E402
from edgekit.distill.objectives import Softly, features_objective, logits_objective, task_objective  # noqa: E402
from edgekit.distill.settings import StepInfo  # noqa: E402
from edgekit.distill.sparse_rows import CacheSettings  # noqa: E402
from edgekit.distill.speaking import cached_teacher  # noqa: E402
from edgekit.distill.windows import Windows  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402
from edgekit.records import Estimate  # noqa: E402

INFO = StepInfo(step=3, steps=10, normalizer=17.0)
ROWS, COMMON = 60, 53


def model(layers: int, hidden: int, seed: int, rows: int = ROWS) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
    )
    made = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():  # logits that say something
            parameter.mul_(6) if parameter.ndim > 1 else None
    return made.eval()


@pytest.fixture(scope="module")
def given() -> tuple[Any, Any, Windows]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, COMMON, (6, 9), generator=generator)
    weights = torch.rand(6, 9, generator=generator) * (torch.rand(6, 9, generator=generator) > 0.4)
    return model(2, 32, 1), model(3, 40, 2, rows=ROWS + 4), Windows(ids=ids, weights=weights)


def plain_loss(student: Any, teacher: Any, windows: Windows, chosen: Any, alpha: float, temperature: float) -> Any:
    """α T² KL + (1 − α) CE, weighted, token by token and with all logits at once."""
    ids, weights = windows.ids[chosen], windows.weights[chosen][:, 1:]
    own = student(input_ids=ids[:, :-1]).logits
    with torch.no_grad():
        theirs = teacher(input_ids=ids[:, :-1]).logits
    log_p = (theirs[..., :COMMON] / temperature).log_softmax(-1)
    log_q = (own[..., :COMMON] / temperature).log_softmax(-1)
    soft = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
    hard = torch.nn.functional.cross_entropy(own.transpose(1, 2), ids[:, 1:], reduction="none")
    return ((alpha * soft + (1 - alpha) * hard) * weights).sum() / INFO.normalizer


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_logits_are_the_weighted_mean_of_divergence_and_cross_entropy(given: Any, alpha: float) -> None:
    student, teacher, windows = given
    softly = Softly(alpha=alpha, temperature=lambda step, steps: 1 + step / steps, vocabulary=COMMON)
    chosen = torch.tensor([4, 1, 2])
    student.zero_grad()
    found = logits_objective(teacher if alpha else None, softly)(student, chosen, windows, INFO).total
    found.backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    wanted = plain_loss(student, teacher, windows, chosen, alpha, 1.3)
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for found_one, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(found_one, parameter.grad, rtol=1e-4, atol=1e-5)


def test_features_add_the_distance_and_train_the_projection(given: Any) -> None:
    student, teacher, windows = given
    softly = Softly(alpha=0.5, temperature=lambda *_: 2.0, vocabulary=COMMON)
    match, chosen = FeatureMatch(student.config, teacher.config), torch.tensor([0, 3])
    student.zero_grad()
    parts = features_objective(teacher, match, softly, weight=3.0)(student, chosen, windows, INFO)
    parts.total.backward()
    asked = {"input_ids": windows.ids[chosen][:, :-1], "output_hidden_states": True}
    with torch.no_grad():
        theirs, own = teacher.base_model(**asked).hidden_states, student.base_model(**asked).hidden_states
        distance = match.match(own, theirs, windows.weights[chosen][:, 1:], INFO.normalizer)
        logits = plain_loss(student, teacher, windows, chosen, 0.5, 2.0)
    assert parts.total.item() == pytest.approx((logits + 3 * distance).item(), rel=1e-5)
    assert all(parameter.grad.abs().sum() > 0 for parameter in match.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_cache_stands_for_its_teacher(given: Any, tmp_path: Path) -> None:
    from students import random_student

    from edgekit.checkpoint import open_checkpoint
    from edgekit.distill.loading import load_model

    folder = random_student("qwen3")
    checkpoint, teacher = open_checkpoint(folder), load_model(folder, frozen=True)
    windows = Windows(ids=torch.arange(300, 328).view(4, 7), weights=torch.ones(4, 7))
    alignment = align(checkpoint, checkpoint)
    settings = CacheSettings(top=900, draws=100, coolest=2.0, hottest=2.0)
    cache = cached_teacher(
        teacher, checkpoint, windows.ids[:, :-1], tmp_path / "cache", alignment=alignment, settings=settings
    )
    student = load_model(random_student("qwen3"))
    with torch.no_grad():
        student.base_model.norm.weight.mul_(0.5)
    softly = Softly(alpha=1.0, temperature=lambda *_: 2.0, vocabulary=alignment.vocabulary)
    told = [
        logits_objective(one, softly)(student, torch.tensor([3, 1]), windows, INFO).total.item()
        for one in (teacher, cache)
    ]
    assert told[1] == pytest.approx(told[0], rel=0.02)
    assert told[0] > 0.01


def test_without_a_teacher_there_is_only_cross_entropy(given: Any) -> None:
    student, teacher, windows = given
    chosen = torch.tensor([0, 1])
    found = task_objective()(student, chosen, windows, INFO)
    assert found.total.item() == pytest.approx(plain_loss(student, teacher, windows, chosen, 0, 1).item(), rel=1e-5)
    with pytest.raises(EdgekitError, match=r"alpha must be 0, not `0.5`"):
        logits_objective(None, Softly(alpha=0.5, temperature=lambda *_: 1.0))


def test_held_out_scores_are_the_plain_ones(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK_LOGITS", 5 * ROWS)  # several blocks a batch
    student, teacher, windows = given
    found = held_out(student, windows, teacher=teacher, teacher_name="large", vocabulary=COMMON, batch=4)
    weights, labels = windows.weights[:, 1:].double(), windows.ids[:, 1:]
    with torch.no_grad():
        own = student(input_ids=windows.ids[:, :-1]).logits.double()
        theirs = teacher(input_ids=windows.ids[:, :-1]).logits.double()
    nll = -own.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    log_p, log_q = theirs[..., :COMMON].log_softmax(-1), own[..., :COMMON].log_softmax(-1)
    kld = (log_p.exp() * (log_p - log_q)).sum(-1)
    for figure, each in ((found.loss, nll), (found.kld, kld), (found.top1, (own.argmax(-1) == labels).double())):
        assert isinstance(figure, Estimate)
        assert figure.value == pytest.approx(((each * weights).sum() / weights.sum()).item(), rel=1e-5)
        assert figure.low < figure.value < figure.high
    assert (found.teacher, found.tokens) == ("large", int((weights > 0).sum()))
    assert sum(one.nll for one in found.windows) == pytest.approx((nll * weights).sum().item(), rel=1e-5)
    assert student.training is False


def test_a_model_is_at_no_distance_from_itself_and_broken_ones_are_refused(given: Any) -> None:
    student, _, windows = given
    found = held_out(student, windows, teacher=student)
    assert isinstance(found.kld, Estimate)
    assert found.kld.value == pytest.approx(0, abs=1e-9)
    broken = model(1, 32, 3)
    with torch.no_grad():
        broken.base_model.norm.weight[0] = float("nan")
    for arguments in ((broken, windows), (student, windows, broken)):
        with pytest.raises(EdgekitError, match="are no numbers"):
            held_out(*arguments[:2], teacher=arguments[2] if len(arguments) > 2 else None)
    nothing = Windows(ids=windows.ids, weights=torch.zeros_like(windows.weights))
    with pytest.raises(EdgekitError, match="no token of the held-out text counts"):
        held_out(student, nothing)
