"""Arithmetic, order, time and logic: the operands of an evaluation exercise occur in no training exercise."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgekit.corpus.exercises import Exercise, Template, Templates, listed, near, one_of, pages, steps, streams
from edgekit.corpus.item import Item, Split

NAMES = ("Ana", "Ben", "Chi", "Dora", "Emil", "Fatou", "Goro", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mira", "Nils")
THINGS = ("birds", "tracks", "stones", "maps", "lamps", "ropes", "nests", "boats", "seeds", "posts")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WAYS = ("north", "east", "south", "west")
TURNS = {"turns right": 1, "turns around": 2, "turns left": 3}
ORDINALS = ("first", "second", "third", "fourth", "fifth")
PLACES = ("in the barn", "on the island", "at the pier", "in the valley", "by the lake", "on the hill")
COLOURS = ("red", "green", "white", "black", "blue", "grey")
SURE = ("yes", "no", "not known")


def templates(split: Split, seed: int) -> dict[str, Iterator[Item]]:
    """One stream of different exercises for each template."""
    return streams(TEMPLATES, split, "reasoning", seed)


def documents(split: Split, seed: int) -> Iterator[str]:
    """The same kinds of exercises, a page at a time."""
    return pages(TEMPLATES, split, "reasoning", seed)


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


def _share(random: Random) -> Exercise:
    each, parts = random.randint(2, 40), random.randint(2, 12)
    things = random.choice(THINGS)
    question = random.choice(
        (
            f"What is {each * parts} ÷ {parts}?",
            f"{each * parts} {things} are shared equally among {parts} people. How many does each get?",
        )
    )
    return Exercise(key=f"{each},{parts}", question=question, answer=str(each), wrong=near(each, random, least=1))


def _two_steps(random: Random) -> Exercise:
    start, more = random.randint(2, 50), random.randint(2, 50)
    less = random.randint(1, start + more - 1)
    who, things = random.choice(NAMES), random.choice(THINGS)
    question = random.choice(
        (
            f"{who} has {start} {things}, finds {more} and loses {less}. How many {things} are left?",
            f"What is {start} + {more} - {less}?",
        )
    )
    left = start + more - less
    key = f"{min(start, more)},{max(start, more)},{less}"
    return Exercise(key=key, question=question, answer=str(left), wrong=near(left, random))


def _larger(random: Random) -> Exercise:
    a, b = random.sample(range(10, 1000), 2)
    low, high = min(a, b), max(a, b)
    asks_high = random.random() < 0.5
    question = f"Which number is {'larger' if asks_high else 'smaller'}, {a} or {b}?"
    answer, other = (high, low) if asks_high else (low, high)
    return Exercise(key=f"{low},{high}", question=question, answer=str(answer), wrong=(str(other),))


def _parity(random: Random) -> Exercise:
    a, b = random.randint(2, 99), random.randint(2, 99)
    answer = ("even", "odd")[(a + b) % 2]
    key = f"{min(a, b)},{max(a, b)}"
    return Exercise(
        key=key, question=f"Is {a} + {b} even or odd?", answer=answer, wrong=one_of(("even", "odd"), answer)
    )


def _order(random: Random) -> Exercise:
    numbers = random.sample(range(1, 200), 3)
    up = random.random() < 0.5
    right = tuple(sorted(numbers, reverse=not up))
    way = "smallest first" if up else "largest first"
    question = f"Put {numbers[0]}, {numbers[1]} and {numbers[2]} in order, {way}."
    key = ",".join(map(str, sorted(numbers)))
    # only the mirror: any other order is plainly none of the two
    answer, mirror = (", ".join(map(str, order)) for order in (right, right[::-1]))
    return Exercise(key=key, question=question, answer=answer, wrong=(mirror,))


def _chain(random: Random) -> Exercise:
    tallest, middle, shortest = random.sample(NAMES, 3)
    relation, low, high = random.choice((("taller", "shortest", "tallest"), ("older", "youngest", "oldest")))
    sentences = [f"{tallest} is {relation} than {middle}.", f"{middle} is {relation} than {shortest}."]
    random.shuffle(sentences)
    word, answer = random.choice(((low, shortest), (high, tallest)))
    question = f"{sentences[0]} {sentences[1]} Who is the {word}?"
    wrong = one_of((tallest, middle, shortest), answer)
    return Exercise(key=f"{tallest},{middle},{shortest}", question=question, answer=answer, wrong=wrong)


def _queue(random: Random) -> Exercise:
    names = random.sample(NAMES, 4)
    place = random.randrange(4)
    question = f"{listed(names, 'and')} stand in a line, in this order. Who is {ORDINALS[place]}?"
    return Exercise(key=",".join(names), question=question, answer=names[place], wrong=one_of(names, names[place]))


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


def _day(random: Random) -> Exercise:
    today, days, later = random.randrange(7), random.randint(2, 60), random.random() < 0.5
    answer = DAYS[(today + (days if later else -days)) % 7]
    when = f"What day is it in {days} days" if later else f"What day was it {days} days ago"
    wrong = random.sample(one_of(DAYS, answer), 3)
    return Exercise(
        key=f"{today},{days},{later}", question=f"Today is {DAYS[today]}. {when}?", answer=answer, wrong=tuple(wrong)
    )


def _clock(random: Random) -> Exercise:
    start, minutes = random.randrange(300, 1080, 5), random.randrange(10, 180, 5)
    who = random.choice(NAMES)
    question = f"{who} sets out at {_time(start)} and walks for {minutes} minutes. At what time does the walk end?"
    wrong = tuple(_time(start + minutes + step) for step in steps(random, (5, 10, 30, 60)))
    return Exercise(key=f"{start},{minutes}", question=question, answer=_time(start + minutes), wrong=wrong)


def _time(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _direction(random: Random) -> Exercise:
    start, turns = random.randrange(4), random.choices(tuple(TURNS), k=random.randint(2, 5))
    answer = WAYS[(start + sum(TURNS[turn] for turn in turns)) % 4]
    who = random.choice(NAMES)
    question = f"{who} faces {WAYS[start]}, {listed(turns, 'and')}. Which way does {who} face now?"
    return Exercise(key=f"{start},{','.join(turns)}", question=question, answer=answer, wrong=one_of(WAYS, answer))


def _syllogism(random: Random) -> Exercise:
    things, place, colour = random.choice(THINGS), random.choice(PLACES), random.choice(COLOURS)
    other = random.choice(one_of(COLOURS, colour))
    answer = random.choice(SURE)
    one = f"One of the {things} {place} is {random.choice(NAMES)}'s."
    forms = {
        "yes": (f"All {things} {place} are {colour}. {one} Is it {colour}?",),
        "no": (
            f"All {things} {place} are {colour}. {one} Is it {other}?",
            f"None of the {things} {place} is {colour}. {one} Is it {colour}?",
        ),
        "not known": (
            f"Some of the {things} {place} are {colour}. {one} Is it {colour}?",
            f"None of the {things} {place} is {other}. {one} Is it {colour}?",
        ),
    }
    question = random.choice(forms[answer])
    return Exercise(key=question, question=question, answer=answer, wrong=one_of(SURE, answer))


NUMBER = "with the number only"

TEMPLATES: Templates = {
    "sum": Template(draw=_sum, ask=NUMBER),
    "difference": Template(draw=_difference, ask=NUMBER),
    "product": Template(draw=_product, ask=NUMBER),
    "share": Template(draw=_share, ask=NUMBER),
    "two-steps": Template(draw=_two_steps, ask=NUMBER),
    "larger": Template(draw=_larger),
    "parity": Template(draw=_parity, balanced=True),
    "order": Template(draw=_order),
    "chain": Template(draw=_chain),
    "queue": Template(draw=_queue),
    "sequence": Template(draw=_sequence, ask=NUMBER),
    "day": Template(draw=_day),
    "clock": Template(draw=_clock, ask="with the time only"),
    "direction": Template(draw=_direction),
    "syllogism": Template(draw=_syllogism, balanced=True),
}
