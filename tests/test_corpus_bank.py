"""Banks: edgekit's own, evenly spread; users' own, read as a stranger's file; and how large one must be."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest

from edgekit import corpus
from edgekit.corpus import bank_file
from edgekit.errors import EdgekitError


def test_a_bank_takes_the_same_share_of_every_domain_and_template() -> None:
    bank = corpus.task_bank(items=2000)
    assert (bank.name, bank.version, bank.domains) == ("edgekit-tasks-1", 1, corpus.DOMAINS)
    assert Counter(item.domain for item in bank.items) == dict.fromkeys(corpus.DOMAINS, 500)
    assert len({item.id for item in bank.items}) == 2000
    for domain in corpus.DOMAINS:
        sizes = Counter(item.template for item in bank.items if item.domain == domain)
        assert len(sizes) >= 12
        assert max(sizes.values()) - min(sizes.values()) <= 15, sizes
        assert min(sizes.values()) >= 15
        assert any(item.mode == "generate" for item in bank.items if item.domain == domain)


@pytest.mark.slow
def test_ten_thousand_questions_are_there() -> None:
    bank = corpus.task_bank(items=10_400)
    assert Counter(item.domain for item in bank.items) == dict.fromkeys(corpus.DOMAINS, 2600)
    assert len({item.id for item in bank.items}) == len({item.line for item in bank.items}) == 10_400
    assert {corpus.Item.__name__} == {type(item).__name__ for item in bank.items}


def test_fewer_items_are_the_beginning_of_more() -> None:
    assert corpus.task_bank(items=600).items == corpus.task_bank(items=900).items[:600]
    chosen = corpus.task_bank(items=50, domains=("coding", "factual"))
    assert chosen.domains == ("coding", "factual")
    assert corpus.task_bank(items=50, seed=2).items != corpus.task_bank(items=50).items


def test_the_hash_is_of_the_very_questions() -> None:
    bank = corpus.task_bank(items=40)
    assert bank.sha256 == corpus.task_bank(items=40).sha256
    assert replace(bank, name="other").sha256 == bank.sha256
    seen = {bank.sha256}
    first, *rest = bank.items
    for changed in (
        {"id": "x"},
        {"domain": "x"},
        {"template": "x"},
        {"mode": "generate"},
        {"prompt": "x"},
        {"answer": "x"},
        {"choices": first.choices[::-1]},
    ):
        seen.add(replace(bank, items=(replace(first, **changed), *rest)).sha256)
    seen.add(replace(bank, items=(*rest, first)).sha256)
    seen.add(replace(bank, items=tuple(rest)).sha256)
    assert len(seen) == 10


def test_another_process_makes_the_same_bank() -> None:
    code = "from edgekit import corpus; print(corpus.task_bank(items=200).sha256)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == corpus.task_bank(items=200).sha256


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corpus.task_bank(items=0), "between 1 and 48000 items can be drawn here, not `0`"),
        (lambda: corpus.task_bank(domains=("factual", "poetry")), r"unknown domain \(known: .*\): `poetry`"),
        (lambda: corpus.task_bank(domains=()), "unknown domain"),
        (lambda: corpus.items_for(2.7), "half-width must be a share .*: `2.7`"),
        (lambda: corpus.items_for(0), "half-width must be a share .*: `0`"),
        (lambda: corpus.items_for(0.02, discordance=-1), "discordance must be a share"),
    ],
)
def test_bad_requests_are_refused(call: object, message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        call()  # type: ignore[operator]


def test_the_size_of_a_bank_gives_the_half_width_that_was_asked_for() -> None:
    assert 2000 <= corpus.items_for(0.027) <= 2200
    assert 3700 <= corpus.items_for(0.02) <= 4000
    count, edge = corpus.items_for(0.03), 0.6
    dice = random.Random(1)
    found = []
    for _ in range(400):  # 21 % of the items are answered rightly by one of the two alone
        drawn = dice.choices((1, -1, 0), weights=(0.105, 0.105, 0.79), k=count)
        found.append(sum(drawn) / count / edge)
    found.sort()
    assert (found[379] - found[20]) / 2 == pytest.approx(0.03, rel=0.12)
    assert corpus.items_for(0.03, discordance=0.105) == pytest.approx(count / 2, abs=1)
    assert corpus.items_for(0.03 / sqrt(2)) == pytest.approx(2 * count, abs=2)


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


GOOD = {"prompt": "Is a bat a bird? Answer:", "answer": "no", "choices": ["yes", "no"]}


def test_a_users_bank_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        GOOD,
        "",
        {"prompt": " 2 + 2 =\n", "answer": " 4 ", "domain": "sums", "template": "sum", "id": "s1"},
        "  ",
    )
    bank = corpus.read_bank(path)
    first, second = bank.items
    assert (bank.name, bank.domains) == ("own.jsonl", ("own", "sums"))
    assert (first.choices, first.mode, first.chance) == (("yes", "no"), "choice", 0.5)
    assert first.template == first.id  # stands for itself
    assert second == corpus.Item(id="s1", domain="sums", template="sum", prompt="2 + 2 =", answer="4", mode="generate")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert corpus.read_bank(path).sha256 == bank.sha256


def test_questions_without_an_answer_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", {"prompt": "Where do otters sleep?"}, GOOD)
    with pytest.raises(EdgekitError, match="no `answer`"):
        corpus.read_bank(path)
    open_one, known = corpus.read_bank(path, answered=False).items
    assert (open_one.answer, open_one.mode, known.answer) == ("", "generate", "no")
    with pytest.raises(EdgekitError, match="the answer is none of the choices"):
        corpus.read_bank(write(path, {"prompt": "a", "choices": ["yes", "no"]}), answered=False)


def test_json_texts_may_hold_line_separators(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "one\u2028two\nthree", "answer": "x\u0085y"}, ensure_ascii=False)
    (item,) = corpus.read_bank(write(tmp_path / "own.jsonl", line)).items
    assert item.prompt == "one\u2028two\nthree"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("{", r"not JSON \(expecting property name", "one JSON object a line"),
        ('{"prompt": "a", "answer": "b"} {}', r"not JSON \(extra data at column 32\)", "one JSON object"),
        ("[" * 100_000, "not JSON", "one JSON object"),
        ('{"prompt": ' + "9" * 5000 + "}", "not JSON that is read here", "one JSON object"),
        ("[]", "not a JSON object", "one JSON object"),
        ('"text"', "not a JSON object", "one JSON object"),
        ({}, "no `prompt`", "one JSON object"),
        ({"prompt": "a"}, "no `answer`", "one JSON object"),
        ({**GOOD, "choises": []}, "unknown key `choises`", "did you mean `choices`"),
        ({**GOOD, "weight": 2}, "unknown key `weight`", "known: prompt, answer, choices, domain, template, id"),
        ('{"prompt": "a", "answer": "b", "answer": "c"}', "the key `answer` stands twice", ""),
        ({**GOOD, "prompt": 3}, "`prompt` must be text in quotes", ""),
        ({**GOOD, "prompt": " \n"}, "`prompt` is empty", ""),
        ({**GOOD, "prompt": "x" * 32_001}, "`prompt` has 32001 characters, more than 32000", ""),
        ({**GOOD, "domain": "x" * 61}, "`domain` has 61 characters, more than 60", ""),
        ('{"prompt": "\\ud800", "answer": "b"}', "`prompt` holds characters that are no text", ""),
        ({**GOOD, "answer": "n\0"}, "`answer` holds characters that are no text", ""),
        ({**GOOD, "answer": "No"}, "the answer is none of the choices", "the answer among them"),
        ({**GOOD, "choices": ["no"]}, "`choices` must be a list of 2 to 26 texts", "two or more"),
        ({**GOOD, "choices": {"a": "yes", "b": "no"}}, "`choices` must be text in quotes", ""),
        ({**GOOD, "choices": None}, "`choices` must be a list", "two or more"),
        ({**GOOD, "choices": ["no", 1]}, "`choices` must be text in quotes", ""),
        ({**GOOD, "choices": ["no", "yes", " no"]}, "holds the same text twice", "two or more different"),
        ({**GOOD, "choices": [str(n) for n in range(26)] + ["no"]}, "2 to 26 texts", ""),
        ({"prompt": "a", "answer": "b\nc"}, "an answer of several lines", "give choices"),
        (GOOD, "line 2 asks what line 1 asks", "leave one of them out"),
        ({**GOOD, "prompt": "other", "id": "first"}, "the id `first` is taken", "must differ"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str, hint: str) -> None:
    path = write(tmp_path / "own.jsonl", {**GOOD, "id": "first"}, line, {"prompt": "later", "answer": "never read"})
    with pytest.raises(EdgekitError, match=message) as failure:
        corpus.read_bank(path)
    assert failure.value.message.endswith(f"`{path}:2`")
    assert "\n" not in failure.value.message
    assert hint in failure.value.hint


def test_files_that_are_no_bank_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.jsonl"
    with pytest.raises(EdgekitError, match=r"cannot read questions \(no such file"):
        corpus.read_bank(path)
    with pytest.raises(EdgekitError, match=r"cannot read questions \(is a directory"):
        corpus.read_bank(tmp_path)
    with pytest.raises(EdgekitError, match="no questions in") as failure:
        corpus.read_bank(write(path, "", " "))
    assert '{"prompt"' in failure.value.hint
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + b'{"prompt": "caf\xe9"}')
    with pytest.raises(EdgekitError, match=f"not UTF-8: `{path}:3`"):
        corpus.read_bank(path)
    monkeypatch.setattr(bank_file, "MAX_ITEMS", 1)
    with pytest.raises(EdgekitError, match="more than 1 questions"):
        corpus.read_bank(write(path, GOOD, {**GOOD, "prompt": "b"}))
    monkeypatch.setattr(bank_file, "MAX_BYTES", 20)
    with pytest.raises(EdgekitError, match="questions are larger than 20 B"):
        corpus.read_bank(path)
