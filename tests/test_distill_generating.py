"""A teacher that writes in batches: each sample is its own, what ends it is left out, and settings are the caller's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from students import random_student, task_teacher

torch = pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit import corpus  # noqa: E402
from edgekit.distill import generating  # noqa: E402
from edgekit.distill.generating import Completion, Request, Sampling, generate_with, pick  # noqa: E402
from edgekit.distill.loading import load_model  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402

HOT = Sampling(temperature=1.3, top_p=1.0)


def opened(folder: Path) -> tuple[Any, Any]:
    from tokenizers import Tokenizer

    return load_model(folder, frozen=True), Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def teacher() -> tuple[Any, Any]:
    return opened(task_teacher())


def requests(tokenizer: Any, count: int = 24, *, most: int = 12, stop: tuple[str, ...] = ("\n",)) -> list[Request]:
    """Of every length: prompts of a line and reports of many."""
    items = [item for domain in corpus.DOMAINS for item in corpus.items("train", domain, count=count // 4)]
    return [
        Request(
            id=item.id,
            prompt=item.prompt,
            ids=tuple(tokenizer.encode(item.prompt).ids),
            most_tokens=most,
            stop=stop,
            seed=Request.seed_of(1, item.id),
        )
        for item in items
    ]


def said(
    pair: tuple[Any, Any], asked: Sequence[Request], sampling: Sampling = HOT, batch: int = 64
) -> list[Completion]:
    parts = [asked[begin : begin + batch] for begin in range(0, len(asked), batch)]
    found = dict(generate_with(*pair)(enumerate(parts), sampling))
    return [one for at in range(len(parts)) for one in found[at]]


# ---- picking ---------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([2.0, -1.0, 0.5, -float("inf"), 1.0, 0.5])
GRID = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


def shares(sampling: Sampling) -> torch.Tensor:
    """How much of all numbers falls on each token."""
    picked = pick(LOGITS.expand(len(GRID), -1), GRID, sampling)
    return torch.bincount(picked, minlength=len(LOGITS)) / len(GRID)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_numbers_fall_on_tokens_as_the_softened_distribution_says(temperature: float) -> None:
    wanted = (LOGITS / temperature).softmax(-1)
    assert shares(Sampling(temperature=temperature, top_p=1.0)).sub(wanted).abs().max() < 2e-4


def test_the_nucleus_is_the_fewest_tokens_with_that_share_and_who_is_as_likely_as_its_last() -> None:
    whole = LOGITS.softmax(-1)  # 0.51, 0.03, 0.11, 0, 0.19, 0.11
    for top_p, inside in ((0.5, [0]), (0.6, [0, 4]), (0.75, [0, 2, 4, 5]), (0.98, [0, 1, 2, 4, 5])):
        wanted = torch.zeros_like(whole)
        wanted[inside] = whole[inside] / whole[inside].sum()
        assert shares(Sampling(temperature=1.0, top_p=top_p)).sub(wanted).abs().max() < 2e-4, top_p


def test_a_wide_nucleus_is_found_as_a_narrow_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(200, 500, generator=generator)
    logits[::2] = logits[::2].round()  # many tokens as likely as each other
    numbers = torch.rand(200, generator=generator, dtype=torch.float64)
    sampling = Sampling(temperature=0.8, top_p=0.9)
    whole = pick(logits, numbers, sampling)
    for most in (1, 8, 40):
        monkeypatch.setattr(generating, "_NUCLEUS", most)
        assert torch.equal(pick(logits, numbers, sampling), whole)
    shares = (logits / 0.8).softmax(-1).double()
    likelier = shares.masked_fill(shares <= shares.gather(-1, whole[:, None]), 0).sum(-1)
    assert float(likelier.max()) < 0.9  # else the nucleus would be whole without what was picked


def test_the_ends_of_the_numbers_stay_on_tokens_that_can_be_said() -> None:
    rows = torch.tensor([[-float("inf"), 0.0, 0.0, -float("inf")]]).expand(2, -1)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert pick(rows, ends, Sampling(temperature=1.0, top_p=1.0)).tolist() == [1, 2]
    assert pick(rows + torch.tensor([0, 0, 1, 0]), ends, Sampling(temperature=0.0)).tolist() == [2, 2]


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["task", "gemma3"])
def test_a_sample_does_not_depend_on_its_neighbours(model: str, teacher: tuple[Any, Any]) -> None:
    """Padding, another batch and another place in it change nothing; gemma's sliding window is shorter than prompts."""
    pair = teacher if model == "task" else opened(random_student("gemma3"))
    asked = requests(pair[1], 24 if model == "task" else 8)
    assert max(len(one.ids) for one in asked) > 3 * min(len(one.ids) for one in asked)
    together = said(pair, asked)
    assert same(said(pair, asked[::-1], batch=5)[::-1], together)
    assert same(said(pair, asked[:6], batch=1), together[:6])
    reseeded = said(pair, [replace(one, seed=one.seed + 1) for one in asked])
    assert sum(one.text != other.text for one, other in zip(reseeded, together, strict=True)) > len(asked) // 3


def same(ones: Sequence[Completion], others: Sequence[Completion]) -> bool:
    """The same words; likelihoods up to rounding."""
    pairs = list(zip(ones, others, strict=True))
    return all(replace(a, nats=0) == replace(b, nats=0) and abs(a.nats - b.nats) < 1e-3 for a, b in pairs)


def test_likelihoods_are_the_models_own_whatever_the_temperature(teacher: tuple[Any, Any]) -> None:
    model, tokenizer = teacher
    asked = requests(tokenizer, 16)
    compared = 0
    for request, one in zip(asked, said(teacher, asked), strict=True):
        written = tokenizer.encode(one.text, add_special_tokens=False).ids
        ids = torch.tensor([[*request.ids, *written]])
        with torch.no_grad():
            likely = model(ids).logits[0].log_softmax(-1)
        wanted = sum(float(likely[len(request.ids) - 1 + at, token]) for at, token in enumerate(written))
        if len(written) == one.tokens - one.finished:  # else the text is cut into other tokens than were written
            assert one.nats == pytest.approx(wanted, abs=2e-3)
            compared += 1
    assert compared > 8


def test_what_ends_a_sample_is_counted_and_left_out(teacher: tuple[Any, Any]) -> None:
    model, tokenizer = teacher
    asked = requests(tokenizer, 8, most=40)
    whole = said(teacher, asked, Sampling(temperature=0))
    assert not any("\n" in one.text for one in whole)
    assert sum(one.finished for one in whole) > len(asked) // 2
    (newline,) = tokenizer.encode("\n").ids
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [newline, 3]  # the model's own end in place of ours
    try:
        own = said(teacher, [replace(one, stop=()) for one in asked], Sampling(temperature=0))
        # a token that joins the newline to a letter before it ends a sample of ours, and is no end of the model's
        plain = [at for at, one in enumerate(whole) if tokenizer.encode(f"{one.text}\n").ids[-1] == newline]
        assert len(plain) >= len(asked) // 4
        assert [own[at] for at in plain] == [whole[at] for at in plain]
    finally:
        model.generation_config.eos_token_id = before
    cut = said(teacher, [replace(one, most_tokens=1) for one in asked], Sampling(temperature=0))
    assert [(one.tokens, one.finished) for one in cut] == [(1, one.finished and one.tokens == 1) for one in whole]
    assert all(one.text.startswith(short.text) for one, short in zip(whole, cut, strict=True))
    at, text = next((at, one.text) for at, one in enumerate(whole) if len(one.text) > 4)
    stop = text[1:4]  # of several letters, in the middle of a token or not
    (stopped,) = said(teacher, [replace(asked[at], stop=(stop,))], Sampling(temperature=0))
    assert stopped.text == text[: text.index(stop)]


def test_the_folders_own_settings_are_not_the_samplings(teacher: tuple[Any, Any]) -> None:
    model, tokenizer = teacher
    asked = requests(tokenizer, 8)
    plain = said(teacher, asked)
    before = copy.deepcopy(model.generation_config)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.min_new_tokens = 11
    model.train()
    try:
        assert said(teacher, asked) == plain
        assert model.training
        assert model.generation_config.repetition_penalty == 50.0
    finally:
        model.generation_config = before
        model.eval()


def test_logits_that_are_no_numbers_are_refused() -> None:
    model, tokenizer = opened(random_student("qwen3"))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(EdgekitError, match="logits are no numbers"):
        said((model, tokenizer), requests(tokenizer, 4))


def test_a_batch_too_large_for_memory_is_named(teacher: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = teacher
    asked = requests(tokenizer, 24)

    def failing(**_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to")

    monkeypatch.setattr(model, "generate", failing)
    with pytest.raises(
        EdgekitError, match=r"out of memory while the teacher wrote 24 completions of \d+ \+ 12 tokens"
    ) as at:
        said(teacher, asked)
    assert "`--batch 12`" in at.value.hint
    monkeypatch.setattr(model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        said(teacher, asked)
