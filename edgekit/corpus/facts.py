"""The two fact bases, factual and conservation: tables of true, timeless facts, said and asked in many ways.

A line belongs to the split of its own text, so every fact is told in the training text in some phrasings and asked in
the evaluation split in others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from edgekit.corpus.item import Item, Split, dice, item_id, split_of
from edgekit.corpus.phrasings import OPENERS, QUESTION_OPENERS, QUESTIONS, STATEMENTS

TABLES = {"factual": ("countries.csv", "elements.csv"), "conservation": ("species.csv",)}
KINDS = ("biome", "feeding")
"""Columns that are not told: they keep apart subjects whose values could both be true of one of them."""

LINES_PER_DOCUMENT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One cell of a table. `kind` is what the subject's distractors must differ in, part by part."""

    table: str
    subject: str
    attribute: str
    value: str
    kind: tuple[str, ...]


@cache
def facts(domain: str) -> tuple[Fact, ...]:
    """Every fact of `domain`, in the order of its tables; an empty cell is no fact (no single true answer)."""
    found: list[Fact] = []
    for table in TABLES[domain]:
        source = (files("edgekit.corpus") / table).read_text(encoding="utf-8")
        for row in csv.DictReader(source.splitlines(), delimiter=";"):
            kind = tuple(row[column] for column in KINDS if column in row)
            found += [
                Fact(table=table, subject=row["name"], attribute=attribute, value=value, kind=kind)
                for attribute, value in row.items()
                if attribute not in ("name", *KINDS) and value
            ]
    return tuple(found)


def documents(split: Split, domain: str, seed: int) -> Iterator[str]:
    """Short notes on one subject each: every line of the split once, subjects and lines in seeded order."""
    random = dice("documents", domain, seed)
    notes: list[str] = []
    subjects = dict.fromkeys(fact.subject for fact in facts(domain))
    for subject in subjects:
        lines = [line for fact in facts(domain) if fact.subject == subject for line in _lines(domain, fact)]
        mine = [line for line in lines if split_of(line) == split]
        random.shuffle(mine)
        notes += ["\n".join(mine[at : at + LINES_PER_DOCUMENT]) for at in range(0, len(mine), LINES_PER_DOCUMENT)]
    random.shuffle(notes)
    yield from notes


def items(split: Split, domain: str, seed: int) -> Iterator[Item]:
    """Every question of the split once, in seeded order, with three wrong answers from unlike subjects."""
    random = dice("items", domain, seed)
    mine = [
        (fact, prompt)
        for fact in facts(domain)
        for prompt in _prompts(domain, fact)
        if split_of(f"{prompt} {fact.value}") == split
    ]
    random.shuffle(mine)
    for fact, prompt in mine:
        line = f"{prompt} {fact.value}"
        yield Item(
            id=item_id(domain, line),
            domain=domain,
            template=fact.attribute,
            prompt=prompt,
            answer=fact.value,
            choices=_choices(domain, fact, line),
        )


def _lines(domain: str, fact: Fact) -> Iterator[str]:
    for opener in OPENERS[domain]:
        for statement in STATEMENTS[fact.attribute]:
            sentence = statement.format(n=fact.subject, v=fact.value)
            yield (f"{opener} {sentence}." if opener else f"{sentence[:1].upper()}{sentence[1:]}.")
    for prompt in _prompts(domain, fact):
        yield f"{prompt} {fact.value}"


def _prompts(domain: str, fact: Fact) -> Iterator[str]:
    for opener in QUESTION_OPENERS[domain]:
        for question in QUESTIONS[fact.attribute]:
            yield f"{opener} {question.format(n=fact.subject)} Answer:"


def _choices(domain: str, fact: Fact, line: str) -> tuple[str, ...]:
    """The answer and three values of the same attribute that cannot be true of the subject, shuffled by the line."""
    random = dice("choices", line)
    values = list(dict.fromkeys(other.value for other in facts(domain) if _wrong(other, fact)))
    chosen = [fact.value, *random.sample(values, min(3, len(values)))]
    random.shuffle(chosen)
    return tuple(chosen)


def _wrong(other: Fact, fact: Fact) -> bool:
    if other.table != fact.table or other.attribute != fact.attribute or _words(other.value) & _words(fact.value):
        return False
    return all(theirs != ours for theirs, ours in zip(other.kind, fact.kind, strict=True))


def _words(value: str) -> set[str]:
    """Words that carry meaning: values that share one (`fish`, `fish and squid`) may both be right."""
    return {word for word in value.lower().replace(",", "").split() if len(word) > 3} or {value.lower()}
