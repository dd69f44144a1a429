"""Which questions a teacher is asked: the corpus' train split, or one's own, and what must not be among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import corpus
from edgekit.corpus import Item
from edgekit.distill.asking import evaluated
from edgekit.distill.synthesis import Synthesis, asked_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked: the corpus' train split, or a file of one's own (`prompts`); never what `held_out` files hold.
    With `chat` in the teacher's own chat template.
    """

    prompts: Path | None = None
    held_out: tuple[Path, ...] = ()
    chat: bool = False


def asked(
    settings: Synthesis, questions: Questions, *, besides: Collection[str] = ()
) -> tuple[Sequence[Item], frozenset[str]]:
    """(what is asked, the bare questions that must not be): one's own may be among those of an evaluation by chance.
    `besides` are further ones, bare. Raises EdgekitError that names the file and the line.
    """
    banks = [corpus.read_bank(path) for path in questions.held_out]
    if questions.prompts is None:
        return asked_of(settings), (evaluated(banks) if banks else frozenset()) | frozenset(besides)
    own = corpus.read_bank(questions.prompts, answered=False)
    return own.items, evaluated(banks) | frozenset(besides)
