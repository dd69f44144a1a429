"""Code from Python's own standard library, a file to a split, and small questions on what an expression gives.

The text follows the running Python: another minor version has other sources, and so other bytes for the same seed.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from edgekit.corpus.exercises import pages, streams
from edgekit.corpus.item import Item, Split, dice, split_of
from edgekit.corpus.snippets import TEMPLATES
from edgekit.errors import EdgekitError

SKIPPED_PARTS = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data", "_pyrepl"}
"""Tables, installed packages, and what distributions leave out."""

EXCERPT_CHARACTERS = 1500
LONGEST_EXCERPT = 3000
EXCERPTS_PER_PAGE = 2


def documents(split: Split, seed: int) -> Iterator[str]:
    """Excerpts of whole lines in seeded order, and a page of questions after every other excerpt."""
    random = dice("documents", "coding", seed)
    excerpts = [piece for path, source in _sources() if split_of(path) == split for piece in _excerpts(source)]
    random.shuffle(excerpts)
    questions = pages(TEMPLATES, split, "coding", seed)
    for at, excerpt in enumerate(excerpts):
        yield excerpt
        if at % EXCERPTS_PER_PAGE == EXCERPTS_PER_PAGE - 1:
            yield from islice(questions, 1)


def templates(split: Split, seed: int) -> dict[str, Iterator[Item]]:
    """One stream of different questions for each template."""
    return streams(TEMPLATES, split, "coding", seed)


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
