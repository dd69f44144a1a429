"""A record of quality read from a file → the same raw scores, and the figures that this version makes of them.

What was measured is kept; a figure beside it is only somebody's word, and an old one may hold a mended fault.
"""

from __future__ import annotations

import math
from dataclasses import replace

from edgekit.errors import EdgekitError
from edgekit.records import Quality, ScoredChunk

_ROUNDED = 1e-5
"""Nats a token that float32 may be off by."""


def rescored(quality: Quality | None) -> Quality | None:
    """`quality` with every figure made anew of its chunks, answers and responses; those without raw scores stay, for
    the gate to refuse. Raises EdgekitError for raw scores that no run can have left.
    """
    if quality is None:
        return None
    from edgekit.bench import text_figures

    if quality.chunks:
        for number, chunk in enumerate(quality.chunks, 1):
            _check(chunk, number)
        quality = replace(quality, **text_figures.text_figures(quality.chunks))
    return _reanswered(quality)


def _reanswered(quality: Quality) -> Quality:
    from edgekit import bench

    if quality.tasks is None or not quality.tasks.answers.answers:
        return quality
    own, teacher = quality.tasks.answers, quality.tasks.teacher
    quality = replace(quality, tasks=bench.judge_answers(own, teacher))
    if quality.similarity is not None and teacher is not None:
        quality = replace(quality, similarity=bench.compare_responses(own, teacher))
    if quality.identity is not None:
        quality = replace(quality, identity=bench.probe_identity(own, expected=quality.identity.expected))
    return quality


def _check(chunk: ScoredChunk, number: int) -> None:
    """Raise EdgekitError where a chunk cannot be: it has no tokens, counts more of them than it has, or its parts are
    not what its sums are of.
    """
    counts = (chunk.broken, chunk.top1 or 0, chunk.top5 or 0, len(chunk.token_kld))
    sums = (chunk.nll, chunk.reference_nll, chunk.kld, chunk.dp2, chunk.kld_lower, *chunk.token_kld)
    possible = chunk.tokens > 0 and all(0 <= count <= chunk.tokens for count in counts)
    possible = possible and all(math.isfinite(part) for part in sums if part is not None)
    if possible and chunk.token_kld and chunk.kld is not None:
        # a token's is cut at zero, which counts only where a compact reference gives estimates
        more, slack = math.fsum(chunk.token_kld) - chunk.kld, _ROUNDED * (abs(chunk.kld) + chunk.tokens)
        possible = more >= -slack and (more <= slack or chunk.kld_lower is not None)
    if not possible:
        raise EdgekitError(
            f"the record of quality contradicts itself in chunk `{number}`: no run can have left such scores",
            hint="evaluate the artifact anew",
        )
