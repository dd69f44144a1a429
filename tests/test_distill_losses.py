"""The chunked losses against the same formulas written out, and against torch's own."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")

from edgekit.distill.heads import Head, head_of  # noqa: E402
from edgekit.distill.losses import DIVERGENCES, LOSSES, distillation_loss  # noqa: E402
from edgekit.distill.sparse import SparseTeacher, sparse_forward_kl  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

VOCABULARY, WIDTH, TEACHER_WIDTH = 77, 12, 20


def case(dtype: Any = None, *, places: tuple[int, ...] = (3, 11), padding: int = 0) -> SimpleNamespace:
    """A batch with labels that do not count, a mask of uneven weights, and both models' states and heads."""
    dtype = dtype or torch.float64
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int, spread: float = 1.0) -> Any:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).to(dtype)

    labels = torch.randint(VOCABULARY, places, generator=generator)
    labels[..., 2] = -100
    mask = torch.rand(places, generator=generator, dtype=torch.float64).to(dtype)
    mask[..., 5] = 0
    return SimpleNamespace(
        hidden=normal(*places, WIDTH).requires_grad_(),
        weight=normal(VOCABULARY + padding, WIDTH, spread=0.7).requires_grad_(),
        bias=normal(VOCABULARY + padding).requires_grad_(),
        teacher=normal(*places, TEACHER_WIDTH),
        teacher_weight=normal(VOCABULARY, TEACHER_WIDTH, spread=0.5),
        labels=labels,
        mask=mask,
    )


def naive_divergence(loss: str, student: Any, teacher: Any, mix: float | None) -> Any:
    p, q = teacher.softmax(-1), student.softmax(-1)
    if loss == "forward_kl":
        return (p * (p / q).log()).sum(-1)
    if loss == "reverse_kl":
        return (q * (q / p).log()).sum(-1)
    share = mix if mix is not None else {"jsd": 0.5, "skew_kl": 0.1}[loss]
    m = share * p + (1 - share) * q
    forward = (p * (p / m).log()).sum(-1)
    return forward if loss == "skew_kl" else share * forward + (1 - share) * (q * (q / m).log()).sum(-1)


def naive(
    c: Any, loss: str, temperature: float, alpha: float, mix: float | None = None, vocabulary: int | None = None
) -> Any:
    """The definition, with every logit at once and autograd."""
    weights = torch.where(c.labels == -100, 0, c.mask)
    logits = c.hidden @ c.weight.T + c.bias
    wanted = c.labels.clamp(min=0)
    ce = -logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    if loss == "relational":
        ours, theirs = (torch.nn.functional.normalize(states, dim=-1) for states in (c.hidden, c.teacher))
        apart = (ours @ ours.mT - theirs @ theirs.mT) ** 2 * weights[..., None] * weights[..., None, :]
        distill = (apart.sum((-1, -2)) / weights.sum(-1)).sum() / weights.sum()
    else:
        common = logits[..., :vocabulary] / temperature
        teacher = (c.teacher @ c.teacher_weight.T)[..., :vocabulary] / temperature
        each = naive_divergence(loss, common, teacher, mix)
        distill = temperature**2 * (each * weights).sum() / weights.sum()
    ce = (ce * weights).sum() / weights.sum()
    return alpha * distill + (1 - alpha) * ce, distill, ce


def gradients(total: Any, c: Any) -> list[Any]:
    return list(torch.autograd.grad(total, (c.hidden, c.weight, c.bias), allow_unused=True))


def assert_same(parts: Any, c: Any, expected: Any, tolerance: float) -> None:
    total, distill, ce = expected
    for ours, theirs in ((parts.total, total), (parts.distill, distill), (parts.ce, ce)):
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=tolerance, abs=tolerance)
    for name, ours, theirs in zip(
        ["hidden", "weight", "bias"], gradients(parts.total, c), gradients(total, c), strict=True
    ):
        if theirs is None or ours is None:
            assert not any(given is not None and given.abs().max() > 0 for given in (ours, theirs)), name
            continue
        assert (ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max())), name


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("name", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_value_and_gradient_are_those_of_the_definition(
    loss: str, temperature: float, alpha: float, name: str, tolerance: float
) -> None:
    c = case(getattr(torch, name))
    parts = distillation_loss(
        c.hidden,
        Head(weight=c.weight, bias=c.bias),
        (c.teacher, c.teacher_weight),
        c.labels,
        c.mask,
        loss=loss,
        temperature=temperature,
        alpha=alpha,
        chunk_tokens=7,
    )
    assert_same(parts, c, naive(c, loss, temperature, alpha), tolerance)
    assert parts.tokens == 3 * 9
    assert parts.weight == pytest.approx(float(torch.where(c.labels == -100, 0, c.mask).sum()))


@pytest.mark.parametrize("loss", sorted(DIVERGENCES))
def test_a_large_vocabulary_in_float32(loss: str) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"hidden": (24, 16), "weight": (20_000, 16), "teacher": (24, 16), "teacher_weight": (20_000, 16)}
    c = SimpleNamespace(**{name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()})
    c.bias, c.mask, c.labels = torch.zeros(20_000), torch.ones(24), torch.arange(24)
    for tensor in (c.hidden, c.weight, c.bias):
        tensor.requires_grad_()
    head = Head(weight=c.weight, bias=c.bias)
    parts = distillation_loss(
        c.hidden, head, (c.teacher, c.teacher_weight), c.labels, loss=loss, temperature=2, chunk_tokens=5
    )
    double = SimpleNamespace(**{name: value.detach().double() for name, value in vars(c).items() if name != "labels"})
    double.labels = c.labels
    for tensor in (double.hidden, double.weight, double.bias):
        tensor.requires_grad_()
    total, _, _ = naive(double, loss, 2, 0.5)
    assert float(parts.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for ours, theirs in zip(gradients(parts.total, c), gradients(total, double), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("mix", [0.1, 0.9])
@pytest.mark.parametrize("loss", ["jsd", "skew_kl"])
def test_the_teachers_share_in_a_mixture(loss: str, mix: float) -> None:
    c = case()
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    parts = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, loss=loss, mix=mix, alpha=0.8)
    assert_same(parts, c, naive(c, loss, 1.0, 0.8, mix), 1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 27, 1000, None])
def test_the_chunk_changes_nothing(chunk: int | None) -> None:
    c = case()
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    parts = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, temperature=3, chunk_tokens=chunk)
    assert_same(parts, c, naive(c, "forward_kl", 3, 0.5), 1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_logits_at_hand_are_as_good_as_states_and_head(masked: bool) -> None:
    c = case()
    if not masked:
        c.labels, c.mask = c.labels.clamp(min=0), torch.ones_like(c.mask)
    logits = c.teacher @ c.teacher_weight.T
    parts = distillation_loss(c.hidden, Head(weight=c.weight, bias=c.bias), logits, c.labels, c.mask, temperature=2)
    assert_same(parts, c, naive(c, "forward_kl", 2, 0.5), 1e-12)


@pytest.mark.parametrize("loss", sorted(DIVERGENCES))
def test_padding_of_either_side_takes_no_part_in_the_divergence(loss: str) -> None:
    c = case(padding=8)
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    common = VOCABULARY - 5  # the teacher is padded as well
    c.labels = c.labels.clamp(max=common - 1)
    parts = distillation_loss(
        c.hidden, head, teacher, c.labels, c.mask, loss=loss, temperature=2, alpha=0.4, vocabulary=common
    )
    assert_same(parts, c, naive(c, loss, 2, 0.4, vocabulary=common), 1e-12)
    only = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, loss=loss, alpha=1, vocabulary=common)
    assert not gradients(only.total, c)[1][common:].any()


def test_a_tied_matrix_gets_both_its_gradients() -> None:
    c = case()
    ids = torch.arange(33).view(3, 11)

    def hidden() -> Any:
        return torch.tanh(c.weight[ids])

    parts = distillation_loss(hidden(), c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask, temperature=2)
    (ours,) = torch.autograd.grad(parts.total, c.weight)
    expected = SimpleNamespace(**{**vars(c), "hidden": hidden(), "bias": 0})
    (theirs,) = torch.autograd.grad(naive(expected, "forward_kl", 2, 0.5)[0], c.weight)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_frozen_head_costs_no_gradient() -> None:
    c = case()
    c.weight.requires_grad_(False)
    parts = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask)
    parts.total.backward()
    assert c.weight.grad is None
    assert c.hidden.grad.abs().max() > 0


def test_plain_cross_entropy_needs_no_teacher() -> None:
    c = case()
    layer = torch.nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)
    parts = distillation_loss(c.hidden, layer, None, c.labels, alpha=0, chunk_tokens=4)
    expected = torch.nn.functional.cross_entropy(layer(c.hidden).flatten(0, 1), c.labels.flatten())
    assert float(parts.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert parts.distill is None
    ours = torch.autograd.grad(parts.total, (c.hidden, *layer.parameters()))
    theirs = torch.autograd.grad(expected, (c.hidden, *layer.parameters()))
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_without_labels_there_is_only_distillation(loss: str) -> None:
    c = case()
    c.labels = c.labels.clamp(min=0)
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    parts = distillation_loss(c.hidden, head, teacher, None, c.mask, loss=loss, alpha=1, chunk_tokens=5)
    assert parts.ce is None
    total, _, _ = naive(c, loss, 1, 1)
    assert float(parts.total.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
    ours, theirs = gradients(parts.total, c)[0], gradients(total, c)[0]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(loss: str) -> None:
    c = case()
    head = Head(weight=c.weight, bias=c.bias)
    teacher = (c.hidden.detach(), Head(weight=c.weight.detach(), bias=c.bias.detach()))
    parts = distillation_loss(c.hidden, head, teacher, None, loss=loss, temperature=1.5, alpha=1)
    assert float(parts.total.detach()) == pytest.approx(0, abs=1e-12)
    assert gradients(parts.total, c)[0].abs().max() < 1e-12


@pytest.mark.parametrize("loss", sorted(DIVERGENCES))
def test_a_token_that_the_teacher_rules_out_is_no_nan(loss: str) -> None:
    c = case(torch.float32)
    logits = (c.teacher @ c.teacher_weight.T).detach()
    logits[..., 3] = -math.inf
    parts = distillation_loss(c.hidden, c.weight, logits, c.labels, c.mask, loss=loss, alpha=1)
    assert math.isfinite(parts.total.detach())
    assert all(g.isfinite().all() for g in torch.autograd.grad(parts.total, (c.hidden, c.weight)))


def test_the_sum_over_a_steps_batches_is_one_large_batch() -> None:
    c = case()
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    whole = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, temperature=2)
    parts = [
        distillation_loss(
            c.hidden[part],
            head,
            (c.teacher[part], c.teacher_weight),
            c.labels[part],
            c.mask[part],
            temperature=2,
            normalizer=whole.weight,
        )
        for part in (slice(0, 1), slice(1, 3))
    ]
    total = sum(part.total for part in parts)
    assert float(total.detach()) == pytest.approx(float(whole.total.detach()), rel=1e-12)
    for ours, theirs in zip(gradients(total, c), gradients(whole.total, c), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_a_batch_of_which_nothing_counts_is_nought() -> None:
    c = case()
    teacher, nothing = (c.teacher, c.teacher_weight), torch.zeros_like(c.mask)
    for loss in LOSSES:
        parts = distillation_loss(c.hidden, c.weight, teacher, c.labels, nothing, loss=loss)
        assert (float(parts.total.detach()), parts.tokens, parts.weight) == (0.0, 0, 0.0)
        assert not torch.autograd.grad(parts.total, c.hidden)[0].any()


def test_an_outer_factor_reaches_the_gradient_and_a_second_backward_is_refused() -> None:
    c = case()
    parts = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask)
    (whole,) = torch.autograd.grad(parts.total, c.hidden)
    again = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask)
    (half,) = torch.autograd.grad(again.total / 2, c.hidden, retain_graph=True)
    assert torch.allclose(half * 2, whole, rtol=0, atol=1e-15)
    with pytest.raises(RuntimeError, match="handed it on already"):
        again.total.backward()


def test_values_alone_need_no_gradient() -> None:
    c = case()
    with torch.no_grad():
        parts = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask)
    assert not parts.total.requires_grad
    learning = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, c.mask)
    assert float(parts.total.detach()) == float(learning.total.detach())


def test_a_cap_and_a_scale_of_the_logits() -> None:
    c = case()
    head = Head(weight=c.weight, bias=c.bias, scale=0.7, cap=3.0)
    teacher = (c.teacher, Head(weight=c.teacher_weight, scale=1.3))
    parts = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, temperature=2)
    logits = 3 * torch.tanh(0.7 * (c.hidden @ c.weight.T + c.bias) / 3)
    p, log_q = (c.teacher @ c.teacher_weight.T * 1.3 / 2).softmax(-1), (logits / 2).log_softmax(-1)
    weights = torch.where(c.labels == -100, 0, c.mask)
    ce = -logits.log_softmax(-1).gather(-1, c.labels.clamp(min=0)[..., None])[..., 0]
    each = 0.5 * 4 * (p * (p.log() - log_q)).sum(-1) + 0.5 * ce
    total = (each * weights).sum() / weights.sum()
    assert float(parts.total.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
    for ours, theirs in zip(gradients(parts.total, c), gradients(total, c), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_autocast_is_within_its_rounding(loss: str) -> None:
    c = case(torch.float32)
    head, teacher = Head(weight=c.weight, bias=c.bias), (c.teacher, c.teacher_weight)
    exact = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, loss=loss, temperature=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = distillation_loss(c.hidden, head, teacher, c.labels, c.mask, loss=loss, temperature=2)
    assert coarse.total.dtype == torch.float32
    assert float(coarse.total.detach()) == pytest.approx(float(exact.total.detach()), rel=2e-2)
    for ours, theirs in zip(gradients(coarse.total, c), gradients(exact.total, c), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm()


def test_models_kept_in_bfloat16_accumulate_in_float32() -> None:
    c = case(torch.bfloat16, places=(64, 8))
    parts = distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels, None, chunk_tokens=8)
    assert parts.total.dtype == torch.float32
    (found,) = torch.autograd.grad(parts.total, c.weight)
    assert found.dtype == torch.bfloat16
    wide = c.weight.detach().float().requires_grad_()
    whole = distillation_loss(c.hidden.float(), wide, (c.teacher.float(), c.teacher_weight.float()), c.labels, None)
    (expected,) = torch.autograd.grad(whole.total, wide)
    assert (found.float() - expected).norm() <= 1e-2 * expected.norm()


# ---- a teacher of which only the likeliest tokens were kept ----------------------------------------------------------


def kept(c: Any, temperature: float, k: int = 9) -> Any:
    """The `k` likeliest tokens and the tail's mass, nothing drawn from it."""
    log_p = (c.teacher @ c.teacher_weight.T / temperature).log_softmax(-1).flatten(0, 1)
    top = log_p.topk(k)
    rest = log_p.scatter(-1, top.indices, -math.inf).logsumexp(-1)
    none = torch.empty(len(log_p), 0)
    return SparseTeacher(
        ids=top.indices,
        log_probs=top.values.float(),
        tail_log_mass=rest.float(),
        tail_ids=none.long(),
        tail_log_probs=none,
        tail_weights=none,
        vocabulary=VOCABULARY,
        temperature=temperature,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("loss", sorted(DIVERGENCES))
def test_a_sparse_teacher_is_compared_token_by_token_and_tail_by_tail(loss: str, temperature: float) -> None:
    c = case(torch.float32, padding=3)
    teacher, head = kept(c, temperature), Head(weight=c.weight, bias=c.bias)
    parts = distillation_loss(
        c.hidden, head, teacher, c.labels, c.mask, loss=loss, temperature=temperature, alpha=1, chunk_tokens=7
    )
    logits = ((c.hidden @ c.weight.T + c.bias)[..., :VOCABULARY] / temperature).flatten(0, 1)
    q = logits.softmax(-1)
    q_top = q.gather(-1, teacher.ids)
    coarse_q = torch.cat((q_top, 1 - q_top.sum(-1, keepdim=True)), -1)
    coarse_p = torch.cat((teacher.log_probs, teacher.tail_log_mass[:, None]), -1)
    each = naive_divergence(loss, coarse_q.log(), coarse_p, None)
    weights = torch.where(c.labels == -100, 0, c.mask).flatten()
    total = temperature**2 * (each * weights).sum() / weights.sum()
    assert float(parts.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for ours, theirs in zip(gradients(parts.total, c), gradients(total, c), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_tokens_drawn_from_the_tail_are_heard() -> None:
    c = case(torch.float32)
    plain = kept(c, 1.0)
    log_p = (c.teacher @ c.teacher_weight.T).log_softmax(-1).flatten(0, 1)
    drawn = log_p.scatter(-1, plain.ids, -math.inf).topk(5).indices
    fields = {name: getattr(plain, name) for name in ("ids", "log_probs", "tail_log_mass", "vocabulary")}
    teacher = SparseTeacher(
        **fields,
        tail_ids=drawn,
        tail_log_probs=log_p.gather(-1, drawn),
        tail_weights=plain.tail_log_mass.exp()[:, None].expand(-1, 5) / 5,
    )
    labels, mask = c.labels.clamp(min=0), torch.ones_like(c.mask)
    parts = distillation_loss(c.hidden, c.weight, teacher, labels, mask, alpha=1, chunk_tokens=7)
    total = sparse_forward_kl(teacher, (c.hidden @ c.weight.T).flatten(0, 1)).mean()
    assert float(parts.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    without = distillation_loss(c.hidden, c.weight, plain, labels, mask, alpha=1)
    assert abs(float(without.total.detach()) - float(total.detach())) > 1e-3
    (ours,), (theirs,) = (torch.autograd.grad(value, c.weight) for value in (parts.total, total))
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "kl"}, "forward_kl, reverse_kl, jsd, skew_kl, relational): `kl`"),
        ({"temperature": 0.0}, "above zero, not `0.0`"),
        ({"temperature": math.nan}, "above zero, not `nan`"),
        ({"alpha": 1.5}, "between 0 and 1, not `1.5`"),
        ({"mix": 0.5}, "only jsd and skew_kl mix"),
        ({"loss": "jsd", "mix": 1.0}, "both excluded, not `1.0`"),
        ({"teacher": None}, "alpha must be 0, not `0.5`"),
        ({"labels": None}, "alpha must be 1, not `0.5`"),
        ({"labels": torch.zeros(3, 10, dtype=torch.long)}, "but labels of shape `(3, 10)`"),
        ({"labels": torch.full((3, 11), VOCABULARY)}, f"but a label is `{VOCABULARY}`"),
        ({"labels": torch.full((3, 11), -1)}, "but a label is `-1`"),
        ({"mask": torch.full((3, 11), -1.0)}, "from 0 on, but the mask holds others"),
        ({"mask": torch.full((3, 11), math.nan)}, "from 0 on, but the mask holds others"),
        ({"mask": torch.ones(33)}, "a mask of shape `(33,)`"),
        ({"normalizer": 0.0}, "not by `0.0`"),
        ({"chunk_tokens": 0}, "at least one token, not `0`"),
        ({"vocabulary": VOCABULARY + 1}, "cannot be common"),
        ({"head": torch.zeros(VOCABULARY, WIDTH + 1)}, f"but the head takes `{WIDTH + 1}`"),
        ({"head": "lm_head"}, "not a `str`"),
        ({"teacher": torch.zeros(3, 11, VOCABULARY + 64)}, f"the teacher's `{VOCABULARY + 64}`"),
        ({"teacher": torch.zeros(3, 10, VOCABULARY)}, f"`(3, 10, {VOCABULARY})`"),
        ({"teacher": (torch.zeros(3, 10, 4), torch.zeros(VOCABULARY, 4))}, "`(3, 10, 4)`"),
        ({"teacher": torch.zeros(3, 11, VOCABULARY), "loss": "relational"}, "`relational`"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(changes: dict[str, Any], words: str) -> None:
    c = case()
    given: dict[str, Any] = {
        "head": c.weight,
        "teacher": (c.teacher, c.teacher_weight),
        "labels": c.labels,
        "mask": c.mask,
        **changes,
    }
    arguments = [given.pop(name) for name in ("head", "teacher", "labels", "mask")]
    with pytest.raises(EdgekitError) as caught:
        distillation_loss(c.hidden, *arguments, **given)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_a_cache_of_another_temperature_or_size_is_refused() -> None:
    c = case(torch.float32)
    with pytest.raises(EdgekitError, match=r"kept at temperature 2\.0, the loss is at `1.0`"):
        distillation_loss(c.hidden, c.weight, kept(c, 2.0), c.labels)
    with pytest.raises(EdgekitError, match="this many distributions: `10`"):
        distillation_loss(c.hidden, c.weight, kept(c, 1.0).part(0, 10), c.labels)


def test_float16_autocast_is_refused() -> None:
    c = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(EdgekitError, match="`float16`"):
        distillation_loss(c.hidden, c.weight, (c.teacher, c.teacher_weight), c.labels)


# ---- heads of models -------------------------------------------------------------------------------------------------


def model(layer: Any, **config: Any) -> Any:
    return SimpleNamespace(get_output_embeddings=lambda: layer, config=SimpleNamespace(**config))


def test_the_head_of_a_model_knows_its_cap_and_scale() -> None:
    layer = torch.nn.Linear(4, 9)
    plain = head_of(model(layer))
    assert (plain.weight is layer.weight, plain.bias is layer.bias, plain.scale, plain.cap) == (True, True, 1.0, None)
    assert head_of(model(layer, final_logit_softcapping=30.0)).cap == 30
    assert head_of(model(layer, logit_scale=0.0625)).scale == 0.0625
    assert head_of(model(layer, logits_scaling=8.0)).scale == 0.125
    with pytest.raises(EdgekitError, match=r"no plain matrix.*`Sequential`"):
        head_of(model(torch.nn.Sequential(layer)))
