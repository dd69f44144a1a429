"""How alike two models' responses are: the measures against their definitions, and what is said of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from students import random_student, tiny_student

from edgekit import corpus, open_artifact
from edgekit.bench.answering import answer
from edgekit.bench.similarity import (
    compare_responses,
    edit_similarity,
    final_answer,
    mean_likeness,
    word_overlap,
)
from edgekit.checkpoint import open_checkpoint
from edgekit.corpus import Bank
from edgekit.quantize.convert import convert
from edgekit.quantize.llama_quantize import quantize_gguf
from edgekit.records import Answers, Estimate, Figure, Response, Settings, Unknown
from edgekit.storage import from_json, to_json

PROMPTS = corpus.open_prompts()


def answers(texts: dict[str, str], sha: str = "1", **fields: object) -> Answers:
    record = Answers(
        edgekit_version="0",
        model=f"model-{sha}.gguf",
        artifact_sha256=sha * 64,
        bank="edgekit-tasks-1",
        bank_sha256="0" * 64,
        answers=(),
        responses=tuple(Response(prompt=name, text=text, tokens=5, stopped=True) for name, text in texts.items()),
    )
    return replace(record, **fields)  # type: ignore[arg-type]


def said(text: str) -> dict[str, str]:
    return {prompt.id: text for prompt in PROMPTS}


def value(figure: Figure) -> float:
    assert isinstance(figure, Estimate), figure
    return figure.value


def levenshtein(one: str, other: str) -> int:
    """Wagner & Fischer 1974, as the textbook has it."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_edit_similarity_is_levenshteins() -> None:
    dice = random.Random(3)
    for _ in range(60):
        one, other = ("".join(dice.choices("abç 日", k=dice.randint(0, 40))).strip() for _ in range(2))
        expected = 1 - levenshtein(one, other) / max(len(one), len(other), 1)
        assert edit_similarity(f" {one}\n", other) == pytest.approx(expected)
    assert edit_similarity("", "") == 1
    assert edit_similarity("", "a") == 0


def test_overlap_is_the_mean_f1_of_shared_grams() -> None:
    # 1-grams: 2 of 3 and 3 shared; 2-grams: 1 of 2 and 2; 3-grams: 0 of 1 and 1
    assert word_overlap("The otter dives", "the otter swims") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # repeated words count as often as both have them: 1 of 3 and 1
    assert word_overlap("yes yes yes", "yes") == pytest.approx((2 * 1 / 4 + 0 + 0) / 3)
    assert word_overlap("Mercury.", "mercury") == 1
    assert word_overlap("", "mercury") == 0
    assert word_overlap("…", "…") == 1
    assert word_overlap("…", "!") == 0
    assert 0 < word_overlap("我是谁", "我是你") < 1


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        (" 42", "number", "42"),
        ("14 + 9 = 23 people.", "number", "23"),
        ("The answer is 1,234.50", "number", "1234.5"),
        ("−3", "number", "-3"),
        ("8.0", "number", "8"),
        ("from 10-20", "number", "20"),
        ("Eight.", "number", "8"),
        ("no one knows", "number", ""),
        ("", "number", ""),
        (" Mercury.\nIt is", "word", "mercury"),
        ("It's Mercury!", "word", "mercury"),
        ("The answer is the Pacific Ocean", "word", "pacific ocean"),
        ("Paris is the capital of France", "word", ""),
        ("\n  Carbon   dioxide.", "line", "carbon dioxide"),
        ("'a-b-c'", "line", "'a-b-c'"),
        ("anything", "", ""),
    ],
)
def test_final_answers(text: str, kind: str, answer: str) -> None:
    assert final_answer(text, kind) == answer


def test_two_that_say_different_things_of_one_matter_do_not_agree() -> None:
    assert final_answer("Rome is the capital of France", "word") == final_answer(
        "Paris is the capital of France", "word"
    )
    ask = next(prompt for prompt in PROMPTS if prompt.final == "word")
    texts = {**said("7"), ask.id: "Paris is the capital of France"}
    found = compare_responses(answers({**texts, ask.id: "Rome is the capital of France"}), answers(texts, "2"))
    everyone = compare_responses(answers(said("7")), answers(said("7"), "2"))
    # a teacher's answer that cannot be read off is no agreement: the prompt is left out
    assert value(found.agreement) == value(everyone.agreement) == 1
    assert isinstance(found.agreement, Estimate)
    assert isinstance(everyone.agreement, Estimate)
    assert found.agreement.low < everyone.agreement.low


def test_the_same_responses_are_alike_and_keep_a_doubt() -> None:
    found = compare_responses(answers(said("An otter 7")), answers(said("An otter 7"), "2"))
    assert (found.teacher, found.responses) == ("model-2.gguf", len(PROMPTS))
    for figure in (found.edit, found.overlap, found.agreement):
        assert isinstance(figure, Estimate)
        assert figure.value == figure.high == 1
        assert 0.8 < figure.low < 0.97
    assert from_json(to_json(found), type(found), origin="test") == found


def test_other_responses_are_unlike() -> None:
    half = {prompt.id: "seven otters dive" if place % 2 else "zzz" for place, prompt in enumerate(PROMPTS)}
    found = compare_responses(answers(half), answers(said("seven otters dive"), "2"))
    assert 0.4 < value(found.edit) < 0.6
    assert value(found.overlap) == pytest.approx(0.5)
    assert isinstance(found.overlap, Estimate)
    assert found.overlap.low < 0.45 < 0.55 < found.overlap.high
    none = compare_responses(answers(said("")), answers(said("seven otters dive"), "2"))
    assert value(none.edit) == value(none.overlap) == value(none.agreement) == 0
    assert isinstance(none.edit, Estimate)
    assert 0.03 < none.edit.high < 0.1


def test_prompts_that_the_teacher_leaves_empty_do_not_count() -> None:
    quiet = {prompt.id: "7" if place < 12 else " \n" for place, prompt in enumerate(PROMPTS)}
    assert compare_responses(answers(said("7")), answers(quiet, "2")).responses == 12


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        (answers({}), answers(said("7"), "2"), "`0` responses can be compared"),
        (answers(dict(list(said("7").items())[:9])), answers(said("7"), "2"), "`9` responses can be compared"),
        (answers(said("7"), stand_in=True), answers(said("7"), "2"), "stand-in weights"),
        (answers(said("7")), answers(said("7"), "2", stand_in=True), "stand-in weights"),
        (answers(said("7")), answers(said("7")), "the artifact's own"),
    ],
)
def test_what_cannot_be_said_is_unknown(student: Answers, teacher: Answers, reason: str) -> None:
    found = compare_responses(student, teacher)
    for figure in (found.edit, found.overlap):
        assert isinstance(figure, Unknown)
        assert reason in figure.reason
    assert isinstance(found.agreement, Unknown)


def test_a_strangers_endless_response_takes_no_time() -> None:
    found = compare_responses(answers(said("ab" * 50_000)), answers(said("ba" * 50_000), "2"))
    assert value(found.edit) > 0.99


@pytest.mark.slow
def test_fewer_bits_write_other_things(tmp_path: Path) -> None:
    full = convert(open_checkpoint(tiny_student("qwen3")), tmp_path / "full.gguf", type="f16")
    paths = [quantize_gguf(full, tmp_path / f"{name}.gguf", name, threads=2) for name in ("q8_0", "q2_k")]
    paths.append(convert(open_checkpoint(random_student("qwen3")), tmp_path / "random.gguf", type="f16"))
    bank = Bank(name="one", version=1, items=corpus.items("evaluation", "reasoning", count=1))
    asked = {"prompts": PROMPTS[::3], "settings": Settings(repack=False), "threads": 2}
    teacher, *students = (answer(open_artifact(path), bank, **asked) for path in (full, *paths))
    fine, coarse, random = (compare_responses(student, teacher) for student in students)
    assert fine.responses == len(PROMPTS[::3])
    for name in ("edit", "overlap"):
        fine_value, coarse_value, random_value = (value(getattr(one, name)) for one in (fine, coarse, random))
        assert 1 >= fine_value > coarse_value > random_value + 0.2, name
        assert fine_value > 0.8, name
        assert random_value < 0.2, name


def test_ranges_hold_the_mean_of_the_population() -> None:
    """Beta-distributed likenesses with a domain effect, and populations of which a few are unlike the rest."""
    dice = random.Random(5)

    def draw(kind: str) -> tuple[list[float], float]:
        if kind == "spread":
            levels = [dice.choice((0.3, 0.45, 0.6)) for _ in range(56)]
            return [dice.betavariate(4 * level, 4 * (1 - level)) for level in levels], 0.45
        rare = 0.04
        return [0.0 if dice.random() < rare else 1.0 for _ in range(56)], 1 - rare

    for kind in ("spread", "rare"):
        held = 0
        for _ in range(120):
            values, truth = draw(kind)
            found = mean_likeness(values)
            held += found.low <= truth <= found.high
        assert held / 120 > 0.83, kind  # 90 % less what 120 draws blur
