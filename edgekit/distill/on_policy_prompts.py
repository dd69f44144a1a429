"""What an on-policy student is asked to complete: questions of the train split, in an order of the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edgekit import corpus
from edgekit.distill.asking import STYLES, bare, may_be_evaluated, questions_of
from edgekit.distill.generating import Request
from edgekit.distill.recipe_parts import OnPolicy
from edgekit.errors import EdgekitError, import_extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """`texts` to complete; a completion ends at any token of `stops`, at the model's own end, or after `most_tokens`.
    `left_out` were too long, or held out.
    """

    texts: tuple[str, ...]
    most_tokens: int
    stops: tuple[int, ...]
    left_out: int = 0

    @property
    def sha256(self) -> str:
        """Of all that is asked, and where completions end."""
        said = repr((self.texts, self.most_tokens, self.stops))
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def note(self) -> str:
        """What there is to tell of them."""
        words = (
            f"the student completed {len(self.texts)} prompts of the train split, in up to {self.most_tokens} tokens"
        )
        return words + (f"; {self.left_out} that are too long or held out were left out" if self.left_out else "")

    def at(self, place: int, seed: int) -> str:
        """The prompt at that place (from 0) of an endless list: all are asked once before any is asked again."""
        count = len(self.texts)
        return self.texts[_order(count, seed, place // count)[place % count]]


def prompts_of(
    asked: OnPolicy,
    tokenizer: Any,
    *,
    length: int,
    templates: tuple[str, ...],
    seed: int,
    besides: Collection[str] = (),
) -> Prompts:
    """The questions that `asked` names (without templates of its own: `templates`), those left out that are longer than
    `length` tokens with their completion, or that models are evaluated by; `besides` are further ones that are held
    out, bare.

    `tokenizer` is a `tokenizers.Tokenizer`. Raises EdgekitError for unknown domains and templates, and where nothing is
    left to ask.
    """
    domains = asked.domains or corpus.DOMAINS
    # the first questions of the same seed are those that earlier stages saw
    items = questions_of(domains, asked.templates or templates, asked.each, seed + 1, most=asked.questions)
    room, judged = length - asked.most_tokens, may_be_evaluated() | frozenset(besides)
    found, left_out = [], 0
    put = STYLES[asked.style].prompt
    for text in dict.fromkeys(put(item) for item in items if bare(item.prompt) not in judged):
        fits = len(tokenizer.encode(text).ids) <= room
        found += [text] if fits else []
        left_out += not fits
    left_out += sum(bare(item.prompt) in judged for item in items)
    if not found:
        raise EdgekitError(
            f"no prompt is left for the student to complete in a `length` of `{length}`",
            hint=f"make it longer, or `most_tokens` (now {asked.most_tokens}) less",
        )
    stops = _with_a_line_end(tokenizer) if asked.style == "answer" else ()
    return Prompts(texts=tuple(found), most_tokens=asked.most_tokens, stops=stops, left_out=left_out)


def _with_a_line_end(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a line, alone or with other signs: an answer is one line."""
    count = tokenizer.get_vocab_size()
    texts = tokenizer.decode_batch([[token] for token in range(count)], skip_special_tokens=True)
    return tuple(token for token, text in enumerate(texts) if "\n" in text)


@lru_cache(maxsize=2)  # a batch may be of two passes
def _order(count: int, seed: int, number: int) -> list[int]:
    """The order of pass `number`, a function of the seed alone: a resumed run asks on where it was."""
    torch = import_extra("torch", extra="distill")
    generator = torch.Generator().manual_seed(Request.seed_of("prompts", seed, number))
    found: list[int] = torch.randperm(count, generator=generator).tolist()
    return found
