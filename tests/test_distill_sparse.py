"""A few tokens of a teacher teach what all of them teach: without bias, and without noise where student and teacher
agree.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgekit.distill.sparse import SparseTeacher, lumped, sparse_forward_kl, sparse_forward_kl_gradient
from edgekit.distill.sparse_rows import CacheSettings, record_type, records_of, sound_records, unpack
from edgekit.errors import EdgekitError

ROWS, VOCABULARY = 6, 3000
SMALL = CacheSettings(top=16, draws=24)


def zipf(rows: int = ROWS, vocabulary: int = VOCABULARY, exponent: float = 1.4) -> torch.Tensor:
    """Heavy tails, in an order of its own in every row."""
    generator = torch.Generator().manual_seed(1)
    level = -exponent * torch.arange(1, vocabulary + 1).log()
    return torch.stack([level[torch.randperm(vocabulary, generator=generator)] for _ in range(rows)])


def disturbed(logits: torch.Tensor, by: float = 0.4) -> torch.Tensor:
    return logits + by * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))


def kept(
    logits: torch.Tensor, temperature: float = 1.0, settings: CacheSettings = SMALL, seed: int = 3
) -> SparseTeacher:
    starts = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed))
    return unpack(records_of(logits, starts, settings), temperature, settings, logits.shape[1])


def without_draws(teacher: SparseTeacher) -> SparseTeacher:
    none = {name: getattr(teacher, name)[:, :0] for name in ("tail_ids", "tail_log_probs", "tail_weights")}
    return replace(teacher, **none)


def exact(teacher: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(KL, its gradient by the student's logits), in float64."""
    log_p, log_q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1), log_q.exp() - log_p.exp()


def test_the_defaults_take_400_bytes_at_most() -> None:
    assert CacheSettings().record_bytes == record_type(CacheSettings()).itemsize == 399


@pytest.mark.parametrize("temperature", [1.0, 1.2, 2.0, 3.3, 4.0])
@pytest.mark.parametrize("exponent", [0.7, 1.4, 3.0])
def test_the_tail_has_its_mass_at_every_temperature(temperature: float, exponent: float) -> None:
    logits = zipf(exponent=exponent)
    teacher = kept(logits, temperature)
    log_p = (logits.double() / temperature).log_softmax(-1)
    tail = log_p.exp().scatter(-1, teacher.ids, 0).sum(-1)
    # between the kept temperatures a polynomial is read, and logits are kept in steps of 2⁻¹⁰
    assert (teacher.tail_log_mass - tail.log()).abs().max() < (1e-3 if temperature in (1.0, 4.0) else 2e-3)
    assert (teacher.log_probs - log_p.gather(-1, teacher.ids)).abs().max() < 2e-3
    whole = teacher.log_probs.exp().sum(-1) + teacher.tail_log_mass.exp()
    torch.testing.assert_close(whole, torch.ones(ROWS))
    assert not (teacher.tail_ids[:, :, None] == teacher.ids[:, None, :]).any()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("by", [0.1, 1.0])
def test_value_and_gradient_are_unbiased(temperature: float, by: float) -> None:
    logits = zipf()
    student = disturbed(logits, by) / temperature
    value, gradient = exact(logits / temperature, student)
    times = 400
    found = [sparse_forward_kl_gradient(kept(logits, temperature, seed=seed), student) for seed in range(times)]
    values = torch.stack([one for one, _ in found]).double()
    gradients = torch.stack([one for _, one in found]).double()
    spread = values.std(0) / times**0.5
    assert ((values.mean(0) - value).abs() < 5 * spread + 2e-3 * value).all()
    # of a gradient's 18 000 places the mean's squared distance, which chance alone makes this large
    chance = gradients.var(0).sum() / times
    assert (gradients.mean(0) - gradient).square().sum() < 2 * chance + (2e-3 * gradient.norm()) ** 2


def test_the_tail_in_one_is_a_lower_bound_and_says_nothing_of_its_shape() -> None:
    logits = zipf()
    student = disturbed(logits)
    value, _ = exact(logits, student)
    teacher = without_draws(kept(logits))
    bound, gradient = sparse_forward_kl_gradient(teacher, student)
    assert (bound < 0.8 * value).all()
    # within the tail it only scales the student's own distribution
    tail = torch.ones(ROWS, VOCABULARY, dtype=torch.bool).scatter(-1, teacher.ids, False)
    scale = (gradient / student.softmax(-1))[tail].view(ROWS, -1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("draws", [0, 24])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_closed_gradient_is_that_of_the_value(draws: int, temperature: float) -> None:
    logits = zipf()
    student = (disturbed(logits, 0.8) / temperature).requires_grad_()
    teacher = kept(logits, temperature, replace(SMALL, draws=draws))
    value = sparse_forward_kl(teacher, student)
    (wanted,) = torch.autograd.grad(value.sum(), student)
    found, gradient = sparse_forward_kl_gradient(teacher, student.detach())
    torch.testing.assert_close(found, value.detach(), atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(gradient, wanted, atol=2e-7, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_that_agrees_is_left_alone(temperature: float) -> None:
    logits = zipf()
    value, gradient = sparse_forward_kl_gradient(kept(logits, temperature), logits / temperature)
    assert value.abs().max() < 1e-5
    other = sparse_forward_kl_gradient(kept(logits, temperature), disturbed(logits) / temperature)[1]
    assert gradient.norm() < 0.02 * other.norm()


def test_the_lumped_distributions_sum_up_to_one() -> None:
    logits = zipf()
    log_p, log_q = lumped(kept(logits), disturbed(logits))
    assert log_p.shape == log_q.shape == (ROWS, SMALL.top + 1)
    for one in (log_p, log_q):
        torch.testing.assert_close(one.exp().sum(-1), torch.ones(ROWS))


@pytest.mark.parametrize("sure", [30.0, 200.0, 1e4])
def test_a_teacher_without_doubt_gives_finite_numbers(sure: float) -> None:
    logits = zipf()
    logits[:, 5] += sure
    for student in (disturbed(logits), zipf(exponent=0.5), logits):
        value, gradient = sparse_forward_kl_gradient(kept(logits), student)
        wanted, direction = exact(logits, student)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        torch.testing.assert_close(value, wanted.float(), atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(gradient, direction.float(), atol=1e-3, rtol=1e-2)


def test_parts_and_masks_are_the_rows() -> None:
    logits = zipf()
    teacher, student = kept(logits), disturbed(logits)
    value = sparse_forward_kl(teacher, student)
    torch.testing.assert_close(sparse_forward_kl(teacher.part(2, 5), student[2:5]), value[2:5])
    mask = torch.tensor([True, False, True, False, False, True])
    torch.testing.assert_close(sparse_forward_kl(teacher.where(mask), student[mask]), value[mask])
    assert len(teacher.where(mask).to("cpu")) == 3


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(EdgekitError, match=r"6 rows over 3000 tokens.*`\(6, 2999\)`"):
        sparse_forward_kl(kept(zipf()), zipf()[:, :-1])


def test_one_temperature_draws_evenly_and_no_other_is_to_be_had() -> None:
    teacher = kept(zipf(), 2.0, CacheSettings(coolest=2.0, hottest=2.0))
    tail = teacher.tail_log_mass.exp()
    torch.testing.assert_close(
        teacher.tail_weights, tail[:, None].expand_as(teacher.tail_weights) / 43, atol=0, rtol=5e-3
    )
    with pytest.raises(EdgekitError, match="temperatures from 2 to 2, not: `1`"):
        kept(zipf(), 1.0, CacheSettings(coolest=2.0, hottest=2.0))


@pytest.mark.parametrize("temperature", [0.9, 4.5, 0.0, -1.0, float("nan")])
def test_temperatures_that_were_not_kept(temperature: float) -> None:
    with pytest.raises(EdgekitError, match="temperatures from 1 to 4"):
        kept(zipf(), temperature)


def test_a_tail_that_cannot_be() -> None:
    logits = zipf()
    logits = logits.masked_fill(logits < logits.topk(16).values[:, -1:], -torch.inf)
    value, gradient = sparse_forward_kl_gradient(kept(logits), zipf(exponent=1.0))
    wanted, direction = exact(logits.clamp_min(-1e4), zipf(exponent=1.0))
    torch.testing.assert_close(value, wanted.float(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gradient, direction.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_teacher_that_says_no_numbers(bad: float) -> None:
    logits = zipf()
    logits[3, 17] = bad
    with pytest.raises(EdgekitError, match="no numbers"):
        kept(logits)


def test_a_vocabulary_without_a_tail() -> None:
    with pytest.raises(EdgekitError, match="16 tokens leaves no tail beside the likeliest: `16`"):
        kept(zipf(vocabulary=16))


@pytest.mark.parametrize(
    "fields",
    [{"top": 0}, {"top": 5000}, {"draws": -1}, {"coolest": 2.0, "hottest": 1.0}, {"coolest": 0.0}, {"hottest": 1e9}],
)
def test_settings_out_of_range(fields: dict[str, float]) -> None:
    with pytest.raises(EdgekitError, match=r"cache keeps|temperatures go"):
        CacheSettings(**fields)  # type: ignore[arg-type]


def test_records_of_strangers() -> None:
    good = records_of(zipf(), torch.rand(ROWS), SMALL)
    assert sound_records(good, SMALL, VOCABULARY)
    assert not sound_records(good, SMALL, int(kept(zipf()).ids.max()))
    for name, place, value in (
        ("ids", (1, 3), good["ids"][1, 2]),  # a token twice
        ("ids", (1, 20), 255),  # an id beyond the vocabulary, among the draws
        ("tails", (2, 0), float("nan")),
        ("tails", (2, 0), float("inf")),
        ("gaps", (0, slice(None)), 7),  # no likeliest token
    ):
        bad = good.copy()
        bad[name][place] = value
        assert not sound_records(bad, SMALL, VOCABULARY), name
