"""Questions packed for training: every window begins with one, and only answers count in full."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from students import random_student

pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit import corpus
from edgekit.distill.questions import packed, questions

LENGTH = 96


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(random_student("qwen3") / "tokenizer.json"))


def test_questions_are_of_every_domain_and_of_the_split_alone() -> None:
    trained, held_out = questions("train", each=4), questions("evaluation", each=4)
    counts = Counter(item.template for item in trained)
    assert len(counts) > 80
    assert set(counts.values()) == {4}
    assert {item.template for item in questions("train", each=3, templates=("sum", "kind"))} == {"sum", "kind"}
    assert {item.domain for item in trained[:40]} == set(corpus.DOMAINS)  # shuffled
    assert not {item.line for item in trained} & {item.line for item in held_out}


def test_every_window_begins_with_a_line_and_ends_in_filler(tokenizer: Any) -> None:
    items = questions("train", each=3)
    ids, weights = packed(tokenizer, items, length=LENGTH, prompt_weight=0.05)
    assert len(ids) == len(weights)
    assert len(ids) % LENGTH == 1  # the last window foretells one more
    starts = [tokenizer.decode(ids[at : at + LENGTH]).split("\n")[0] for at in range(0, len(ids) - 1, LENGTH)]
    lines = {item.line for item in items}
    assert len(starts) > 20
    assert all(start in lines for start in starts)
    fits = {item.line for item in items if len(tokenizer.encode(f"{item.line}\n").ids) <= LENGTH}
    assert set(tokenizer.decode(ids).split("\n")) - {""} == fits
    assert fits < lines  # some reports are longer


def test_the_answers_and_the_ends_of_lines_count(tokenizer: Any) -> None:
    items = [item for item in questions("train", each=3) if item.domain == "factual"]
    ids, weights = packed(tokenizer, items, length=LENGTH, prompt_weight=0.05)
    counted = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 1])
    assert counted == "".join(f" {item.answer}\n" for item in items)
    asked = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 0.05])
    assert asked == "".join(item.prompt for item in items)
