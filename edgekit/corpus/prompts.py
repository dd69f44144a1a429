"""Prompts that a model goes on from freely: open ones of the four domains, and ones that ask who it is.

They stand in `prompts.toml` and `identity.toml`. A prompt is asked as plain text, without a chat template: so the same
prompt reaches every artifact in the same words. Its id holds a hash of all that is asked, so that responses kept from
an older list are never held against a prompt that has changed since.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from edgekit.errors import EdgekitError
from edgekit.tables import choice_at, parse_toml, refuse_unknown, tables_at, text_at, whole_at

Final = Literal["number", "word", "line", ""]
"""What the final answer is; empty where there is none to compare."""

IDENTITY = "identity"
OPEN_STOP = ("\n\n", "\nQuestion:", "\nUser:")
"""Where a model would begin to ask itself the next question."""

LINE_STOP = ("\n",)
_KEYS = ("domain", "prompt", "lead", "max_tokens", "final")
_MOST_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`prompt` is generated from greedily, until one of `stop` or `max_tokens`; it ends without a space."""

    id: str
    domain: str
    prompt: str
    max_tokens: int
    final: Final = ""
    stop: tuple[str, ...] = OPEN_STOP
    lead: str = ""
    """The end of `prompt` that the answer goes on from: part of what the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A known line of models: what its models are called and who makes them, as people write them."""

    name: str
    names: tuple[str, ...]
    makers: tuple[str, ...]
    common: bool
    """Whether its names mean something else too, such as an animal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """How a model says who it is; every phrase is a sequence of words. `edgekit.bench.self_claims` reads them."""

    families: tuple[Family, ...]
    being: tuple[str, ...]
    """Before a model's name: `i am`."""
    made: tuple[str, ...]
    """Before a maker's: `developed by`."""
    after: tuple[str, ...]
    """After either: `created me`."""
    labels: tuple[str, ...]
    """Right before either: `developer`."""
    denials: tuple[str, ...]
    """Words that take a claim back: `not`, `unlike`."""
    neutral: tuple[str, ...]
    """Phrases that hold such a word and take nothing back: `like to`."""
    detours: tuple[str, ...]
    """Words after which `i am` speaks of something else: `about`."""
    selves: tuple[str, ...]
    """Words for oneself: `my`."""
    others: tuple[str, ...]
    """Words for what was named before: `it`."""
    strangers: tuple[str, ...]
    """Words for what is never oneself: `people`."""
    breaks: tuple[str, ...]
    """Words that begin a new clause: `but`."""
    fillers: tuple[str, ...]
    """Words that a bare name may stand with: `model`."""
    questions: tuple[str, ...]
    """What a question begins with: `am`."""
    asking: tuple[str, ...]
    """What a question goes on with, wherever it stands: `how can i`."""
    particles: tuple[str, ...]
    """Words that make a question of their clause."""
    roles: tuple[str, ...]
    """Before a name that one takes on: `as`."""
    greetings: tuple[str, ...]
    """Words that an announcement may begin with: `hi`."""


@cache
def open_prompts() -> tuple[Prompt, ...]:
    """Open prompts over the four domains, in a fixed order; about half have a final answer that can be compared."""
    return _prompts("prompts.toml")


@cache
def identity_prompts() -> tuple[Prompt, ...]:
    """Prompts that ask a model who it is and who made it, in several ways and languages; none names a model."""
    return _prompts("identity.toml")


@cache
def identity_patterns() -> Patterns:
    """The known families of models, and how models say what they are."""
    table = _table("identity.toml")
    families = tuple(
        Family(
            name=entry["name"],
            names=tuple(entry["names"]),
            makers=tuple(entry["makers"]),
            common=entry.get("common", False),
        )
        for entry in table["family"]
    )
    phrases = {name: tuple(words) for name, words in table["phrases"].items()}
    return Patterns(families=families, **phrases)


def _prompts(name: str) -> tuple[Prompt, ...]:
    prompts = tuple(_prompt(entry, name) for entry in tables_at(_table(name), "prompt", where=name))
    if len({prompt.id for prompt in prompts}) != len(prompts):
        raise EdgekitError(f"a prompt stands twice in: `{name}`")
    return prompts


def _prompt(entry: dict[str, Any], where: str) -> Prompt:
    refuse_unknown(entry, _KEYS, where=where)
    domain = text_at(entry, "domain", where=where, default=IDENTITY)
    final: Any = choice_at(entry, "final", get_args(Final), where=where, default="")
    tokens = whole_at(entry, "max_tokens", where=where, default=64, low=1, high=_MOST_TOKENS)
    lead = text_at(entry, "lead", where=where, default="")
    whole = " ".join(part for part in (entry.get("prompt", ""), lead) if part)
    stop = LINE_STOP if final else OPEN_STOP
    asked = json.dumps([whole, tokens, final, *stop], ensure_ascii=False)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return Prompt(
        id=f"{domain}-prompt-{digest[:12]}",
        domain=domain,
        prompt=whole,
        max_tokens=tokens,
        final=final,
        stop=stop,
        lead=lead,
    )


def _table(name: str) -> dict[str, Any]:
    return parse_toml((files("edgekit.corpus") / name).read_bytes(), what="edgekit's own prompts", origin=name)
