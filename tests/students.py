"""Tiny students of each architecture for the tests, trained once (seconds) and cached in the user's cache folder.

`tiny_student` has learned: its held-out loss is far below the unigram entropy, so what quantizing costs it means
something. `random_student` has not, but no norm of it is one and no bias zero, so that a forgotten tensor shows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

from edgekit import corpus
from edgekit.corpus.bank import spread
from edgekit.distill import Recipe, make_student
from edgekit.distill import random_student as make_random

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}

LLAMA = Recipe(
    name="tiny-llama",
    architecture="llama",
    tokenizer="llama3",
    hidden=256,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ffn=512,
    vocabulary=2048,
    tied=False,
    extra=(("rope_theta", 500_000.0), ("rope_scaling", LLAMA3_ROPE), ("rms_norm_eps", 1e-5)),
    characters=1_200_000,
    steps=240,
    batch=2,
    length=512,  # what evaluations take: positions that training never saw would be noise
    learning_rate=3e-3,
)

RECIPES = {
    # Llama 3: untied, scaled rotary frequencies
    "llama": LLAMA,
    # SmolLM2: tied, its own pre-tokenizer, special tokens first
    "llama-tied": replace(LLAMA, name="tiny-llama-tied", tokenizer="smollm", tied=True, extra=(("rope_theta", 1e5),)),
    # Llama 2: SentencePiece with byte fallback
    "llama-spm": replace(LLAMA, name="tiny-llama-spm", tokenizer="llama2", extra=(("rope_theta", 1e4),)),
    # Qwen2.5: attention biases, an embedding wider than the tokenizer
    "qwen2": replace(
        LLAMA,
        name="tiny-qwen2",
        architecture="qwen2",
        tokenizer="qwen2",
        tied=True,
        spare=45,
        extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
    ),
    # Qwen3: norms on queries and keys, heads wider than hidden / heads
    "qwen3": replace(
        LLAMA,
        name="tiny-qwen3",
        architecture="qwen3",
        tokenizer="qwen3",
        tied=True,
        head_dim=128,
        extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
    ),
    # Gemma 3: five sliding layers to a full one (six layers are the fewest that have both), norms around one
    "gemma3": replace(
        LLAMA,
        name="tiny-gemma3",
        architecture="gemma3_text",
        tokenizer="gemma",
        tied=True,
        layers=6,
        kv_heads=1,
        ffn=256,
        vocabulary=1536,
        extra=(("sliding_window", 64), ("query_pre_attn_scalar", 64)),
    ),
}

# What two million parameters learn to answer in a minute, of each domain
TAUGHT = (
    *("capital", "capital-short", "continent", "language", "which-continent"),
    *("larger", "order", "syllogism"),
    *("error", "kind", "extreme"),
    *("group", "region", "which-group", "report-threat"),
)

# Trained on questions: models that really answer, for tests of tasks and retention
TASK_STUDENT = replace(
    LLAMA,
    name="task-student",
    architecture="qwen3",
    tokenizer="qwen3",
    tied=True,
    head_dim=64,
    extra=(("rope_theta", 1e6), ("rms_norm_eps", 1e-6)),
    layers=1,
    ffn=256,
    characters=600_000,
    questions=250,
    templates=TAUGHT,
    steps=400,
    batch=6,
    length=192,
    learning_rate=4e-3,
)
TASK_TEACHER = replace(TASK_STUDENT, name="task-teacher", layers=2, ffn=768, steps=900)


def task_teacher() -> Path:
    """Folder of a model that answers `task_questions` far better than chance."""
    return make_student(TASK_TEACHER)


def task_student() -> Path:
    """Folder of a smaller one with the same tokenizer, between chance and its teacher."""
    return make_student(TASK_STUDENT)


def task_questions(count: int = 400) -> corpus.Bank:
    """Evaluation questions of the kinds that both were taught, spread evenly over domains and templates."""
    streams = [
        [stream for name, stream in corpus.templates("evaluation", domain).items() if name in TAUGHT]
        for domain in corpus.DOMAINS
    ]
    return corpus.Bank(name="taught", items=tuple(islice(spread(streams), count)))


def task_file(folder: Path, count: int = 400) -> Path:
    """The same questions as a user's JSONL file, as `--tasks` takes it."""
    path = folder / "taught.jsonl"
    keys = ("id", "domain", "template", "prompt", "answer", "choices")
    rows = [{key: getattr(item, key) for key in keys if getattr(item, key)} for item in task_questions(count).items]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def tiny_student(architecture: str, *, dtype: str = "float32") -> Path:
    """Folder of a trained student of 1.5–2.5 M parameters; `dtype` is what its weights are saved as."""
    return make_student(_recipe(architecture, dtype))


def random_student(architecture: str, *, dtype: str = "float32") -> Path:
    """Folder of the same student with random weights."""
    return make_random(_recipe(architecture, dtype))


def _recipe(architecture: str, dtype: str) -> Recipe:
    return replace(RECIPES[architecture], dtype=dtype)
