"""Whether a teacher is the student in another file: by what both answer, since what a file says of its origin can be
missing, or written by anyone.

The margins by which a model prefers its choices are its fingerprint. Another build of the same weights keeps them to a
few per cent, a student that was distilled to little more than their sign.
"""

from __future__ import annotations

import math

from edgekit.records import Answers, Finding

FEWEST = 30
"""Margins below which likeness may be chance."""

ALIKE = 0.98
"""Correlation of margins from which on two models are builds of one. Trained pairs of 0.2 to 2 million parameters on
380 questions: q8_0 against f16 1.0000, q4_k_m 0.9995, q2_k 0.9935; student against teacher 0.70.
"""


def one_model(student: Answers, teacher: Answers) -> str:
    """Why both are one model; empty where they are not known to be. They are one file, or hold the very same weights:
    every margin is the same to its last digit, whatever their metadata say.
    """
    if student.artifact_sha256 and student.artifact_sha256 == teacher.artifact_sha256:
        return "the teacher is this very artifact"
    pairs = _margins(student, teacher)
    if len({own for own, _ in pairs}) >= FEWEST and all(own == theirs for own, theirs in pairs):
        return "the teacher holds this artifact's own weights: it prefers every choice by the very same margin"
    return ""


def kin_finding(student: Answers, teacher: Answers) -> Finding | None:
    """A warning where the teacher is another build of the student's weights: what retention says then."""
    pairs = _margins(student, teacher)
    likeness = _correlation(pairs)
    if student.stand_in or len(pairs) < FEWEST or likeness < ALIKE or one_model(student, teacher):
        return None
    return Finding(
        level="warning",
        code="teacher-is-kin",
        message=f"the teacher `{teacher.model}` answers like another build of this very student (its margins correlate"
        f" by {likeness:.4f}): retention says what that build cost, not what distilling did",
        hint="give the answers of the real teacher; the full-precision build is a `--reference`",
    )


def _margins(student: Answers, teacher: Answers) -> list[tuple[float, float]]:
    """Of every question with choices that both answered."""
    found = []
    for own, theirs in zip(student.answers, teacher.answers, strict=False):
        if own.item == theirs.item and own.margin_nats is not None and theirs.margin_nats is not None:
            found.append((_within(own.margin_nats), _within(theirs.margin_nats)))
    return found


_MOST_NATS = 1e6
"""Beyond any margin that a model can have, and still to be squared: records come from strangers."""


def _within(margin_nats: float) -> float:
    return max(-_MOST_NATS, min(margin_nats, _MOST_NATS))


def _correlation(pairs: list[tuple[float, float]]) -> float:
    """Pearson's; 0 where one side does not vary."""
    if not pairs:
        return 0.0
    means = [math.fsum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    apart = [(own - means[0], theirs - means[1]) for own, theirs in pairs]
    spread = math.fsum(own**2 for own, _ in apart) * math.fsum(theirs**2 for _, theirs in apart)
    return math.fsum(own * theirs for own, theirs in apart) / math.sqrt(spread) if spread > 0 else 0.0
