"""Questions of the corpus as training tokens: answers count in full, what stands before them hardly.

A small model that has to foretell whole lines spends itself on the questions, half of which is chance (which operands,
which animals), and never comes to the answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from edgekit import corpus
from edgekit.corpus.item import dice


def questions(
    split: corpus.Split, *, each: int, templates: Collection[str] = (), seed: int = 1
) -> tuple[corpus.Item, ...]:
    """Up to `each` questions of each template (of all, or of those named), shuffled."""
    found = [
        item
        for domain in corpus.DOMAINS
        for name, stream in corpus.templates(split, domain, seed=seed).items()
        if not templates or name in templates
        for item in islice(stream, each)
    ]
    dice("questions", split, seed).shuffle(found)
    return tuple(found)


def packed(
    tokenizer: Any, items: Iterable[corpus.Item], *, length: int, prompt_weight: float
) -> tuple[list[int], list[float]]:
    """Token ids of the items' lines and the weight of each token: 1 for answers and the end of the line,
    `prompt_weight` for prompts, 0 for what fills up a window.

    Windows are as `pack` makes them.
    """
    return pack(tokenizer, (parts_of(item, prompt_weight) for item in items), length=length)


def parts_of(item: corpus.Item, prompt_weight: float) -> tuple[tuple[str, float], tuple[str, float]]:
    """An item's line for `pack`."""
    return (item.prompt, prompt_weight), (item.line[len(item.prompt) :], 1.0)


def pack(tokenizer: Any, lines: Iterable[Sequence[tuple[str, float]]], *, length: int) -> tuple[list[int], list[float]]:
    """Token ids and weights of lines, each given as its parts (text, weight of its tokens). A token on the border of
    two parts, and the end of the line, count as the later one; what fills up a window counts nothing.

    Every window of `length` tokens begins with a line, as a question stands when it is asked; a line longer than a
    window is left out.
    """
    ids: list[int] = []
    weights: list[float] = []
    for more, counted in packing(tokenizer, lines, length=length):
        ids += more
        weights += counted
    return ids, weights


def packing(
    tokenizer: Any, lines: Iterable[Sequence[tuple[str, float]]], *, length: int
) -> Iterator[tuple[list[int], list[float]]]:
    """The same, piece by piece."""
    (filler,) = tokenizer.encode("\n", add_special_tokens=False).ids
    size = 0
    for parts in lines:
        line, counted = _weighed(tokenizer, parts)
        if len(line) > length:
            continue
        room = -size % length
        if room and room < len(line):
            yield [filler] * room, [0.0] * room
            size += room
        yield line, counted
        size += len(line)
    rest = -size % length + 1  # the last window foretells one token more
    yield [filler] * rest, [0.0] * rest


def _weighed(tokenizer: Any, parts: Sequence[tuple[str, float]]) -> tuple[list[int], list[float]]:
    """A line's tokens and their weights: a part's tokens are those that are the same with and without what follows."""
    line: list[int] = tokenizer.encode("".join(text for text, _ in parts) + "\n", add_special_tokens=False).ids
    counted: list[float] = []
    begin = ""
    for text, weight in parts[:-1]:
        begin += text
        alone = tokenizer.encode(begin, add_special_tokens=False).ids
        same = next((at for at, (a, b) in enumerate(zip(alone, line, strict=False)) if a != b), len(alone))
        counted += [weight] * (same - len(counted))
    return line, counted + [parts[-1][1]] * (len(line) - len(counted))
