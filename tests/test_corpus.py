"""Splits that share nothing, the same bytes for the same seed, and answers that are right."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from itertools import islice

import pytest

from edgekit import corpus
from edgekit.corpus import coding, facts, phrasings, ranger, tables
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
    assert not held_out & all_lines("calibration", domain)


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


def test_held_out_facts_are_taught_in_other_words() -> None:
    for domain in tables.TABLES:
        told = " ".join(all_lines("train", domain)).lower()
        for fact in tables.facts(domain):
            said = [line for line in facts.lines("train", domain, fact) if " Answer" not in line]
            assert len(said) >= 12, fact
            assert all(line in all_lines("train", domain) for line in said)
        assert all(fact.value.lower() in told for fact in tables.facts(domain))


def test_every_sign_of_a_threat_is_taught() -> None:
    told = "\n".join(all_lines("train", "conservation"))
    parts = ranger.parts()
    signs = [sign for threat in parts["threats"].values() for sign in threat["signs"]]
    for sentence in [*signs, *parts["cleared"], *parts["plain"]]:
        assert all(piece in told for piece in sentence.split("{n}")), sentence
    assert len(signs) == len(set(signs)) >= 50


def test_every_attribute_is_said_and_asked() -> None:
    attributes = {fact.attribute for domain in tables.TABLES for fact in tables.facts(domain)}
    assert attributes == set(phrasings.STATEMENTS) == set(phrasings.QUESTIONS)
    assert set(phrasings.REVERSED) <= attributes
    assert {name.removesuffix("-reversed") for name in phrasings.SHORT} <= attributes


def test_tables_are_whole() -> None:
    numbers = [int(fact.value) for fact in tables.facts("factual") if fact.attribute == "number"]
    assert numbers == sorted(set(numbers))
    for attribute in ("capital", "symbol"):
        values = [fact.value for fact in tables.facts("factual") if fact.attribute == attribute]
        assert len(values) == len(set(values)) >= 40
    species = {fact.subject for fact in tables.facts("conservation")}
    assert len(species) >= 45
    assert len(tables.facts("conservation")) == len(species) * 8
    assert all(fact.value == fact.value.strip() for domain in tables.TABLES for fact in tables.facts(domain))


def test_values_that_may_both_be_true_do_not_exclude_each_other() -> None:
    def fact(value: str, *kind: str) -> tables.Fact:
        return tables.Fact(domain="d", table="t", subject=value, attribute="active", value=value, kind=kind)

    assert tables.exclusive(fact("by day"), fact("at night"))
    assert tables.exclusive(fact("at night"), fact("at dawn and dusk"))
    assert not tables.exclusive(fact("by day"), fact("by day and by night"))
    assert not tables.exclusive(fact("fish and squid"), fact("many fish"))
    assert tables.exclusive(fact("grass", "desert", "plants"), fact("ants", "ice", "insects"))
    assert not tables.exclusive(fact("grass", "desert", "plants"), fact("ants", "desert", "insects"))


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
        (lambda: corpus.items("evaluation", "factual", count=10**6), r"between 1 and 12000 items .*, not `1000000`"),
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
