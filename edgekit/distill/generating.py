"""A transformers model that completes prompts in batches, each sample with a randomness of its own.

What a request gets depends on the request and the model alone: the numbers that choose its tokens are drawn from its
seed, and a token is found by the inverse of the distribution in the order of the vocabulary, which a rounding error
moves no further than itself. Arithmetic in another batch rounds otherwise: asked alone and 32 at a time, 1 of 3000
samples (15 321 tokens, temperature 1) differed in float32, in bfloat16 24 of 500 (`benchmarks/synthesis.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.distill.fitting import is_out_of_memory
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to be written: `ids` are the tokens of `prompt`, and writing ends at any of `stop`, at the model's
    own end, or after `most_tokens`.
    """

    id: str
    prompt: str
    ids: tuple[int, ...]
    most_tokens: int
    stop: tuple[str, ...]
    seed: int

    @staticmethod
    def seed_of(*parts: object) -> int:
        """A seed of 63 bits that depends on `parts` alone."""
        return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was written, without what ended it. `tokens` counts the ending one too, `nats` is the log-likelihood of the
    others at temperature 1; `finished` is false where `most_tokens` ended it.
    """

    text: str
    tokens: int
    nats: float
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """`temperature` 0 takes the likeliest token; `top_p` keeps the likeliest tokens that hold this share together."""

    temperature: float = 0.7
    top_p: float = 0.95


_NUCLEUS = 1024
"""Tokens that a nucleus hardly ever exceeds: ranking 152 thousand of them a row costs more than a small model does."""

Batches = Iterable[tuple[int, Sequence[Request]]]
Generate = Callable[[Batches, Sampling], Iterator[tuple[int, Sequence[Completion]]]]
"""Numbered batches of requests to the completions of each, as they are finished, in any order of batches."""


def generate_with(model: Any, tokenizer: Any) -> Generate:
    """`Generate` of a transformers causal LM, on the device where it is, by its own `generate` (with its KV cache,
    prompts padded on the left). `tokenizer` is a `tokenizers.Tokenizer`.

    It raises EdgekitError for logits that are no numbers, and names the batch that was too large for memory.
    """

    def generate(batches: Batches, sampling: Sampling) -> Iterator[tuple[int, Sequence[Completion]]]:
        with _own_settings(model) as ends:
            for number, requests in batches:
                yield number, _complete(model, tokenizer, requests, sampling, ends)

    return generate


def generate_from(load: Callable[[], Any], tokenizer: Any) -> Generate:
    """`generate_with` of the model that `load` gives, once the first batch is asked for: gigabytes are not read for
    samples that stand already.
    """

    def generate(batches: Batches, sampling: Sampling) -> Iterator[tuple[int, Sequence[Completion]]]:
        yield from generate_with(load(), tokenizer)(batches, sampling)

    return generate


def _complete(
    model: Any, tokenizer: Any, requests: Sequence[Request], sampling: Sampling, ends: tuple[int, ...]
) -> list[Completion]:
    torch = import_extra("torch", extra="distill")
    generation = import_extra("transformers.generation", extra="distill")
    width, most = max(len(one.ids) for one in requests), max(one.most_tokens for one in requests)
    ids = torch.tensor([[0] * (width - len(one.ids)) + list(one.ids) for one in requests])
    mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in requests])
    picker, ender = _Picker(torch, requests, sampling, most), _Ender(torch, tokenizer, requests, width)
    settings = generation.GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=list(ends) or None, pad_token_id=ends[0] if ends else 0
    )
    try:
        with torch.no_grad():
            written = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=generation.LogitsProcessorList([picker]),
                stopping_criteria=generation.StoppingCriteriaList([ender]),
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EdgekitError(
            f"out of memory while the teacher wrote {len(requests)} completions of {width} + {most} tokens at a time",
            hint=f"ask fewer at a time: `--batch {max(1, len(requests) // 2)}`",
        ) from None
    tokens, nats = written[:, width:].tolist(), torch.stack(picker.nats, 1).double().tolist()
    return [
        _completion(tokenizer, request, mine, likely, ender.ended[row], ends)
        for row, (request, mine, likely) in enumerate(zip(requests, tokens, nats, strict=True))
    ]


def _completion(
    tokenizer: Any, request: Request, tokens: list[int], nats: list[float], stopped: int | None, ends: tuple[int, ...]
) -> Completion:
    own_end = next((at + 1 for at, token in enumerate(tokens) if token in ends), None)
    end = min((at for at in (stopped, own_end, request.most_tokens) if at is not None), default=len(tokens))
    finished = end in (stopped, own_end)
    said = tokens[: end - 1] if end == own_end else tokens[:end]
    text: str = tokenizer.decode(said)
    cut = min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=len(text))
    return Completion(
        text=text[:cut], tokens=end, nats=round(sum(nats[: end - 1 if finished else end]), 4), finished=finished
    )


@contextmanager
def _own_settings(model: Any) -> Iterator[tuple[int, ...]]:
    """The model's end tokens; within, it samples as it is told, and not as its folder suggests (a penalty, a top-k)."""
    generation = import_extra("transformers.generation", extra="distill")
    own, training = model.generation_config, model.training
    ends = ends_of(model)
    model.generation_config = generation.GenerationConfig()
    model.eval()
    try:
        yield ends
    finally:
        model.generation_config = own
        model.train(training)


def ends_of(model: Any) -> tuple[int, ...]:
    """The tokens that end what a transformers model writes; none where its folder names none."""
    own = model.generation_config
    found = own.eos_token_id if own is not None else None
    found = model.config.get_text_config().eos_token_id if found is None else found
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)


class _Picker:
    """A logits processor that leaves one token a row: the one that the row's own next number falls on."""

    def __init__(self, torch: Any, requests: Sequence[Request], sampling: Sampling, most: int) -> None:
        self.torch, self.sampling, self.nats = torch, sampling, []  # type: Any, Sampling, list[torch.Tensor]
        drawn = [random.Random(one.seed) for one in requests]  # noqa: S311 - text, not secrets
        self.numbers = torch.tensor([[one.random() for _ in range(most)] for one in drawn], dtype=torch.float64)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        if not bool(self.torch.isfinite(scores.amax(-1)).all()):
            raise EdgekitError("the teacher's logits are no numbers", hint="is the checkpoint whole?")
        number = self.numbers[:, len(self.nats)].to(scores.device)
        picked = pick(scores, number, self.sampling)
        self.nats.append((scores.gather(-1, picked[:, None])[:, 0] - scores.logsumexp(-1)).cpu())
        alone: torch.Tensor = self.torch.full_like(scores, -float("inf"))
        return alone.scatter_(-1, picked[:, None], 0.0)


def pick(logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The token of each row of `logits` (rows, vocabulary) float32 that `numbers` (rows,) float64 in [0, 1) fall on:
    inverse-transform sampling (Devroye 1986, §III.2) of the softened distribution, cut to its nucleus (Holtzman et al.
    2020), tokens in the order of the vocabulary. Tokens as likely as the nucleus' last belong to it.
    """
    if sampling.temperature == 0:
        likeliest: torch.Tensor = logits.argmax(-1)
        return likeliest
    scaled = logits / sampling.temperature
    if sampling.top_p == 1:
        return _reached(scaled.softmax(-1), numbers)
    nucleus = _narrow(scaled, sampling.top_p)
    if nucleus is None:
        return _reached(_wide(scaled, sampling.top_p), numbers)
    inside, tokens = nucleus
    token: torch.Tensor = tokens.gather(-1, _reached(inside, numbers)[:, None])[:, 0]
    return token


def _narrow(scaled: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(shares, tokens) of the likeliest tokens, in the order of the vocabulary, with nothing for those outside the
    nucleus; None where it may reach further than they do.
    """
    if scaled.shape[-1] <= _NUCLEUS:
        return None
    found = scaled.topk(_NUCLEUS, -1)
    ranked = (found.values - scaled.logsumexp(-1, keepdim=True)).exp()
    least = _least(ranked, top_p)
    if bool((ranked[:, -1:] >= least).any()):
        return None
    tokens, order = found.indices.sort(-1)
    return (ranked * (ranked >= least)).gather(-1, order), tokens


def _wide(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """The shares of all tokens, nothing for those outside the nucleus."""
    shares = scaled.softmax(-1)
    return shares * (shares >= _least(shares.sort(-1, descending=True).values, top_p))


def _least(ranked: torch.Tensor, top_p: float) -> torch.Tensor:
    """The share of the nucleus' last token, (rows, 1), of shares from the largest down."""
    inside = (ranked.double().cumsum(-1) - ranked) < top_p
    return ranked.gather(-1, inside.sum(-1, keepdim=True) - 1)


def _reached(shares: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first place of each row up to which `shares` hold more than this part of their sum."""
    reached = shares.double().cumsum(-1)
    passed: torch.Tensor = reached <= numbers[:, None] * reached[:, -1:]
    place: torch.Tensor = passed.sum(-1).clamp_max(shares.shape[-1] - 1)
    return place


class _Ender:
    """A stopping criterion: a row has ended where its text holds one of its stops. `ended` is after how many tokens."""

    def __init__(self, torch: Any, tokenizer: Any, requests: Sequence[Request], width: int) -> None:
        self.torch, self.tokenizer, self.requests, self.width = torch, tokenizer, requests, width
        self.ended: list[int | None] = [None] * len(requests)
        self.tail = max((len(stop.encode()) for one in requests for stop in one.stop), default=1)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        open_rows = [row for row, end in enumerate(self.ended) if end is None]
        begin = max(self.width, input_ids.shape[1] - self.tail)  # a stop has no more tokens than bytes
        texts = self.tokenizer.decode_batch(input_ids[open_rows, begin:].tolist())
        for row, text in zip(open_rows, texts, strict=True):
            if any(stop in text for stop in self.requests[row].stop):
                self.ended[row] = input_ids.shape[1] - self.width
        done: torch.Tensor = self.torch.tensor([end is not None for end in self.ended], device=input_ids.device)
        return done
