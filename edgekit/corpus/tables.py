"""The tables of facts, and which of their values cannot both be true."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

TABLES = {"factual": ("countries.csv", "elements.csv"), "conservation": ("species.csv",)}
KINDS = ("biome", "feeding")
"""Columns that are not told: they keep apart subjects whose values could both be true of one of them."""

_EMPTY_WORDS = {"a", "and", "at", "by", "for", "in", "its", "mainly", "near", "of", "on", "or", "other", "the", "to"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One cell of a table. `kind` is what the subjects of wrong answers must differ in, part by part."""

    domain: str
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
                Fact(domain=domain, table=table, subject=row["name"], attribute=attribute, value=value, kind=kind)
                for attribute, value in row.items()
                if attribute not in ("name", *KINDS) and value
            ]
    return tuple(found)


@cache
def valued(domain: str, attribute: str) -> dict[str, tuple[Fact, ...]]:
    """The facts on one attribute, by value."""
    found: dict[str, list[Fact]] = {}
    for fact in facts(domain):
        if fact.attribute == attribute:
            found.setdefault(fact.value, []).append(fact)
    return {value: tuple(same) for value, same in found.items()}


@cache
def subjects(domain: str) -> dict[str, dict[str, Fact]]:
    """What is known of each subject, by attribute."""
    found: dict[str, dict[str, Fact]] = {}
    for fact in facts(domain):
        found.setdefault(fact.subject, {})[fact.attribute] = fact
    return found


def exclusive(one: Fact, other: Fact) -> bool:
    """Whether the value of neither can be true of the other's subject: no telling word in common, and unlike kinds."""
    if one.table != other.table or one.attribute != other.attribute or words(one.value) & words(other.value):
        return False
    return all(theirs != ours for theirs, ours in zip(one.kind, other.kind, strict=True))


def draw_exclusive(random: Random, domain: str, attribute: str, count: int) -> Sequence[Fact]:
    """`count` facts on one attribute, each excluding the others, values and subjects drawn evenly."""
    groups = valued(domain, attribute)
    while True:
        chosen: list[Fact] = []
        for value in random.sample(list(groups), len(groups)):
            fact = random.choice(groups[value])
            if all(exclusive(fact, other) for other in chosen):
                chosen.append(fact)
            if len(chosen) == count:
                return chosen


@cache
def words(value: str) -> frozenset[str]:
    """Words that carry meaning: values that share one (`fish`, `fish and squid`) may both be right."""
    plain = value.lower().replace(",", " ").replace("-", " ").split()
    return frozenset(word.removesuffix("s") for word in plain if word not in _EMPTY_WORDS) or frozenset({value})
