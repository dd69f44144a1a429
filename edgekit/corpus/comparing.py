"""Questions that compare several subjects of the tables: every fact they rest on is told in the training text."""

from __future__ import annotations

from functools import partial
from random import Random

from edgekit.corpus.exercises import Exercise, Template, Templates, listed, one_of
from edgekit.corpus.tables import draw_exclusive, subjects, valued

YES_NO = ("yes", "no")


def _which(random: Random, *, domain: str, attribute: str, asked: str, count: int = 4) -> Exercise:
    """Which of several subjects has a value; `asked` holds `{names}` and `{v}`."""
    chosen = draw_exclusive(random, domain, attribute, count)
    right = random.choice(chosen)
    names = [fact.subject for fact in random.sample(chosen, len(chosen))]
    return Exercise(
        key=f"{','.join(sorted(names))}|{right.value}",
        question=asked.format(names=listed(names), v=right.value),
        answer=right.subject,
        wrong=one_of(names, right.subject),
    )


def _odd_one(random: Random) -> Exercise:
    """Three countries of one continent and one of another. Continents are drawn evenly, so that no country is the odd
    one more often than its turn.
    """
    many = {value: same for value, same in valued("factual", "continent").items() if len(same) >= 3}
    home, abroad = random.sample(list(many), 2)
    odd = random.choice(many[abroad]).subject
    names = [*(fact.subject for fact in random.sample(many[home], 3)), odd]
    random.shuffle(names)
    return Exercise(
        key=",".join(sorted(names)),
        question=f"Which of these countries is not in {home}: {listed(names)}?",
        answer=odd,
        wrong=one_of(names, odd),
    )


def _protons(random: Random) -> Exercise:
    elements = [known["number"] for known in subjects("factual").values() if "number" in known]
    few, many = sorted(random.sample(elements, 2), key=lambda fact: int(fact.value))
    right, other, word = random.choice(((few, many, "fewer"), (many, few, "more")))
    names = [few.subject, many.subject]
    return Exercise(
        key=",".join(sorted(names)),
        question=f"Which element has {word} protons, {listed(random.sample(names, 2))}?",
        answer=right.subject,
        wrong=(other.subject,),
    )


def _pair(random: Random, *, domain: str, attribute: str, asked: str) -> Exercise:
    """Whether two subjects have the same value, which half of the pairs have; `asked` holds `{a}` and `{b}`."""
    groups = {value: same for value, same in valued(domain, attribute).items() if len(same) >= 2}
    answer = random.choice(YES_NO)
    if answer == "yes":
        a, b = random.sample(random.choice(list(groups.values())), 2)
    else:
        one, other = random.sample(list(groups), 2)
        a, b = random.choice(groups[one]), random.choice(groups[other])
    return Exercise(
        key=",".join(sorted((a.subject, b.subject))),
        question=asked.format(a=a.subject, b=b.subject),
        answer=answer,
        wrong=one_of(YES_NO, answer),
    )


def _which_template(domain: str, attribute: str, asked: str, count: int = 4) -> Template:
    return Template(draw=partial(_which, domain=domain, attribute=attribute, asked=asked, count=count))


FACTUAL: Templates = {
    "which-continent": _which_template("factual", "continent", "Which of these countries lies in {v}: {names}?"),
    "which-language": _which_template(
        "factual", "language", "In which of these countries is {v} the official language: {names}?"
    ),
    "which-family": _which_template("factual", "family", "Which of these elements belongs to the {v}: {names}?"),
    "same-continent": Template(
        draw=partial(_pair, domain="factual", attribute="continent", asked="Are {a} and {b} in the same continent?"),
        balanced=True,
    ),
    "odd-one": Template(draw=_odd_one),
    "protons": Template(draw=_protons),
}

CONSERVATION: Templates = {
    "which-group": _which_template("conservation", "group", "Which of these is a kind of {v}: {names}?"),
    "which-region": _which_template("conservation", "region", "Which of these lives in the wild in {v}: {names}?"),
    "which-active": _which_template("conservation", "active", "Which of these is active mostly {v}: {names}?", count=3),
}
