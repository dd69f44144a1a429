"""Files of samples read as a stranger's, chosen from, and cut into windows that weigh what a student should learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from students import random_student

pytest.importorskip("torch", reason="edgekit[distill] is not installed")
pytest.importorskip("transformers", reason="edgekit[distill] is not installed")

from edgekit.distill import samples as files
from edgekit.distill.questions import packed, questions
from edgekit.distill.samples import Sample, golden, read_samples, to_line
from edgekit.distill.selecting import select, windows_of_samples
from edgekit.errors import EdgekitError

LENGTH = 96


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(random_student("qwen3") / "tokenizer.json"))


def sample(completion: str = "blue", **fields: Any) -> Sample:
    found = {"id": f"own/{completion}", "item": "own", "domain": "own", "template": "own", "style": "answer"}
    return Sample(
        **found | {"prompt": "Which colour? Answer:", "completion": completion, "answer": completion} | fields
    )


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


# ---- files -----------------------------------------------------------------------------------------------------------


def test_every_sample_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = (
        sample(gold="blue", correct=True, agreement=0.6667, tokens=3, nats=-1.25),
        sample("red", gold="blue", correct=False, agreement=0.0, nats=0.0),
        sample("gre", gold="gre", correct=False, finished=False),
        sample("So it is blue. Answer: blue", answer="blue", style="rationale", gold="blue", correct=True),
        sample("I do not know.", answer="", style="rationale", agreement=0.0),
        sample("naïve\u2028 'quotes' 🦒"),
    )
    assert read_samples(write(tmp_path / "s.jsonl", *map(to_line, written))) == written


def test_anybodys_lines_are_samples_that_nobody_judged(tmp_path: Path) -> None:
    line = {"prompt": " Which colour? Answer:\n", "completion": " blue "}
    path = write(tmp_path / "s.jsonl", line, "", line, {**line, "completion": "red", "gold": "blue", "domain": "art"})
    one, other = read_samples(path)  # the same words twice teach nothing more
    assert (one.prompt, one.completion, one.answer, one.correct) == ("Which colour? Answer:", "blue", "blue", None)
    assert (other.domain, other.correct) == ("art", False)
    assert select((one, other), "all") == (one, other)
    with pytest.raises(EdgekitError, match="none of 2 samples is left by the strategy: `teacher-correct`") as failure:
        select((one, other), "teacher-correct")
    assert "take `all`" in failure.value.hint


GOOD = {"id": "a", "prompt": "Which colour? Answer:", "completion": "blue"}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("{", r"not JSON \(expecting property name", "one JSON object a line"),
        ("[]", "not a JSON object", "one JSON object"),
        ({"prompt": "a"}, "no `completion`", "one JSON object"),
        ({**GOOD, "completions": "x"}, "unknown key `completions`", "did you mean `completion`"),
        ('{"prompt": "a", "completion": "b", "completion": "c"}', "the key `completion` stands twice", ""),
        ({**GOOD, "completion": " \n"}, "`completion` is empty", ""),
        ({**GOOD, "completion": "x" * 64_001}, "`completion` has 64001 characters, more than 64000", ""),
        ({**GOOD, "prompt": ["x"]}, "`prompt` must be text in quotes", ""),
        ({**GOOD, "completion": "n\0"}, "`completion` holds characters that are no text", ""),
        ({**GOOD, "answer": "red"}, "the answer does not stand in the completion", ""),
        ({**GOOD, "gold": "red", "correct": True}, "`correct` is not what `answer` and `gold` say", ""),
        ({**GOOD, "correct": True}, "`correct` is not what `answer` and `gold` say", ""),
        ({**GOOD, "finished": 1}, "`finished` must be true or false", ""),
        ({**GOOD, "agreement": 1.5}, "`agreement` in .* must be at most 1", ""),
        ({**GOOD, "nats": 0.5}, "`nats` in .* must be at most 0", ""),
        ({**GOOD, "nats": "-1"}, "`nats` in .* must be a number", ""),
        ('{"prompt": "a", "completion": "b", "nats": NaN}', "`nats` in .* must be finite", ""),
        ({**GOOD, "tokens": -1}, "`tokens` in .* must be at least 0", ""),
        ({**GOOD, "id": "first"}, "the id `first` is taken by an earlier line", "must differ"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str, hint: str) -> None:
    path = write(tmp_path / "s.jsonl", {**GOOD, "id": "first", "prompt": "Other"}, line, "never read")
    with pytest.raises(EdgekitError, match=message) as failure:
        read_samples(path)
    assert f"{path}:2" in failure.value.message
    assert "\n" not in failure.value.message
    assert hint in failure.value.hint


def test_files_without_samples_and_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.jsonl"
    with pytest.raises(EdgekitError, match=r"cannot read samples \(no such file"):
        read_samples(path)
    with pytest.raises(EdgekitError, match="no samples in"):
        read_samples(write(path, " "))
    with pytest.raises(EdgekitError, match="no samples in"):
        read_samples(write(path, " "), empty=True)  # not one of ours
    assert read_samples(write(path, {"kind": "edgekit-samples", "version": 1}), empty=True) == ()
    monkeypatch.setattr(files, "MAX_SAMPLES", 1)
    with pytest.raises(EdgekitError, match="more than 1 samples"):
        read_samples(write(path, GOOD, {**GOOD, "id": "b"}))
    monkeypatch.setattr(files, "MAX_BYTES", 9)
    with pytest.raises(EdgekitError, match="samples are larger than 9 B"):
        read_samples(path)


# ---- choosing --------------------------------------------------------------------------------------------------------

FOUND = (
    sample("right", gold="right", correct=True),
    sample("wrong", gold="right", correct=False, agreement=1.0),  # however sure the teacher is
    sample("cut", finished=False, agreement=1.0),
    sample("most", agreement=0.6),
    sample("half", agreement=0.5),
    sample("unjudged"),
)


def names(chosen: tuple[Sample, ...]) -> list[str]:
    return [one.completion for one in chosen]


def test_strategies_choose_what_they_say() -> None:
    assert names(select(FOUND, "all")) == ["right", "wrong", "most", "half", "unjudged"]
    assert names(select(FOUND, "all", count=2)) == ["right", "wrong"]
    assert names(select(FOUND, "teacher-correct")) == ["right", "most"]
    apart = (0.1, 9.0, 9.0, 0.3, 9.0, 9.0)
    assert names(select(FOUND, "disagreement-first", apart=apart)) == ["most", "right"]
    assert names(select(FOUND, "disagreement-first", apart=apart, count=1)) == ["most"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("teacher-corect", {}), "unknown strategy of selection: `teacher-corect`"),
        (("all", {"count": 0}), "a selection is of one sample or more, not `0`"),
        (("disagreement-first", {}), "takes one figure for each of 6 samples, not `0`"),
    ],
)
def test_choices_that_make_no_sense_are_refused(arguments: tuple[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(EdgekitError, match=message) as failure:
        select(FOUND, arguments[0], **arguments[1])
    assert failure.value.hint or arguments[1]


def test_gold_labels_stand_for_each_prompt_once() -> None:
    one = sample("red", item="i1", gold="blue", correct=False)
    found = golden([one, replace(one, id="i1/2"), sample("x", item="i2"), replace(one, item="i3", style="rationale")])
    assert [(each.id, each.prompt, each.completion, each.usable) for each in found] == [
        ("i1/gold", one.prompt, "blue", True)
    ]


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_right_answers_make_the_windows_that_questions_make(tokenizer: Any) -> None:
    items = questions("train", each=2)
    right = [sample(item.answer, id=item.id, prompt=item.prompt, gold=item.answer, correct=True) for item in items]
    for weight in (0.05, 0.0):
        wanted = packed(tokenizer, items, length=LENGTH, prompt_weight=weight)
        assert windows_of_samples(tokenizer, right, LENGTH, weight) == wanted


def test_reasons_weigh_what_they_are_told_to(tokenizer: Any) -> None:
    reasoned = sample("40 + 7 = 47. Answer: 47", answer="47", style="rationale", prompt="What is 40 + 7? Reasoning:")
    unfinished = sample("Who knows?", answer="", style="rationale", prompt="What is 1 + 7? Reasoning:")
    ids, weights = windows_of_samples(tokenizer, [reasoned, unfinished], LENGTH, 0.05, reasoning_weight=0.3)

    def said(weight: float) -> str:
        found: str = tokenizer.decode([token for token, own in zip(ids, weights, strict=True) if own == weight])
        return found

    assert said(0.05) == "What is 40 + 7? Reasoning:What is 1 + 7? Reasoning:"
    assert said(0.3) == " 40 + 7 = 47. Answer: Who knows?"
    assert said(1.0) == " 47\n\n"  # of what came to no answer only its end
    assert len(ids) == len(weights) == LENGTH + 1


def test_a_window_that_is_too_narrow_says_so(tokenizer: Any) -> None:
    with pytest.raises(EdgekitError, match="none of 1 samples fits a window of tokens: `2`"):
        windows_of_samples(tokenizer, [sample()], 2, 0.05)
