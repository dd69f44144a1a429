"""Arithmetic, comparison and ordering: the operands of an evaluation exercise occur in no training exercise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from random import Random

from edgekit.corpus.exercises import Drawer, Exercise, draw_items, draw_pages, near
from edgekit.corpus.item import Item, Split

NAMES = ("Ana", "Ben", "Chi", "Dora", "Emil", "Fatou", "Goro", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mira", "Nils")
THINGS = ("birds", "tracks", "stones", "maps", "lamps", "ropes", "nests", "boats", "seeds", "posts")
LINES_PER_DOCUMENT = 10


def items(split: Split, seed: int) -> Iterator[Item]:
    """One pass of different exercises."""
    return draw_items(DRAWERS, split, "reasoning", seed)


def documents(split: Split, seed: int) -> Iterator[str]:
    """The same exercises, ten lines to a page."""
    return draw_pages(DRAWERS, split, "reasoning", seed, lines=LINES_PER_DOCUMENT)


def _sum(random: Random) -> Exercise:
    a, b = random.randint(2, 99), random.randint(2, 99)
    who, things = random.choice(NAMES), random.choice(THINGS)
    question = random.choice(
        (
            f"What is {a} + {b}?",
            f"Add {b} to {a}.",
            f"{who} counts {a} {things} before noon and {b} after noon. How many {things} in all?",
        )
    )
    key = f"{min(a, b)},{max(a, b)}"  # 3 + 4 and 4 + 3 are one exercise
    return Exercise(key=key, question=question, answer=str(a + b), wrong=near(a + b, random))


def _difference(random: Random) -> Exercise:
    a, b = random.randint(2, 99), random.randint(2, 99)
    whole, part = a + b, b
    who, things = random.choice(NAMES), random.choice(THINGS)
    question = random.choice(
        (
            f"What is {whole} - {part}?",
            f"Take {part} away from {whole}.",
            f"{who} has {whole} {things} and gives away {part}. How many {things} are left?",
        )
    )
    return Exercise(key=f"{whole},{part}", question=question, answer=str(a), wrong=near(a, random))


def _product(random: Random) -> Exercise:
    a, b = random.randint(2, 30), random.randint(2, 12)
    things = random.choice(THINGS)
    question = random.choice(
        (
            f"What is {a} × {b}?",
            f"Multiply {a} by {b}.",
            f"There are {b} boxes with {a} {things} each. How many {things} are there?",
        )
    )
    return Exercise(key=f"{min(a, b)},{max(a, b)}", question=question, answer=str(a * b), wrong=near(a * b, random))


def _larger(random: Random) -> Exercise:
    a, b = random.sample(range(10, 1000), 2)
    low, high = min(a, b), max(a, b)
    asks_high = random.random() < 0.5
    question = f"Which number is {'larger' if asks_high else 'smaller'}, {a} or {b}?"
    answer, other = (high, low) if asks_high else (low, high)
    return Exercise(key=f"{low},{high}", question=question, answer=str(answer), wrong=(str(other),))


def _order(random: Random) -> Exercise:
    numbers = random.sample(range(1, 200), 3)
    up = random.random() < 0.5
    right = tuple(sorted(numbers, reverse=not up))
    way = "smallest first" if up else "largest first"
    question = f"Put {numbers[0]}, {numbers[1]} and {numbers[2]} in order, {way}."
    wrong = [", ".join(map(str, order)) for order in permutations(right) if order != right]
    answer = ", ".join(map(str, right))
    key = ",".join(map(str, sorted(numbers)))
    return Exercise(key=key, question=question, answer=answer, wrong=tuple(random.sample(wrong, 3)))


def _chain(random: Random) -> Exercise:
    tallest, middle, shortest = random.sample(NAMES, 3)
    relation, low, high = random.choice((("taller", "shortest", "tallest"), ("older", "youngest", "oldest")))
    sentences = [f"{tallest} is {relation} than {middle}.", f"{middle} is {relation} than {shortest}."]
    random.shuffle(sentences)
    word, answer = random.choice(((low, shortest), (high, tallest)))
    question = f"{sentences[0]} {sentences[1]} Who is the {word}?"
    others = tuple(name for name in (tallest, middle, shortest) if name != answer)
    return Exercise(key=f"{tallest},{middle},{shortest}", question=question, answer=answer, wrong=others)


def _sequence(random: Random) -> Exercise:
    start, step = random.randint(1, 60), random.randint(2, 15)
    shown = [start + step * place for place in range(4)]
    following = start + step * 4
    question = random.choice(("What comes next", "Which number follows"))
    return Exercise(
        key=f"{start},{step}",
        question=f"{question}: {', '.join(map(str, shown))}?",
        answer=str(following),
        wrong=near(following, random),
    )


DRAWERS: dict[str, Drawer] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "larger": _larger,
    "order": _order,
    "chain": _chain,
    "sequence": _sequence,
}
