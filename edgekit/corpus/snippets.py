"""Small questions on what Python gives; the answers are computed by Python itself."""

from __future__ import annotations

from random import Random

from edgekit.corpus.exercises import Exercise, Template, Templates, near, one_of

WORDS = ("river", "otter", "stone", "cedar", "falcon", "maple", "harbor", "willow", "ember", "meadow", "coral")


def _length(random: Random) -> Exercise:
    sizes = random.sample(range(1, 9), 4)
    text = f"len({random.sample(range(1, 60), sizes[0])})"
    return Exercise(key=text, question=_gives(text), answer=str(sizes[0]), wrong=tuple(map(str, sizes[1:])))


def _extreme(random: Random) -> Exercise:
    numbers = random.sample(range(1, 60), random.randint(3, 6))
    name, value, other = random.choice((("max", max(numbers), min(numbers)), ("min", min(numbers), max(numbers))))
    text = f"{name}({numbers})"
    return Exercise(key=text, question=_gives(text), answer=str(value), wrong=(str(other),))


def _total(random: Random) -> Exercise:
    numbers = random.sample(range(1, 60), random.randint(2, 4))
    return _number(f"sum({numbers})", sum(numbers), random)


def _index(random: Random) -> Exercise:
    numbers = random.sample(range(1, 60), random.randint(4, 6))
    at = random.choice((0, 1, 2, -1))
    return _chosen(f"{numbers}[{at}]", numbers[at], numbers, random)


def _sorted(random: Random) -> Exercise:
    numbers = random.sample(range(1, 60), 4)  # all four are choices: any of them is right as often
    at = random.randrange(4)
    return _chosen(f"sorted({numbers})[{at}]", sorted(numbers)[at], numbers, random)


def _division(random: Random) -> Exercise:
    a, b = random.randint(5, 99), random.randint(2, 12)
    sign, value = random.choice((("//", a // b), ("%", a % b)))
    return _number(f"{a} {sign} {b}", value, random)


def _precedence(random: Random) -> Exercise:
    a, b, c = random.randint(2, 20), random.randint(2, 12), random.randint(2, 9)
    text, value = random.choice(
        ((f"{a} + {b} * {c}", a + b * c), (f"({a} + {b}) * {c}", (a + b) * c), (f"{a} * {b} - {c}", a * b - c))
    )
    return _number(text, value, random)


def _loop(random: Random) -> Exercise:
    start, turns, step = random.randint(0, 20), random.randint(2, 6), random.randint(1, 9)
    return _after((f"x = {start}", f"for i in range({turns}): x += {step}"), "x", start + turns * step, random)


def _while(random: Random) -> Exercise:
    start, limit, step = random.randint(0, 9), random.randint(10, 40), random.randint(2, 9)
    value = start
    while value < limit:
        value += step
    return _after((f"n = {start}", f"while n < {limit}: n += {step}"), "n", value, random)


def _function(random: Random) -> Exercise:
    a, b, argument = random.randint(2, 9), random.randint(1, 20), random.randint(1, 20)
    sign, value = random.choice((("+", a * argument + b), ("-", a * argument - b)))
    return _after((f"def f(x): return {a} * x {sign} {b}",), f"f({argument})", value, random)


def _branch(random: Random) -> Exercise:
    number, limit = random.randint(1, 60), random.randint(1, 60)
    first, second = random.sample(WORDS, 2)
    value = first if number > limit else second
    text = f"'{first}' if {number} > {limit} else '{second}'"
    return Exercise(
        key=text, question=_gives(text), answer=repr(value), wrong=(repr(first if value == second else second),)
    )


def _comprehension(random: Random) -> Exercise:
    numbers = random.sample(range(1, 12), 3)
    factor, kept = random.randint(2, 6), random.choice((0, 1))
    text, value = random.choice(
        (
            (f"sum([x * {factor} for x in {numbers}])", sum(x * factor for x in numbers)),
            (f"sum([x for x in {numbers} if x % 2 == {kept}])", sum(x for x in numbers if x % 2 == kept)),
            (f"max([x * x for x in {numbers}]) + {factor}", max(x * x for x in numbers) + factor),
        )
    )
    return _number(text, value, random)


def _slice(random: Random) -> Exercise:
    numbers = random.sample(range(1, 60), 5)
    start, end = random.choice(((0, 2), (1, 3), (2, 4), (3, 5)))
    pairs = [repr(numbers[at : at + 2]) for at in range(4)]
    answer = repr(numbers[start:end])
    text = f"{numbers}[{start}:{end}]"
    return Exercise(key=text, question=_gives(text), answer=answer, wrong=one_of(pairs, answer))


def _span(random: Random) -> Exercise:
    start, step, count = random.randint(0, 20), random.randint(1, 6), random.randint(2, 7)
    end = start + step * count - random.randrange(step)
    text, value = random.choice(
        (
            (f"list(range({start}, {end}, {step}))[-1]", range(start, end, step)[-1]),
            (f"len(range({start}, {end}, {step}))", len(range(start, end, step))),
        )
    )
    return _number(text, value, random)


def _counting(random: Random) -> Exercise:
    counts = random.sample(range(1, 7), 4)
    counted, other = random.sample(range(1, 10), 2)
    numbers = [counted] * counts[0] + [other] * random.randint(1, 3)
    random.shuffle(numbers)
    text = f"{numbers}.count({counted})"
    return Exercise(key=text, question=_gives(text), answer=str(counts[0]), wrong=tuple(map(str, counts[1:])))


def _lookup(random: Random) -> Exercise:
    names = random.sample(WORDS, 4)
    values = random.sample(range(1, 60), 4)
    table = dict(zip(names, values, strict=True))
    name = random.choice(names)
    return _chosen(f"{table}['{name}']", table[name], values, random)


def _text(random: Random) -> Exercise:
    first, second = random.sample(WORDS, 2)
    given = {
        f"'{first}'.upper()": first.upper(),
        f"'{first}'[::-1]": first[::-1],
        f"'{first}'.title()": first.title(),
        f"'{first}' + '{second}'": first + second,
        f"'{second}' + '{first}'": second + first,
        f"'-'.join(['{first}', '{second}'])": f"{first}-{second}",
        f"'{first} {second}'.split()[0]": first,
        f"'{first} {second}'.split()[1]": second,
    }
    # drawn as a set, the right one among it afterwards: no form of word gives the answer away
    texts = random.sample(list(given), 4)
    text = random.choice(texts)
    wrong = tuple(repr(given[other]) for other in texts if other != text)
    return Exercise(key=text, question=_gives(text), answer=repr(given[text]), wrong=wrong)


def _letter(random: Random) -> Exercise:
    word = random.choice(WORDS) + random.choice(WORDS)
    at = random.randrange(len(word))
    letters = dict.fromkeys(word)
    text = f"'{word}'[{at}]"
    wrong = random.sample([letter for letter in letters if letter != word[at]], 3)
    return Exercise(key=text, question=_gives(text), answer=repr(word[at]), wrong=tuple(map(repr, wrong)))


def _truth(random: Random) -> Exercise:
    wanted = random.random() < 0.5  # `and` is mostly false
    while True:
        a, b = random.randint(1, 99), random.randint(1, 99)
        text, value = random.choice(
            (
                (f"{a} < {b}", a < b),
                (f"{a} >= {b}", a >= b),
                (f"{a} % 2 == {b % 2}", a % 2 == b % 2),
                (f"{a} > {b} and {a} < 50", b < a < 50),
                (f"{a} > {b} or {a} > 50", a > b or a > 50),
            )
        )
        if value == wanted:
            return Exercise(key=text, question=_gives(text), answer=str(value), wrong=(str(not value),))


def _kind(random: Random) -> Exercise:
    number, word = random.randint(1, 99), random.choice(WORDS)
    given = {
        "int": (f"{number} + 1", f"len('{word}') + {number}"),
        "str": (f"'{word}'[{number % 3}]", f"str({number})"),
        "list": (f"[{number}, '{word}']", f"'{word} {number}'.split()"),
        "dict": (f"{{'{word}': {number}}}", f"dict({word}={number})"),
        "float": (f"{number} / 2", f"float({number})"),
        "bool": (f"{number} > 5", f"'{word}' == 'x{number}'"),
        "tuple": (f"({number}, '{word}')", f"tuple(['{word}', {number}])"),
    }
    kinds = random.sample(list(given), 4)
    text = f"type({random.choice(given[kinds[0]])}).__name__"
    return Exercise(key=text, question=_gives(text), answer=repr(kinds[0]), wrong=tuple(map(repr, kinds[1:])))


def _error(random: Random) -> Exercise:
    number, word = random.randint(1, 99), random.choice(WORDS)
    given = {
        "IndexError": f"[{number}, 2, 3][{number % 7 + 3}]",
        "KeyError": f"{{'{word}': {number}}}['x{word}']",
        "TypeError": f"'{word}' + {number}",
        "ValueError": f"int('{word}{number}')",
        "ZeroDivisionError": f"{number} // ({number} - {number})",
        "AttributeError": f"'{word}'.append({number})",
        "NameError": f"{word}_{number}",
    }
    errors = random.sample(list(given), 4)
    text = given[errors[0]]
    return Exercise(key=text, question=f"Which error does `{text}` raise?", answer=errors[0], wrong=tuple(errors[1:]))


def _gives(text: str) -> str:
    return f"What does `{text}` give?"


def _number(text: str, value: int, random: Random) -> Exercise:
    question = random.choice((_gives(text), f"What does Python print for `print({text})`?"))
    return Exercise(
        key=text, question=question, answer=str(value), wrong=near(value, random, least=0 if value >= 0 else value - 10)
    )


def _chosen(text: str, value: int, numbers: list[int], random: Random) -> Exercise:
    """The answer among the numbers of the question: as many of them as a choice has."""
    others = random.sample([number for number in numbers if number != value], min(3, len(numbers) - 1))
    question = random.choice((_gives(text), f"What does Python print for `print({text})`?"))
    return Exercise(key=text, question=question, answer=str(value), wrong=tuple(map(str, others)))


def _after(statements: tuple[str, ...], asked: str, value: int, random: Random) -> Exercise:
    steps = " and ".join(f"`{statement}`" for statement in statements)
    return Exercise(
        key=f"{statements}|{asked}",
        question=f"After {steps}, what is `{asked}`?",
        answer=str(value),
        wrong=near(value, random, least=0 if value >= 0 else value - 10),
    )


VALUE = "with the value only"

TEMPLATES: Templates = {
    "length": Template(draw=_length),
    "extreme": Template(draw=_extreme),
    "total": Template(draw=_total, ask=VALUE),
    "index": Template(draw=_index),
    "sorted": Template(draw=_sorted),
    "division": Template(draw=_division),
    "precedence": Template(draw=_precedence, ask=VALUE),
    "loop": Template(draw=_loop, ask=VALUE),
    "while": Template(draw=_while),
    "function": Template(draw=_function, ask=VALUE),
    "branch": Template(draw=_branch),
    "comprehension": Template(draw=_comprehension, ask=VALUE),
    "slice": Template(draw=_slice),
    "span": Template(draw=_span),
    "counting": Template(draw=_counting),
    "lookup": Template(draw=_lookup),
    "text": Template(draw=_text, ask=VALUE),
    "letter": Template(draw=_letter),
    "truth": Template(draw=_truth, balanced=True),
    "kind": Template(draw=_kind),
    "error": Template(draw=_error),
}
