"""The two fact bases, factual and conservation: tables of true, timeless facts, said and asked in many ways.

A line belongs to the split of its own text (a question to that of its text, however it is to be answered), so every
fact is told in the training text in some phrasings and asked in the evaluation split in others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

from edgekit.corpus import comparing, ranger
from edgekit.corpus.exercises import Mode, Templates, pages, streams
from edgekit.corpus.item import Item, Split, dice, item_id, share_of, split_of
from edgekit.corpus.phrasings import OPENERS, QUESTION_OPENERS, QUESTIONS, REVERSED, SHORT, STATEMENTS
from edgekit.corpus.tables import Fact, exclusive, facts, valued

TEMPLATES: dict[str, Templates] = {
    "factual": comparing.FACTUAL,
    "conservation": {**comparing.CONSERVATION, **ranger.TEMPLATES},
}

LINES_PER_DOCUMENT = 6
NOTES_PER_PAGE = 3
CHOICES = 4
FEW_CHOICES = {"active": 3, "group": 3}
"""Where hardly four values exclude each other (by day, at night, at dawn and dusk)."""


SHORT_SHARE = 0.5
"""Of the questions that can be asked for in the model's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One way to ask for a fact: for its value, or (reversed) for its subject."""

    fact: Fact
    template: str
    prompt: str
    answer: str
    mode: Mode

    @property
    def line(self) -> str:
        return f"{self.prompt} {self.answer}"


def documents(split: Split, domain: str, seed: int) -> Iterator[str]:
    """Short notes on one subject each, every line of the split once, subjects and lines in seeded order; and a page of
    exercises on the same facts after every few notes.
    """
    random = dice("documents", domain, seed)
    notes: list[str] = []
    by_subject: dict[str, list[str]] = {}
    for fact in facts(domain):
        by_subject.setdefault(fact.subject, []).extend(lines(split, domain, fact))
    for mine in by_subject.values():
        random.shuffle(mine)
        notes += ["\n".join(mine[at : at + LINES_PER_DOCUMENT]) for at in range(0, len(mine), LINES_PER_DOCUMENT)]
    random.shuffle(notes)
    exercises = pages(TEMPLATES[domain], split, domain, seed)
    for at, note in enumerate(notes, 1):
        yield note
        if at % NOTES_PER_PAGE == 0:
            yield from islice(exercises, 1)


def templates(split: Split, domain: str, seed: int) -> dict[str, Iterator[Item]]:
    """One stream of different questions for each template, in seeded order."""
    found: dict[str, Iterator[Item]] = {}
    for template, groups in _asked(split, domain).items():
        order = list(groups)
        dice("items", domain, template, seed).shuffle(order)
        found[template] = (item for group in order for item in group)
    return found | streams(TEMPLATES[domain], split, domain, seed)


def lines(split: Split, domain: str, fact: Fact) -> Iterator[str]:
    """Everything that a split says of one fact: statements, then questions with their answers."""
    for opener in OPENERS[domain]:
        for statement in STATEMENTS[fact.attribute]:
            sentence = statement.format(n=fact.subject, v=fact.value)
            line = f"{opener} {sentence}." if opener else f"{sentence[:1].upper()}{sentence[1:]}."
            if split_of(line) == split:
                yield line
    yield from (question.line for question in _questions(split, domain, fact))


def _questions(split: Split, domain: str, fact: Fact) -> Iterator[Question]:
    attribute, n, v = fact.attribute, fact.subject, fact.value
    ways = [(attribute, QUESTIONS[attribute], v)]
    if attribute in REVERSED and len(valued(domain, attribute)[v]) == 1:  # else two subjects would be right
        ways.append((f"{attribute}-reversed", REVERSED[attribute], n))
    for template, questions, answer in ways:
        for opener in QUESTION_OPENERS[domain]:
            for question in questions:
                asked = f"{opener} {question.format(n=n, v=v)} Answer"
                key = f"{asked}: {answer}"
                if split_of(key) == split:
                    yield _question(fact, template, key, asked, answer)


def _question(fact: Fact, template: str, key: str, asked: str, answer: str) -> Question:
    short = template in SHORT and share_of(f"mode|{key}") < SHORT_SHARE
    return Question(
        fact=fact,
        template=f"{template}-short" if short else template,
        prompt=f"{asked} {SHORT[template]}:" if short else f"{asked}:",
        answer=answer,
        mode="generate" if short else "choice",
    )


@cache
def _asked(split: Split, domain: str) -> dict[str, tuple[tuple[Item, ...], ...]]:
    """The questions of a split by template, in groups that share their choices; no seed is in it: an item is the same
    in every bank.
    """
    found: dict[str, list[Question]] = {}
    for fact in facts(domain):
        for question in _questions(split, domain, fact):
            found.setdefault(question.template, []).append(question)
    return {
        template: tuple(_grouped(questions) if questions[0].mode == "choice" else ((_item(q, ()),) for q in questions))
        for template, questions in found.items()
    }


def _grouped(questions: list[Question]) -> Iterator[tuple[Item, ...]]:
    """Groups of questions whose answers are wrong for each other: every choice is right once in its group, so who
    knows only what is often right is right no more often than chance. What finds no group is left out.
    """
    random = dice("groups", questions[0].template)
    size = FEW_CHOICES.get(questions[0].template, CHOICES)
    pools: dict[str, list[Question]] = {}
    for question in random.sample(questions, len(questions)):
        pools.setdefault(question.answer, []).append(question)
    while pools:
        group: list[Question] = []
        for pool in sorted(pools.values(), key=len, reverse=True):
            if len(group) < size and all(exclusive(pool[-1].fact, other.fact) for other in group):
                group.append(pool[-1])
        for question in group:
            pools[question.answer].pop()
        pools = {answer: pool for answer, pool in pools.items() if pool}
        if len(group) == size:
            yield tuple(_item(question, _order(question, group)) for question in group)


def _order(question: Question, group: list[Question]) -> tuple[str, ...]:
    choices = [other.answer for other in group]
    return tuple(dice("choices", question.line).sample(choices, len(choices)))


def _item(question: Question, choices: tuple[str, ...]) -> Item:
    return Item(
        id=item_id(question.fact.domain, question.line),
        domain=question.fact.domain,
        template=question.template,
        prompt=question.prompt,
        answer=question.answer,
        choices=choices,
        mode=question.mode,
    )
