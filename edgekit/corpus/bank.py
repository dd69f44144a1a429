"""Banks of questions with exact answers: edgekit's own, spread evenly over domains and templates, and their size."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.corpus.item import Item
from edgekit.errors import EdgekitError

NAME = "edgekit-tasks"
VERSION = 1
"""Raised when the same items, domains and seed give other questions: answers to another version are not compared."""

Z_90 = 1.6449
TEACHER_ABOVE_CHANCE = 0.6
"""Accuracy of a good teacher (85 %) less that of guessing among four choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """Questions in the order in which they are asked. `name` is for people; `sha256` says which questions they are."""

    name: str
    version: int = VERSION
    items: tuple[Item, ...]

    @property
    def sha256(self) -> str:
        """Of every field of every item, in order; the bank's name is no part of it."""
        digest = hashlib.sha256(b"edgekit bank 1\n")
        for item in self.items:
            fields = (item.id, item.domain, item.template, item.mode, item.prompt, item.answer, item.choices)
            digest.update(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    @property
    def domains(self) -> tuple[str, ...]:
        """Those of the items, in the order in which they first occur."""
        return tuple(dict.fromkeys(item.domain for item in self.items))


def spread(streams: Sequence[Sequence[Iterator[Item]]]) -> Iterator[Item]:
    """The items of all streams, one domain (outer) after the other and, within it, one template (inner) after the
    other; streams that run dry are passed over. A shorter bank is therefore the beginning of a longer one.
    """
    domains = [list(templates) for templates in streams]
    while any(domains):
        for templates in domains:
            while templates:
                stream = templates.pop(0)
                item = next(stream, None)
                if item is not None:
                    templates.append(stream)
                    yield item
                    break


def items_for(
    half_width: float, *, discordance: float = 0.21, teacher_above_chance: float = TEACHER_ABOVE_CHANCE
) -> int:
    """How many items the 90 % range of retention takes to be ± `half_width` (a share: 0.02 is two points).

    Retention divides a difference of two accuracies on the same items by `teacher_above_chance`. The standard error of
    that difference is √(discordance ÷ n), where `discordance` is the share of items that exactly one of the two
    answers rightly (McNemar 1947; Fleiss, Statistical Methods for Rates and Proportions, §13.1, leaving out the
    squared difference, which only narrows it): n = z² · discordance ÷ (half_width · teacher_above_chance)².
    2165 items give ± 2.7 points and 3945 give ± 2; questions of one template that stand or fall together take more.
    Raises EdgekitError for shares that are none.
    """
    for name, share in (("half-width", half_width), ("discordance", discordance), ("margin", teacher_above_chance)):
        if not 0 < share <= 1:
            raise EdgekitError(f"the {name} must be a share above 0 and not above 1: `{share}`")
    return math.ceil(Z_90**2 * discordance / (half_width * teacher_above_chance) ** 2)
