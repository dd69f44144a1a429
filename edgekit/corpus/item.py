"""One question with an exact answer, and the rule that says which split a line belongs to."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "calibration", "evaluation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`prompt` ends without a space and `answer` begins without one: the whole line is `f"{prompt} {answer}"`.

    `choices` holds the answer among wrong ones, in a fixed order; an item of mode `generate` has none, and the model's
    own words up to the end of the line must be the answer.
    """

    id: str
    domain: str
    template: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    mode: Literal["choice", "generate"] = "choice"

    @property
    def chance(self) -> float:
        """What guessing scores: 1 ÷ choices, nothing where there are none to guess among."""
        return 1 / len(self.choices) if self.choices else 0.0

    @property
    def line(self) -> str:
        """The item as it stands in the training text."""
        return f"{self.prompt} {self.answer}"


def plain(text: str) -> str:
    """`text` for an exact match: one space between words, no case, no final period."""
    return " ".join(text.split()).casefold().removesuffix(".").rstrip()


def split_of(key: str) -> Split:
    """The split that owns `key`: 65 % train, 15 % calibration, 20 % evaluation.

    By sha256 of the key alone, never by seed: no seed can carry a line from one split into another.
    """
    bucket = _number(key) % 20
    return "train" if bucket < 13 else "calibration" if bucket < 16 else "evaluation"


def share_of(key: str) -> float:
    """A number from 0 to 1 that depends on `key` alone, evenly spread over keys."""
    return (_number(key) >> 11) / 2**53


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def dice(*parts: object) -> random.Random:
    """A generator seeded by the words of `parts`: the same in every process (`hash()` is not)."""
    return random.Random("|".join(map(str, parts)))  # noqa: S311 - text, not secrets


def item_id(domain: str, line: str) -> str:
    """A name that stays the same as long as the line does: `factual-1f0c…`."""
    return f"{domain}-{hashlib.sha256(line.encode()).hexdigest()[:12]}"
