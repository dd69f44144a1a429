"""Code from Python's own standard library, a file to a split, and small questions on what an expression gives.

The text follows the running Python: another minor version has other sources, and so other bytes for the same seed.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from edgekit.corpus.exercises import Drawer, Exercise, draw, draw_items, near
from edgekit.corpus.item import Item, Split, dice, split_of
from edgekit.errors import EdgekitError

WORDS = ("river", "otter", "stone", "cedar", "falcon", "maple", "harbor", "willow", "ember", "meadow", "coral")

SKIPPED_PARTS = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data", "_pyrepl"}
"""Tables, installed packages, and what distributions leave out."""

EXCERPT_CHARACTERS = 1500
LONGEST_EXCERPT = 3000
QUESTIONS_PER_PAGE = 10
EXCERPTS_PER_PAGE = 2


def documents(split: Split, seed: int) -> Iterator[str]:
    """Excerpts of whole lines in seeded order, and a page of questions after every other excerpt."""
    random = dice("documents", "coding", seed)
    excerpts = [piece for path, source in _sources() if split_of(path) == split for piece in _excerpts(source)]
    random.shuffle(excerpts)
    questions = draw(DRAWERS, split, "coding", seed)
    for at, excerpt in enumerate(excerpts):
        yield excerpt
        if at % EXCERPTS_PER_PAGE == EXCERPTS_PER_PAGE - 1:
            page = [exercise.line for (_, exercise), _ in zip(questions, range(QUESTIONS_PER_PAGE), strict=False)]
            if page:
                yield "\n".join(page)


def items(split: Split, seed: int) -> Iterator[Item]:
    """One pass of different questions; the answers are computed by Python itself."""
    return draw_items(DRAWERS, split, "coding", seed)


@cache
def _sources() -> tuple[tuple[str, str], ...]:
    """(name below the library's folder, text) of each source file, in the order of the names."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, str]] = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        # _sysconfigdata… holds this machine's compiler flags, config-… its build
        if SKIPPED_PARTS & set(name.parts) or name.parts[0].startswith(("_sysconfigdata", "config-")):
            continue
        try:
            found.append((name.as_posix(), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            continue
    if len(found) < 100:
        raise EdgekitError(
            f"python's own sources, which the coding text is taken from, are not at `{root}`",
            hint="install the full standard library (`libpython3-stdlib` on Debian), or leave out the coding domain",
        )
    return tuple(sorted(found))


def _excerpts(source: str) -> Iterator[str]:
    """Pieces of about EXCERPT_CHARACTERS, cut before a definition where one is near."""
    piece: list[str] = []
    size = 0
    for line in source.splitlines():
        starts = line.startswith(("def ", "class ", "async def ", "@", "    def "))
        if (size > EXCERPT_CHARACTERS and starts) or size > LONGEST_EXCERPT:
            yield "\n".join(piece).strip("\n")
            piece, size = [], 0
        piece.append(line.rstrip())
        size += len(line) + 1
    rest = "\n".join(piece).strip("\n")
    if len(rest) > EXCERPT_CHARACTERS // 4:  # a stub of a few lines teaches nothing and is often the same everywhere
        yield rest


def _numbers(random: Random) -> list[int]:
    return random.sample(range(1, 60), random.randint(3, 6))


def _length(random: Random) -> Exercise:
    numbers = _numbers(random)
    return _expression(f"len({numbers})", len(numbers), random)


def _extreme(random: Random) -> Exercise:
    numbers = _numbers(random)
    name, value = random.choice((("max", max(numbers)), ("min", min(numbers)), ("sum", sum(numbers))))
    return _expression(f"{name}({numbers})", value, random)


def _index(random: Random) -> Exercise:
    numbers = _numbers(random)
    at = random.choice((0, 1, 2, -1))
    return _expression(f"{numbers}[{at}]", numbers[at], random)


def _sorted(random: Random) -> Exercise:
    numbers = _numbers(random)
    at = random.choice((0, 1, -1))
    return _expression(f"sorted({numbers})[{at}]", sorted(numbers)[at], random)


def _division(random: Random) -> Exercise:
    a, b = random.randint(5, 99), random.randint(2, 12)
    sign, value = random.choice((("//", a // b), ("%", a % b)))
    return _expression(f"{a} {sign} {b}", value, random)


def _loop(random: Random) -> Exercise:
    start, turns, step = random.randint(0, 20), random.randint(2, 6), random.randint(1, 9)
    return Exercise(
        key=f"{start},{turns},{step}",
        question=f"After `x = {start}` and `for i in range({turns}): x += {step}`, what is `x`?",
        answer=str(start + turns * step),
        wrong=near(start + turns * step, random),
    )


def _string(random: Random) -> Exercise:
    first, second = random.sample(WORDS, 2)
    at = random.randint(1, 3)
    text, value = random.choice(
        (
            (f"'{first}'.upper()", first.upper()),
            (f"'{first}'[:{at}]", first[:at]),
            (f"'{first}'[::-1]", first[::-1]),
            (f"'{first}' + '{second}'", first + second),
            (f"'{first}'.replace('{first[0]}', '{second[0]}')", first.replace(first[0], second[0])),
        )
    )
    others = (first, first[::-1], first.upper(), first.title(), second, second + first, first[at:])
    distinct = [repr(other) for other in dict.fromkeys(others) if other != value]
    question = f"What does `{text}` give?"
    return Exercise(key=text, question=question, answer=repr(value), wrong=tuple(random.sample(distinct, 3)))


def _truth(random: Random) -> Exercise:
    a, b = random.randint(1, 99), random.randint(1, 99)
    text, value = random.choice(
        ((f"{a} < {b}", a < b), (f"{a} >= {b}", a >= b), (f"{a} in {[a + 1, b]}", a == b), (f"not {a} == {b}", a != b))
    )
    return Exercise(key=text, question=f"What does `{text}` give?", answer=str(value), wrong=(str(not value),))


def _expression(text: str, value: int, random: Random) -> Exercise:
    question = random.choice((f"What does `{text}` give?", f"What does Python print for `print({text})`?"))
    return Exercise(key=text, question=question, answer=str(value), wrong=near(value, random))


DRAWERS: dict[str, Drawer] = {
    "length": _length,
    "extreme": _extreme,
    "index": _index,
    "sorted": _sorted,
    "division": _division,
    "loop": _loop,
    "string": _string,
    "truth": _truth,
}
