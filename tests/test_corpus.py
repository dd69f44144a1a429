"""Splits that share nothing, the same bytes for the same seed, and answers that are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from itertools import islice

import pytest

from edgekit import corpus
from edgekit.corpus import coding, facts
from edgekit.errors import EdgekitError

PROSE = ("factual", "reasoning", "conservation")


@cache
def pages(split: corpus.Split, domain: str, seed: int = 1) -> tuple[str, ...]:
    return tuple(corpus.documents(split, domain, seed=seed))


@cache
def all_lines(split: corpus.Split, domain: str, seed: int = 1) -> frozenset[str]:
    return frozenset(line for page in pages(split, domain, seed) for line in page.splitlines())


@pytest.mark.parametrize("domain", PROSE)
def test_no_evaluation_line_is_trained_or_calibrated_on(domain: str) -> None:
    held_out = all_lines("evaluation", domain, 1)
    assert len(held_out) > 1500
    for seed in (1, 2):  # another seed must not move a line into another split
        assert not held_out & all_lines("train", domain, seed)
        assert not held_out & all_lines("calibration", domain, seed)


def test_no_evaluation_file_or_excerpt_is_trained_or_calibrated_on() -> None:
    found = {split: set(pages(split, "coding")) for split in corpus.SPLITS}
    assert all(len(excerpts) > 300 for excerpts in found.values())
    assert not found["evaluation"] & (found["train"] | found["calibration"])
    assert not found["calibration"] & found["train"]


def test_hardly_any_telling_line_of_evaluation_code_stands_elsewhere() -> None:
    def telling(split: corpus.Split) -> list[str]:
        return [
            line.strip() for page in pages(split, "coding") for line in page.splitlines() if len(line.strip()) >= 50
        ]

    elsewhere = set(telling("train")) | set(telling("calibration"))
    held_out = telling("evaluation")
    shared = [line for line in held_out if line in elsewhere]
    assert len(shared) / len(held_out) < 0.04  # the library copies itself here and there: 2.7 % in Python 3.11


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_no_evaluation_item_is_told_elsewhere(domain: str) -> None:
    asked = corpus.items("evaluation", domain, count=400)
    assert not {item.id for item in asked} & {item.id for item in corpus.items("train", domain, count=400)}
    assert len({item.id for item in asked}) == 400
    for split in ("train", "calibration"):
        told = all_lines(split, domain)
        assert not told & {item.line for item in asked}
        # not even the question, whatever its answer
        assert not {item.prompt for item in asked} & {line.rpartition(" Answer:")[0] + " Answer:" for line in told}


def test_held_out_facts_are_taught_in_other_words() -> None:
    taught = {
        (fact.subject, fact.attribute)
        for domain in ("factual", "conservation")
        for fact in facts.facts(domain)
        if any(corpus.split_of(line) == "train" for line in facts._lines(domain, fact))
    }
    every = {(fact.subject, fact.attribute) for domain in ("factual", "conservation") for fact in facts.facts(domain)}
    assert every == taught


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_items_hold_their_answer_once_among_different_choices(domain: str) -> None:
    for split in corpus.SPLITS:
        for item in corpus.items(split, domain, count=300):
            assert item.choices.count(item.answer) == 1
            assert len(set(item.choices)) == len(item.choices) >= 2
            assert item.prompt == item.prompt.strip()
            assert item.answer == item.answer.strip()
            assert "\n" not in item.line


def test_the_answer_is_not_always_at_one_place() -> None:
    places = [item.choices.index(item.answer) for item in corpus.items("evaluation", "factual", count=400)]
    assert all(60 < places.count(place) < 140 for place in range(4))


@pytest.mark.parametrize("item", corpus.items("evaluation", "coding", count=300), ids=lambda item: item.id)
def test_coding_answers_are_what_python_gives(item: corpus.Item) -> None:
    loop = re.search(r"`x = (\d+)` and `for i in range\((\d+)\): x \+= (\d+)`", item.prompt)
    if loop:
        start, turns, step = map(int, loop.groups())
        assert int(item.answer) == start + turns * step
        return
    code = item.prompt.split("`")[1].removeprefix("print(")
    if item.prompt.startswith("What does Python print"):
        code = code.removesuffix(")")
    assert repr(eval(code, {"__builtins__": {"len": len, "max": max, "min": min, "sum": sum, "sorted": sorted}})) == (
        item.answer
    )


def test_reasoning_answers_are_right() -> None:
    checked = 0
    for item in corpus.items("evaluation", "reasoning", count=1500):
        numbers = list(map(int, re.findall(r"\d+", item.prompt)))
        expected = {
            "sum": sum,
            "difference": lambda n: max(n) - min(n),
            "product": lambda n: n[0] * n[1],
            "larger": max if "larger" in item.prompt else min,
            "sequence": lambda n: n[-1] + n[1] - n[0],
        }.get(item.template)
        if expected is not None:
            assert item.answer == str(expected(numbers)), item.line
            checked += 1
        elif item.template == "order":
            assert item.answer == ", ".join(map(str, sorted(numbers, reverse="largest" in item.prompt))), item.line
            checked += 1
        else:
            assert item.answer == _chain_answer(item.prompt), item.line
            checked += 1
    assert checked == 1500


def _chain_answer(prompt: str) -> str:
    pairs = re.findall(r"(\w+) is (?:taller|older) than (\w+)", prompt)
    above, below = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    (answer,) = below - above if re.search("shortest|youngest", prompt) else above - below
    return answer


def test_tables_are_whole() -> None:
    numbers = [int(fact.value) for fact in facts.facts("factual") if fact.attribute == "number"]
    assert numbers == sorted(set(numbers))
    for attribute in ("capital", "symbol"):
        values = [fact.value for fact in facts.facts("factual") if fact.attribute == attribute]
        assert len(values) == len(set(values)) >= 40
    species = {fact.subject for fact in facts.facts("conservation")}
    assert len(species) >= 45
    assert len(facts.facts("conservation")) == len(species) * 8
    assert all(fact.value == fact.value.strip() for domain in facts.TABLES for fact in facts.facts(domain))


def test_text_takes_the_same_share_of_every_domain() -> None:
    whole = corpus.text("train", characters=100_000)
    assert 99_000 < len(whole) <= 100_000
    assert whole.endswith("\n")
    for domain in corpus.DOMAINS:
        own = all_lines("train", domain, 1)
        share = sum(len(line) + 1 for line in whole.splitlines() if line in own) / len(whole)
        assert 0.2 < share < 0.4, domain  # a blank line or `else:` counts for code


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    assert corpus.text("calibration", characters=50_000).startswith(corpus.text("calibration", characters=20_000))
    assert corpus.text("calibration", seed=2, characters=20_000) != corpus.text("calibration", characters=20_000)
    assert corpus.text("train", characters=3) == ""


def test_another_process_makes_the_same_bytes() -> None:
    code = "import hashlib; from edgekit import corpus; t = corpus.text('evaluation', characters=50_000);"
    code += "print(hashlib.sha256(t.encode()).hexdigest(), [i.id for i in corpus.items('train', 'coding', count=20)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(seen) == 1


def test_training_text_goes_on_and_held_out_text_does_not_repeat() -> None:
    passes = sum(len(page) + 2 for page in pages("train", "conservation"))
    assert len(corpus.text("train", domains=("conservation",), characters=passes + 50_000)) > passes
    with pytest.raises(EdgekitError, match=r"no more than \d+ characters of `conservation`") as failure:
        corpus.text("evaluation", domains=("conservation",), characters=5_000_000)
    assert "fewer than" in failure.value.hint


def test_default_calibration_has_four_domains_and_the_size_that_imatrix_needs() -> None:
    whole = corpus.default_calibration()
    assert 200_000 <= len(whole.encode()) <= 300_000
    assert whole == corpus.default_calibration()
    lines = whole.splitlines()
    prose = [line for line in lines if len(line) > 40]
    assert len(set(prose)) > 0.97 * len(prose)


def test_evaluation_text_reaches_half_a_megabyte_without_repeating() -> None:
    assert len(corpus.text("evaluation", characters=500_000)) > 499_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corpus.text("test"), r"unknown split \(known: train, calibration, evaluation\): `test`"),
        (lambda: corpus.documents("train", "poetry"), r"unknown domain \(known: factual, .*\): `poetry`"),
        (lambda: corpus.text("train", domains=()), "unknown domain"),
        (lambda: corpus.items("evaluation", "factual", count=10**6), r"only \d+ items, fewer than `1000000`"),
    ],
)
def test_bad_requests_name_what_is_known(call: object, message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        call()  # type: ignore[operator]


def test_a_python_without_sources_is_said(tmp_path, monkeypatch) -> None:
    coding._sources.cache_clear()
    monkeypatch.setattr(coding.sysconfig, "get_path", lambda name: str(tmp_path))
    try:
        with pytest.raises(EdgekitError, match="python's own sources") as failure:
            next(islice(corpus.documents("train", "coding"), 1))
        assert "libpython3-stdlib" in failure.value.hint
    finally:
        coding._sources.cache_clear()
