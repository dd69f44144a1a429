"""What a teacher is asked for training data: questions of the train split, or one's own, plainly or with reasons.

No question that evaluates is asked: the corpus' train split shares none with it, and own questions are held against
the default bank and against the test files that the caller names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from edgekit import corpus
from edgekit.corpus.bank import spread
from edgekit.corpus.item import Item, plain
from edgekit.distill.generating import Request
from edgekit.distill.samples import Sample
from edgekit.errors import EdgekitError
from edgekit.tables import nearest

_ASKED = re.compile(r"\bAnswer\b[^:]{0,200}:$", re.IGNORECASE)
"""How the corpus' questions end: `Answer:`, `Answer with the number only:`. (Without the limit a stranger's line of a
million characters, all of them `Answer `, would be looked at for ten minutes.)"""

_UP_TO_ANSWER = re.compile(r".*?\bAnswer\b[^:\n]{0,200}:", re.IGNORECASE)
_MOST_ASKED = 200
"""Of one template of a recipe's gate; 200 items are its default, over all that it names. (2000 take half a minute.)"""

REASONS = "Reason step by step, then end with `Answer:` and the answer alone."
_FINAL = re.compile(r"\bAnswer:", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a question is put, where the completion ends, and where its final answer stands."""

    prompt: Callable[[Item], str]
    stop: tuple[str, ...]
    final: Callable[[str], str]


def _with_reasons(item: Item) -> str:
    choices = f" Choose one of: {'; '.join(item.choices)}." if item.choices else ""
    return f"{_ASKED.sub('', item.prompt).rstrip()}{choices} {REASONS} Reasoning:"


def _last_answer(completion: str) -> str:
    """What follows the last `Answer:`, up to the end of its line; empty where there is none."""
    found = list(_FINAL.finditer(completion))
    return completion[found[-1].end() :].strip().partition("\n")[0].strip() if found else ""


STYLES: dict[str, Style] = {
    "answer": Style(prompt=lambda item: item.prompt, stop=("\n",), final=lambda completion: completion),
    "rationale": Style(prompt=_with_reasons, stop=("\n\n", "\nQuestion:"), final=_last_answer),
}
"""Name → how it is asked. An answer is one line, reasons may be several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question in one style, with its tokens as the teacher reads them."""

    item: Item
    style: str
    prompt: str
    ids: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"{self.item.id}/{self.style}"

    def requests(self, samples: int, most_tokens: int, seed: int) -> tuple[Request, ...]:
        """One for each sample; its randomness is its own, whatever stands beside it in a batch."""
        return tuple(
            Request(
                id=f"{self.id}/{number}",
                prompt=self.prompt,
                ids=self.ids,
                most_tokens=most_tokens,
                stop=STYLES[self.style].stop,
                seed=Request.seed_of(seed, f"{self.id}/{number}", self.prompt),
            )
            for number in range(1, samples + 1)
        )

    def sample(self, number: int, completion: str, *, tokens: int, nats: float, finished: bool) -> Sample:
        """What was said to the request of that number, not yet judged."""
        text = completion.strip()
        return Sample(
            id=f"{self.id}/{number}",
            item=self.item.id,
            domain=self.item.domain,
            template=self.item.template,
            style=self.style,
            prompt=self.prompt,
            completion=text,
            answer=STYLES[self.style].final(text),
            gold=self.item.answer,
            tokens=tokens,
            nats=nats,
            finished=finished,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, in batches that are the same for whoever asks which of them."""

    batches: tuple[tuple[Ask, ...], ...]
    too_long: int
    held_out: int

    @property
    def asks(self) -> tuple[Ask, ...]:
        return tuple(ask for batch in self.batches for ask in batch)


def questions_of(
    domains: Sequence[str], templates: Collection[str], each: int, seed: int, *, most: int = 0
) -> tuple[Item, ...]:
    """Up to `each` questions of each template of the train split (of all templates, or of those named), spread evenly
    over domains and templates; with `most` no more than so many of all together.

    Raises EdgekitError for an unknown domain or template (with the nearest).
    """
    streams = [corpus.templates("train", domain, seed=seed) for domain in dict.fromkeys(domains)]
    known = [name for domain in streams for name in domain]
    for name in templates:
        if name not in known:
            raise EdgekitError(f"no such template in {', '.join(domains)}: `{name[:60]}`", hint=nearest(name, known))
    chosen = [
        [islice(stream, each) for name, stream in domain.items() if not templates or name in templates]
        for domain in streams
    ]
    return tuple(islice(spread(chosen), most or None))


def evaluated(banks: Iterable[corpus.Bank] = ()) -> frozenset[str]:
    """The questions that models are judged by, bare: those of the default bank, and of `banks`."""
    items = (item for bank in (corpus.task_bank(), *banks) for item in bank.items)
    return frozenset(bare(item.prompt) for item in items)


@cache
def may_be_evaluated() -> frozenset[str]:
    """The same, and the first of every template of the evaluation split: a recipe's gate draws from templates of its
    own.
    """
    streams = (stream for domain in corpus.DOMAINS for stream in corpus.templates("evaluation", domain).values())
    drawn = (bare(item.prompt) for stream in streams for item in islice(stream, _MOST_ASKED))
    return evaluated() | frozenset(drawn)


def is_evaluated(text: str) -> bool:
    """Whether a line of somebody's text is a question that models are judged by, with or without its answer."""
    asked = _UP_TO_ANSWER.match(text)
    return bare(asked[0] if asked else text) in may_be_evaluated()


def bare(prompt: str) -> str:
    """A question without the words that ask for its answer, case and spaces."""
    return plain(_ASKED.sub("", prompt))


def planned(
    tokenizer: Any,
    items: Iterable[Item],
    styles: Sequence[str],
    *,
    most_tokens: dict[str, int],
    questions_a_batch: int,
    context: int | None,
    held_out: Collection[str] = (),
    turn: Callable[[str], str] | None = None,
) -> Plan:
    """The batches of what `items` ask, each question once a style, those of like length together.

    `turn` puts a prompt into the teacher's chat template (`chatting.chat_of`); samples keep the prompt without it.
    `tokenizer` is a `tokenizers.Tokenizer`; `context` the most tokens that the teacher reads and writes. Raises
    EdgekitError where nothing is left to ask.
    """
    asks: dict[tuple[str, str], Ask] = {}
    too_long = kept_out = 0
    for item in items:
        if bare(item.prompt) in held_out:
            kept_out += 1
            continue
        for style in styles:
            prompt = STYLES[style].prompt(item)
            # a template writes the special tokens itself
            asked = tokenizer.encode(turn(prompt), add_special_tokens=False) if turn else tokenizer.encode(prompt)
            ids = tuple(asked.ids)
            if context is not None and len(ids) + most_tokens[style] > context:
                too_long += 1
                continue
            asks.setdefault((style, plain(prompt)), Ask(item=item, style=style, prompt=prompt, ids=ids))
    if not asks:
        raise EdgekitError(
            f"nothing to ask the teacher: {too_long} questions are too long, and evaluations hold `{kept_out}`"
        )
    return Plan(batches=tuple(_batches(asks.values(), questions_a_batch)), too_long=too_long, held_out=kept_out)


def _batches(asks: Iterable[Ask], size: int) -> Iterator[tuple[Ask, ...]]:
    """Of one style each, since styles write differently much."""
    by_style: dict[str, list[Ask]] = {}
    for ask in sorted(asks, key=lambda ask: (len(ask.ids), ask.id)):
        by_style.setdefault(ask.style, []).append(ask)
    for same in by_style.values():
        for begin in range(0, len(same), size):
            yield tuple(same[begin : begin + size])
