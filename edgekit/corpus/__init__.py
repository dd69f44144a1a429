"""Four-domain text and questions in disjoint splits, generated here or taken from Python's own sources.

Same split, domains and seed → same bytes, in every process. The seed orders and draws; which split a line belongs to
depends on the line alone (code: on its file), so no evaluation line is ever trained or calibrated on. Code is
the exception in the small: two files may hold the same common line, never the same excerpt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice

from edgekit.corpus import coding, facts, reasoning
from edgekit.corpus.bank import NAME, VERSION, Bank, items_for, spread
from edgekit.corpus.bank_file import read_bank
from edgekit.corpus.exercises import PER_PASS, mixed
from edgekit.corpus.item import Item, Split, dice, split_of
from edgekit.corpus.prompts import Prompt, identity_patterns, identity_prompts, open_prompts
from edgekit.errors import EdgekitError

DOMAINS = ("factual", "reasoning", "coding", "conservation")
SPLITS: tuple[Split, ...] = ("train", "calibration", "evaluation")

DEFAULT_CALIBRATION_CHARACTERS = 240_000

EVALUATION_ORIGIN = "edgekit's evaluation corpus (four domains)"
"""What records say of `text("evaluation")`."""

_DOCUMENTS: dict[str, Callable[..., Iterator[str]]] = {
    "factual": partial(facts.documents, domain="factual"),
    "reasoning": reasoning.documents,
    "coding": coding.documents,
    "conservation": partial(facts.documents, domain="conservation"),
}
_TEMPLATES: dict[str, Callable[..., dict[str, Iterator[Item]]]] = {
    "factual": partial(facts.templates, domain="factual"),
    "reasoning": reasoning.templates,
    "coding": coding.templates,
    "conservation": partial(facts.templates, domain="conservation"),
}


def documents(split: Split, domain: str, *, seed: int = 1) -> Iterator[str]:
    """One pass over the different documents of `domain` (some hundred to 3000 characters each), in seeded order.

    Raises EdgekitError on an unknown split or domain, and for `coding` where Python's sources are not installed.
    """
    _known(split, (domain,))
    return _DOCUMENTS[domain](split=split, seed=seed)


def templates(split: Split, domain: str, *, seed: int = 1) -> dict[str, Iterator[Item]]:
    """The different questions of `domain`, one stream for each template, in seeded order; some never end.

    Raises EdgekitError on an unknown split or domain.
    """
    _known(split, (domain,))
    return _TEMPLATES[domain](split=split, seed=seed)


def items(split: Split, domain: str, *, count: int, seed: int = 1) -> tuple[Item, ...]:
    """`count` different questions with exact answers, in seeded order, the templates mixed evenly.

    Raises EdgekitError when the split has fewer, and on an unknown split or domain.
    """
    _known(split, (domain,))
    _drawable(count, 1)
    streams = templates(split, domain, seed=seed)
    found = tuple(islice(mixed(streams, dice("items", domain, split, seed)), count))
    if len(found) < count:
        raise EdgekitError(f"the {split} split of `{domain}` has only {len(found)} items, fewer than `{count}`")
    return found


def task_bank(*, items: int = 2000, domains: Sequence[str] = DOMAINS, seed: int = 1) -> Bank:
    """`items` questions of the evaluation split, spread evenly over `domains` and, within them, over templates; fewer
    are the beginning of more.

    Raises EdgekitError for an unknown domain, and when there are not so many.
    """
    _known("evaluation", domains)
    _drawable(items, len(set(domains)))
    streams = [list(_TEMPLATES[domain](split="evaluation", seed=seed).values()) for domain in dict.fromkeys(domains)]
    found = tuple(islice(spread(streams), items))
    if len(found) < items:
        raise EdgekitError(f"there are only {len(found)} items in {', '.join(domains)}, fewer than `{items}`")
    return Bank(name=f"{NAME}-{VERSION}", items=found)


def text(split: Split, *, domains: Sequence[str] = DOMAINS, seed: int = 1, characters: int = 200_000) -> str:
    """At most `characters` of documents with a blank line between them, every domain getting the same share; whole
    lines, and at most one line short of `characters`.

    Training text repeats a domain (in another order) when it runs out; the other splits never repeat, since intervals
    over their chunks take the chunks for independent: they raise EdgekitError instead.
    """
    whole = "\n\n".join(passages(split, domains=domains, seed=seed, characters=characters)) + "\n"
    return whole[: whole.rfind("\n", 0, characters) + 1]


def passages(
    split: Split, *, domains: Sequence[str] = DOMAINS, seed: int = 1, characters: int = 200_000
) -> Iterator[str]:
    """The documents of `text` one by one, the last of them whole."""
    _known(split, domains)
    streams = {domain: _passes(split, domain, seed) for domain in domains}
    sizes = dict.fromkeys(domains, 0)
    while sum(sizes.values()) < characters:
        domain = min(sizes, key=sizes.__getitem__)
        document = next(streams[domain], None)
        if document is None:
            raise EdgekitError(
                f"the {split} split has no more than {sizes[domain]} characters of `{domain}`",
                hint=f"ask for fewer than {sizes[domain] * len(sizes)} characters, or for other domains",
            )
        yield document
        sizes[domain] += len(document) + 2


def default_calibration() -> str:
    """240 000 characters of the four domains: what importance matrices are computed from where no text is given."""
    return text("calibration", characters=DEFAULT_CALIBRATION_CHARACTERS)


def _passes(split: Split, domain: str, seed: int) -> Iterator[str]:
    yield from documents(split, domain, seed=seed)
    if split == "train":
        for again in count(1):
            yield from documents(split, domain, seed=seed + again * 1_000_003)


def _drawable(count: int, domains: int) -> None:
    if not 1 <= count <= PER_PASS * domains:
        raise EdgekitError(f"between 1 and {PER_PASS * domains} items can be drawn here, not `{count}`")


def _known(split: str, domains: Sequence[str]) -> None:
    if split not in SPLITS:
        raise EdgekitError(f"unknown split (known: {', '.join(SPLITS)}): `{split}`")
    unknown = [domain for domain in domains if domain not in DOMAINS]
    if unknown or not domains:
        raise EdgekitError(f"unknown domain (known: {', '.join(DOMAINS)}): `{', '.join(unknown)}`")


__all__ = [
    "DOMAINS",
    "EVALUATION_ORIGIN",
    "SPLITS",
    "Bank",
    "Item",
    "Prompt",
    "Split",
    "default_calibration",
    "documents",
    "identity_patterns",
    "identity_prompts",
    "items",
    "items_for",
    "open_prompts",
    "read_bank",
    "split_of",
    "task_bank",
    "templates",
    "text",
]
