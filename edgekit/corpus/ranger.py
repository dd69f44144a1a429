"""Questions of a ranger's day: which animal a note describes, what a patrol report shows, what the handbook says.

Reports are put together from `patrol.toml`; notes and rules are the facts of `species.csv`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from edgekit.corpus.exercises import Exercise, Template, Templates, near, one_of
from edgekit.corpus.tables import Fact, draw_exclusive, subjects, valued, words

LABELS = {
    "group": "group",
    "region": "range",
    "habitat": "home",
    "diet": "food",
    "active": "active",
    "mark": "mark",
    "threat": "threat",
}
NOTES = (
    "Field note: {told}. Which animal is it?",
    "A ranger writes: {told}. Which animal is meant?",
    "Which animal fits this note: {told}?",
)
YES_NO = ("yes", "no")
REPORT_LINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One patrol report. `blocks` are those of its lines, in order; `threat_block` is empty where none has a threat."""

    text: str
    blocks: tuple[str, ...]
    threat_block: str
    seen: tuple[tuple[str, int], ...]
    """Animals and how many of them."""


@cache
def parts() -> dict[str, Any]:
    """What reports are made of: `blocks`, `teams`, `regions`, `cleared`, `plain`, and `threats` by key."""
    found: dict[str, Any] = tomllib.loads((files("edgekit.corpus") / "patrol.toml").read_text(encoding="utf-8"))
    return found


def _identify(random: Random) -> Exercise:
    rest = [attribute for attribute in LABELS if attribute != "mark"]
    return _described(random, ("mark", *random.sample(rest, random.randint(2, 3))))


def _trace(random: Random) -> Exercise:
    """Without the mark: home and food, and what else was noted."""
    rest = ("group", "region", "active", "threat")
    return _described(random, ("habitat", "diet", *random.sample(rest, random.randint(1, 3))))


def _described(random: Random, told: Sequence[str]) -> Exercise:
    known = subjects("conservation")
    chosen = _tellable(random, told)
    right = random.choice(chosen)
    order = random.sample(told, len(told))
    note = "; ".join(f"{LABELS[attribute]}: {known[right][attribute].value}" for attribute in order)
    return Exercise(
        key=f"{right}|{','.join(sorted(told))}",
        question=random.choice(NOTES).format(told=note),
        answer=right,
        wrong=one_of(chosen, right),
    )


def _tellable(random: Random, told: Sequence[str]) -> list[str]:
    """Four animals that what is told keeps apart, half of the time of one group or region: harder to tell apart."""
    known = subjects("conservation")
    names = random.sample(list(known), len(known))
    if random.random() < 0.5:
        alike = random.choice(("group", "region"))
        first = known[names[0]][alike].value
        names.sort(key=lambda name: known[name][alike].value != first)
    chosen: list[str] = []
    for name in names:
        if len(chosen) < 4 and all(_apart(known[name], known[other], told) for other in chosen):
            chosen.append(name)
    return chosen


def _apart(one: dict[str, Fact], other: dict[str, Fact], told: Sequence[str]) -> bool:
    """Whether a description by `told` fits only one of two animals: two facts (the mark among them, where it is told)
    without a word in common, and another biome or food.
    """
    unlike = {attribute for attribute in told if not words(one[attribute].value) & words(other[attribute].value)}
    if "mark" in told and "mark" not in unlike:
        return False
    return len(unlike) >= 2 and one["mark"].kind != other["mark"].kind


def _threat(random: Random) -> Exercise:
    keys = random.sample(list(parts()["threats"]), 4)
    right = random.choice(keys)
    name = {key: parts()["threats"][key]["name"] for key in keys}
    report = _report(random, right)
    return Exercise(
        key=report.text,
        question=f"{report.text} Which threat does the report show?",
        answer=name[right],
        wrong=tuple(name[key] for key in keys if key != right),
    )


def _any_threat(random: Random) -> Exercise:
    answer = random.choice(YES_NO)
    report = _report(random, random.choice(list(parts()["threats"])) if answer == "yes" else None)
    return Exercise(
        key=report.text,
        question=f"{report.text} Does the report show a threat?",
        answer=answer,
        wrong=one_of(YES_NO, answer),
    )


def _where(random: Random) -> Exercise:
    report = _report(random, random.choice(list(parts()["threats"])))
    return Exercise(
        key=report.text,
        question=f"{report.text} In which block is the threat?",
        answer=report.threat_block,
        wrong=one_of(report.blocks, report.threat_block),
    )


def _seen(random: Random) -> Exercise:
    report = _report(random, None, alarming=False)  # other lines may speak of animals too
    ((animal, _),) = report.seen
    region = subjects("conservation")[animal]["region"].value
    others = [fact.subject for fact in valued("conservation", "region")[region] if fact.subject != animal]
    return Exercise(
        key=report.text,
        question=f"{report.text} Which animal did the team see?",
        answer=animal,
        wrong=tuple(random.sample(others, 3)),
    )


def _total(random: Random) -> Exercise:
    report = _report(random, random.choice((None, *parts()["threats"])), sightings=2)
    (one, _), (other, _) = report.seen
    total = sum(count for _, count in report.seen)
    return Exercise(
        key=report.text,
        question=f"{report.text} How many did the team see, {one} and {other} together?",
        answer=str(total),
        wrong=near(total, random),
    )


def _report(random: Random, threat: str | None, *, sightings: int = 1, alarming: bool = True) -> Report:
    """Four lines from different blocks: sightings, the sign of the threat if there is one, and lines without threat.
    As many of those sound like one whether or not there is one.
    """
    known = parts()
    region = random.choice(known["regions"])
    animals = random.sample([fact.subject for fact in valued("conservation", "region")[region]], sightings)
    seen = tuple((animal, random.randint(2, 19)) for animal in animals)
    told = [f"{animal} seen, {count} of them" for animal, count in seen]
    if threat:
        told.append(random.choice(known["threats"][threat]["signs"]))
    if alarming and random.random() < 0.5:
        told.append(random.choice(known["cleared"]))
    told += random.sample(known["plain"], REPORT_LINES - len(told))
    sign = told[sightings] if threat else ""
    random.shuffle(told)
    blocks = tuple(random.sample(known["blocks"], REPORT_LINES))
    lines = [
        f"Block {block}: {line.format(n=random.randint(2, 19))}." for block, line in zip(blocks, told, strict=True)
    ]
    begun = f"{random.randint(5, 17):02d}:{random.randrange(0, 60, 5):02d}"
    return Report(
        text=f"Patrol report, team {random.choice(known['teams'])}, {begun}. {' '.join(lines)}",
        blocks=blocks,
        threat_block=blocks[told.index(sign)] if threat else "",
        seen=seen,
    )


def _handbook(random: Random) -> Exercise:
    chosen = draw_exclusive(random, "conservation", "guidance", 4)
    right = random.choice(chosen)
    page = " ".join(f"{fact.subject}: {fact.value}." for fact in random.sample(chosen, len(chosen)))
    return Exercise(
        key=f"{','.join(sorted(fact.subject for fact in chosen))}|{right.subject}",
        question=f"Handbook, rules near animals. {page} What is the rule near the {right.subject}?",
        answer=right.value,
        wrong=tuple(fact.value for fact in chosen if fact != right),
    )


TEMPLATES: Templates = {
    "identify": Template(draw=_identify, ask="with the animal's name only"),
    "trace": Template(draw=_trace),
    "report-threat": Template(draw=_threat),
    "report-any": Template(draw=_any_threat, balanced=True),
    "report-where": Template(draw=_where),
    "report-seen": Template(draw=_seen),
    "report-total": Template(draw=_total, ask="with the number only"),
    "handbook": Template(draw=_handbook),
}
