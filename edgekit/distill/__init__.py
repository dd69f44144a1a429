"""Training: students from scratch (plain cross-entropy), with tokenizers of the real families."""

from __future__ import annotations

from edgekit.distill.students import Recipe, make_student, random_student
from edgekit.distill.training import NextToken, next_token, train_causal, unigram_entropy

__all__ = [
    "NextToken",
    "Recipe",
    "make_student",
    "next_token",
    "random_student",
    "train_causal",
    "unigram_entropy",
]
