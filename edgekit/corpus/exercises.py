"""What generated exercises share: drawing them until a split has its share, and three wrong answers for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from edgekit.corpus.item import Item, Split, dice, item_id, split_of

PER_PASS = 20_000
"""Exercises of one pass: about 1 MB of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """`key` names the operands without the phrasing: all phrasings of one exercise fall into one split."""

    key: str
    question: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return f"{self.question} Answer:"

    @property
    def line(self) -> str:
        return f"{self.prompt} {self.answer}"


Drawer = Callable[[Random], Exercise]


def draw(drawers: dict[str, Drawer], split: Split, domain: str, seed: int) -> Iterator[tuple[str, Exercise]]:
    """Up to PER_PASS different exercises of `split` and their templates' names, mixed evenly, in seeded order."""
    random = dice("exercises", domain, split, seed)
    seen: set[str] = set()
    names = tuple(drawers)
    for _ in range(PER_PASS * 4):  # a small template runs dry: its repeats are passed over, not waited for
        name = random.choice(names)
        exercise = drawers[name](random)
        if split_of(f"{name}|{exercise.key}") != split or exercise.question in seen:
            continue
        seen.add(exercise.question)
        yield name, exercise
        if len(seen) == PER_PASS:
            return


def draw_items(drawers: dict[str, Drawer], split: Split, domain: str, seed: int) -> Iterator[Item]:
    """The same exercises as items."""
    for template, exercise in draw(drawers, split, domain, seed):
        choices = list(dict.fromkeys((exercise.answer, *exercise.wrong)))[:4]
        dice("choices", exercise.prompt).shuffle(choices)
        yield Item(
            id=item_id(domain, exercise.line),
            domain=domain,
            template=template,
            prompt=exercise.prompt,
            answer=exercise.answer,
            choices=tuple(choices),
        )


def draw_pages(drawers: dict[str, Drawer], split: Split, domain: str, seed: int, *, lines: int) -> Iterator[str]:
    """The same exercises as pages of `lines` lines."""
    page: list[str] = []
    for _, exercise in draw(drawers, split, domain, seed):
        page.append(exercise.line)
        if len(page) == lines:
            yield "\n".join(page)
            page = []


def near(answer: int, random: Random) -> tuple[str, ...]:
    """Three different whole numbers close to `answer`, as text."""
    steps = random.sample((-10, -2, -1, 1, 2, 10), 3)
    return tuple(str(answer + step) for step in steps)
