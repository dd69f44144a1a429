"""A teacher that is the student in another file is found by what it answers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgekit.bench import compare_responses, judge_answers, kin_finding
from edgekit.records import Answer, Answers, Estimate, Unknown


def answers(name: str, noise: float, *, seed: int = 1, each: int = 300) -> Answers:
    """Margins of one model of 70 % and of another that has `noise` times their spread laid over them."""
    dice, own = random.Random(seed), random.Random(name)
    found = []
    for number in range(each):
        margin = dice.gauss(1.0, 2.0) + own.gauss(0.0, 2.0 * noise)
        generated = number % 10 == 9
        found.append(
            Answer(
                item=f"item-{number}",
                domain="factual",
                template=f"t{number % 5}",
                mode="generate" if generated else "choice",
                correct=margin > 0,
                chance=0.0 if generated else 0.25,
                margin_nats=None if generated else float(f"{margin:.6g}"),
            )
        )
    return Answers(
        edgekit_version="0",
        model=name,
        artifact_sha256=name[0] * 64,
        bank="own",
        bank_sha256="ba" * 32,
        answers=tuple(found),
    )


@pytest.mark.parametrize("noise", [0.0052, 0.0236, 0.0989])
def test_another_build_is_warned_of(noise: float) -> None:
    """As much noise as q8_0, q4_k_m and q2_k put on trained models' margins, the last on the smallest."""
    student, build = answers("student", 0.0), answers("f16 of it", noise)
    found = kin_finding(student, build)
    assert found is not None
    assert (found.level, found.code) == ("warning", "teacher-is-kin")
    assert "`f16 of it` answers like another build of this very student" in found.message
    assert isinstance(judge_answers(student, build).overall.retention, Estimate)


@pytest.mark.parametrize("teacher", [answers("teacher", 0.65), answers("other", 0.0, seed=2)])
def test_a_teacher_is_none(teacher: Answers) -> None:
    assert kin_finding(answers("student", 0.0), teacher) is None


def test_the_same_weights_in_another_file_retain_nothing() -> None:
    """A twin whose metadata alone differ, and so its hash."""
    student = answers("student", 0.0)
    twin = replace(student, model="renamed", artifact_sha256="e" * 64)
    retention = judge_answers(student, twin).overall.retention
    assert isinstance(retention, Unknown)
    assert "this artifact's own weights" in retention.reason
    similarity = compare_responses(student, twin)
    assert isinstance(similarity.edit, Unknown)
    assert kin_finding(student, twin) is None  # what is said is said there

    changed = replace(twin.answers[0], margin_nats=(twin.answers[0].margin_nats or 0) * 1.00001)
    other = replace(twin, answers=(changed, *twin.answers[1:]))
    assert isinstance(judge_answers(student, other).overall.retention, Estimate)
    assert kin_finding(student, other) is not None


def test_little_says_nothing() -> None:
    few = answers("student", 0.0, each=30)  # 27 with choices
    assert kin_finding(few, answers("build", 0.01, each=30)) is None
    flat = replace(few, answers=tuple(replace(one, margin_nats=1.0) for one in answers("x", 0.0).answers))
    assert kin_finding(flat, replace(flat, artifact_sha256="e" * 64)) is None
    assert kin_finding(replace(answers("s", 0.0), stand_in=True), answers("t", 0.01)) is None
    huge = replace(few, answers=tuple(replace(one, margin_nats=1e300) for one in answers("x", 0.0).answers))
    assert kin_finding(huge, answers("s", 0.0)) is None, "a record of a stranger's overflows nothing"
