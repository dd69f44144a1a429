"""What generated questions share: drawing them until a split has its share, and wrong answers that give nothing away.

Wrong answers are drawn so that who sees only the choices, and not the question, is right no more often than chance:
either the set is drawn first and the right one among it afterwards, or the right number is any of the set's in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from edgekit.corpus.item import Item, Split, dice, item_id, share_of, split_of

PER_PASS = 12_000
"""Exercises of one pass: some 600 kB of text."""

DRY = 300
"""Draws in a row without a new exercise, after which a template has given all it has."""

SHORT_SHARE = 0.3
"""Of the exercises of a template that can be asked for in the model's own words."""

PAGE_CHARACTERS = 900

Mode = Literal["choice", "generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """`key` names the operands without the phrasing: all phrasings of one exercise fall into one split."""

    key: str
    question: str
    answer: str
    wrong: tuple[str, ...]


Drawer = Callable[[Random], Exercise]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How one kind of exercise is drawn and asked.

    `ask` completes `Answer …:` where the model must find the words itself; empty where other words would be right too,
    or where a guess from the question's own words, or from habit, is often right: chance counts as none there.
    `balanced` is for answers that are the same few every time (yes and no): each is right as often as the others.
    """

    draw: Drawer
    ask: str = ""
    balanced: bool = False


Templates = dict[str, Template]


def streams(templates: Templates, split: Split, domain: str, seed: int) -> dict[str, Iterator[Item]]:
    """The different exercises of `split`, one stream for each template and way of asking, each in seeded order."""
    found: dict[str, Iterator[Item]] = {}
    for name, template in templates.items():
        found[name] = _stream(name, template, "choice", split, domain, seed)
        if template.ask:
            found[f"{name}-short"] = _stream(name, template, "generate", split, domain, seed)
    return found


def mixed(found: dict[str, Iterator[Item]], random: Random) -> Iterator[Item]:
    """The items of all streams, evenly mixed, until the last has run dry."""
    names = list(found)
    while names:
        name = random.choice(names)
        item = next(found[name], None)
        if item is None:
            names.remove(name)
        else:
            yield item


def pages(templates: Templates, split: Split, domain: str, seed: int) -> Iterator[str]:
    """One pass of exercises as they are trained on: a line each, about PAGE_CHARACTERS to a page."""
    page: list[str] = []
    drawn = mixed(streams(templates, split, domain, seed), dice("pages", domain, split, seed))
    for _, item in zip(range(PER_PASS), drawn, strict=False):
        page.append(item.line)
        if sum(map(len, page)) > PAGE_CHARACTERS:
            yield "\n".join(page)
            page = []


def one_of(values: Sequence[str], right: str) -> tuple[str, ...]:
    """`values` without `right`."""
    return tuple(value for value in values if value != right)


def listed(words: Sequence[str], last: str = "or") -> str:
    """`a, b or c`."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def steps(random: Random, sizes: Sequence[int], *, room: int | None = None) -> tuple[int, ...]:
    """Three different steps from the right number to wrong ones, none, one, two or all three of them downwards, by
    `room` at most.
    """
    down = [size for size in sizes if room is None or size <= room]
    below = random.randint(0, min(3, len(down)))
    return (*(-size for size in random.sample(down, below)), *random.sample(sizes, 3 - below))


def near(answer: int, random: Random, *, least: int = 0) -> tuple[str, ...]:
    """Three different whole numbers close to `answer` and not below `least`, as text."""
    return tuple(str(answer + step) for step in steps(random, (1, 2, 3, 10), room=answer - least))


def _stream(name: str, template: Template, mode: Mode, split: Split, domain: str, seed: int) -> Iterator[Item]:
    random = dice("exercises", domain, name, mode, split, seed)
    seen: set[str] = set()
    answers: Counter[str] = Counter()
    missed = 0
    while missed < DRY:
        missed += 1
        exercise = template.draw(random)
        key = f"{name}|{exercise.key}"
        if key in seen or split_of(key) != split or _mode(template, key) != mode:
            continue
        if template.balanced and any(answers[exercise.answer] > answers[other] for other in exercise.wrong):
            continue
        seen.add(key)
        answers[exercise.answer] += 1
        missed = 0
        yield _item(name, template, exercise, mode, domain)


def _mode(template: Template, key: str) -> Mode:
    """By the exercise alone: none is asked in both ways."""
    return "generate" if template.ask and share_of(f"mode|{key}") < SHORT_SHARE else "choice"


def _item(name: str, template: Template, exercise: Exercise, mode: Mode, domain: str) -> Item:
    prompt, choices = f"{exercise.question} Answer:", [exercise.answer, *exercise.wrong]
    if mode == "generate":
        prompt, choices = f"{exercise.question} Answer {template.ask}:", []
    dice("choices", prompt).shuffle(choices)
    return Item(
        id=item_id(domain, f"{prompt} {exercise.answer}"),
        domain=domain,
        template=name if mode == "choice" else f"{name}-short",
        prompt=prompt,
        answer=exercise.answer,
        choices=tuple(choices),
        mode=mode,
    )
