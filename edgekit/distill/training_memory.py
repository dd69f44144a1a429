"""Memory of each process while a stage trains, from shapes: what `trainer` and `losses` hold at their fullest."""

from __future__ import annotations

from edgekit.distill.recipe_parts import Stage
from edgekit.records import Estimate, ModelFacts, TrainingMemory

CHUNK_BYTES = 320_000_000
"""As `chunked` has it (a test compares them): what foresees cost needs no torch."""
TRL_TILE = (4096, 32_768)
"""Tokens and rows of the head whose logits TRL's `chunked_divergence` makes at a time, of student and teacher each."""
_FLOAT32 = 4.0
_ADAM = 8.0
"""Two moments in float32."""
_RUNTIME = (0.7e9, 1.5e9, 5e9)
"""CUDA context, communication buffers, and what the allocator cannot use: from one process alone to large clusters.
A guess, wide on purpose."""


def training_memory(student: ModelFacts, teacher: ModelFacts | None, stage: Stage, processes: int) -> TrainingMemory:
    """Of one of so many processes over which everything that has parameters is sharded (FSDP2, Zhao et al. 2023, arXiv
    2304.11277): weights, gradients and moments in float32, products in bfloat16. `teacher` None: nobody is asked while
    it trains.
    """
    weights = _FLOAT32 * student.parameters / processes
    theirs = 0.0 if teacher is None else _FLOAT32 * teacher.parameters / processes
    gathered = 0.0
    if processes > 1:  # two blocks at a time, and the tables, whole: as they are, and the student's gradients
        gathered = 2 * _FLOAT32 * (_table(student) + 2 * _block(student))
        gathered += 0.0 if teacher is None else _FLOAT32 * (_table(teacher) + 2 * _block(teacher))
    activations = _activations(student, teacher, stage, processes)
    logits = _logits(student, stage)
    runtime = _between(*_RUNTIME) if processes > 1 else _between(0.3e9, 0.7e9, 1.5e9)
    fixed = 2 * weights + _ADAM * student.parameters / processes + theirs + gathered
    parts = (activations, logits, runtime)
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=_ADAM * student.parameters / processes,
        teacher=theirs,
        gathered=gathered,
        activations=activations,
        logits=logits,
        runtime=runtime,
        total=_between(
            fixed + sum(part.low for part in parts),
            fixed + sum(part.value for part in parts),
            fixed + sum(part.high for part in parts),
        ),
    )


def _activations(student: ModelFacts, teacher: ModelFacts | None, stage: Stage, processes: int) -> Estimate:
    """What the backward pass needs of a micro-batch, after Korthikanti et al. 2022 (arXiv 2205.05198, §4.1), for gated
    layers and without attention scores (the kernel recomputes them): in bfloat16 at the least, in float32 at the most.
    """
    windows = stage.micro_batch or -(-stage.batch // processes)
    tokens = windows * stage.length
    queries, keys = student.heads * student.head_dim, student.kv_heads * student.head_dim
    layer = tokens * (4 * student.hidden + 2 * queries + 2 * keys + 4 * student.ffn)
    kept = student.layers * (tokens * student.hidden if stage.gradient_checkpointing else layer)
    held = kept + (layer if stage.gradient_checkpointing else 0)
    if teacher is not None:  # its states, and in a feature stage those of all its layers
        deep = teacher.layers + 1 if stage.kind == "features" else 2
        held += tokens * teacher.hidden * deep
    if stage.kind == "features":
        held += tokens * student.hidden * (student.layers + 1)
    written = (_writing(student, stage, width) for width in (0.0, 2.0, 4.0))
    return _between(*(max(one, factor * held) for one, factor in zip(written, (2.0, 3.0, 4.0), strict=True)))


def _logits(student: ModelFacts, stage: Stage) -> Estimate:
    """A chunk of logits, or two with their block buffers; the head's gradient is a part of `gathered` or `gradients`.
    TRL's has two tiles of them (without Triton some copies beside), and sums the head's gradient up apart.
    """
    if stage.on_policy is None:
        return _between(CHUNK_BYTES, 1.5 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    tokens = min(TRL_TILE[0], (stage.micro_batch or stage.batch) * stage.on_policy.most_tokens)
    tiles = 2 * _FLOAT32 * tokens * min(TRL_TILE[1], student.vocabulary)
    head = _FLOAT32 * student.vocabulary * student.hidden
    return _between(0.0, tiles + head, 3 * tiles + 2 * head)


def _writing(student: ModelFacts, stage: Stage, width: float) -> float:
    """While it completes a whole batch of prompts: keys and values of all, and a row of logits each (as they are, and
    twice as probabilities; to cut a nucleus they are ranked, too), in float32; before that one gated layer of all
    prompts, in so many bytes a number (none: prompts of a few tokens).
    """
    if stage.on_policy is None:
        return 0.0
    keys = 2 * student.layers * student.kv_heads * student.head_dim * stage.length
    rows = 3 if stage.on_policy.top_p == 1 else 8
    read = width * (stage.length - stage.on_policy.most_tokens) * (2 * student.hidden + 3 * student.ffn)
    return stage.batch * (_FLOAT32 * (keys + rows * student.vocabulary) + read)


def _table(model: ModelFacts) -> float:
    return model.vocabulary * model.hidden * (1.0 if model.tied_embedding else 2.0)


def _block(model: ModelFacts) -> float:
    return (model.parameters - _table(model)) / model.layers


def _between(low: float, value: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, basis="predicted")
