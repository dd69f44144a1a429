"""The open and the identity prompts: what they cover, that ids follow from their words, and that none is taught."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from edgekit import corpus
from edgekit.corpus import prompts
from edgekit.errors import EdgekitError

ALL = (*corpus.open_prompts(), *corpus.identity_prompts())


def test_every_domain_has_its_open_prompts_and_final_answers() -> None:
    asked = Counter(prompt.domain for prompt in corpus.open_prompts())
    final = Counter(prompt.domain for prompt in corpus.open_prompts() if prompt.final)
    assert set(asked) == set(corpus.DOMAINS)
    assert min(asked.values()) >= 12
    assert min(final.values()) >= 5
    assert {prompt.final for prompt in corpus.open_prompts()} == {"number", "word", "line", ""}


def test_prompts_end_without_a_space_and_are_one_of_a_kind() -> None:
    assert all(prompt.prompt == prompt.prompt.strip() != "" for prompt in ALL)
    assert len({prompt.id for prompt in ALL}) == len({prompt.prompt for prompt in ALL}) == len(ALL)
    assert all(re.fullmatch(r"[a-z]+-prompt-[0-9a-f]{12}", prompt.id) for prompt in ALL)
    assert all(prompt.stop and 0 < prompt.max_tokens <= 64 for prompt in ALL)


def test_an_id_follows_from_all_that_is_asked() -> None:
    entry = {"domain": "factual", "prompt": "Why?", "max_tokens": 8}
    first = prompts._prompt(entry, "test")
    assert first == prompts._prompt(dict(entry), "test")
    for change in ({"prompt": "Why not?"}, {"max_tokens": 9}, {"final": "word"}, {"lead": "Because"}):
        assert prompts._prompt({**entry, **change}, "test").id != first.id


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"prompt": "Why?", "maxtokens": 9}, "unknown key"),
        ({"prompt": "Why?", "max_tokens": 0}, "at least 1"),
        ({"prompt": "Why?", "final": "essay"}, "cannot be `essay`"),
    ],
)
def test_a_slip_in_the_list_is_refused(entry: dict[str, object], said: str) -> None:
    with pytest.raises(EdgekitError, match=said):
        prompts._prompt(entry, "test")


@pytest.mark.slow
def test_no_open_prompt_stands_in_what_students_are_taught() -> None:
    asked = [line for prompt in corpus.open_prompts() for line in prompt.prompt.splitlines() if len(line) > 40]
    assert len(asked) > 40
    for domain in corpus.DOMAINS:
        taught = "\n".join(["", *corpus.documents("train", domain)])
        assert len(taught) > 100_000
        assert not [line for line in asked if f"\n{line}" in taught]
