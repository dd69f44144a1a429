"""Whether the figures of a quality record are those of its own raw scores: a figure alone is only somebody's word.

Values are computed here a second time, plainly; ranges are `edgekit.bench`'s, which computes whole records anew before
they are judged (`edgekit.pipeline.rescoring`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgekit.intervals import ENOUGH
from edgekit.records import Answer, DomainScore, Figure, Identity, Quality, ScoredChunk, Tasks, Unknown

MEASURED = ("measured", "measured-here")
CLOSE = 1e-6

_COUNTED = ("top1_agreement", "top5_agreement")
"""Figures in which a token with broken logits disagrees; of every other it leaves none."""

OF_SINGLE_TOKENS = ("kld_median", "kld_p99")

Means = Callable[[Sequence[ScoredChunk]], float | None]


def unbacked_text(quality: Quality, field: str) -> Unknown | None:
    """Why `field` of the record is not what its chunks say, `None` where it is: too few chunks, or another value."""
    chunks, figure = quality.chunks, getattr(quality, field)
    if isinstance(figure, Unknown):
        return None  # it says better why
    if len(chunks) < ENOUGH:
        return Unknown(
            reason=f"quality was scored on {len(chunks) or 'no'} chunks of text, too few for a range to be trusted",
            settle=f"evaluate {ENOUGH} chunks or more",
        )
    if field not in _COUNTED and any(chunk.broken for chunk in chunks):
        return Unknown(reason="the artifact gives logits that are no numbers", settle="convert or quantize it anew")
    estimated = quality.reference_form == "compact" or any(chunk.kld_lower is not None for chunk in chunks)
    if estimated and field in OF_SINGLE_TOKENS:
        return Unknown(
            reason="of a compact reference only the mean is known: what single tokens differ by is estimated",
            settle="evaluate with the model itself as `--reference`",
        )
    counted = all(chunk.tokens > 0 for chunk in chunks)
    return _differs(figure, _MEANS[field](chunks) if counted else None, "chunks")


def unbacked_tasks(tasks: Tasks, score: DomainScore | None = None) -> Unknown | None:
    """Why the retention in `score` (default: overall) is not what the answers say, `None` where it is."""
    judged, own, teacher = score or tasks.overall, tasks.answers, tasks.teacher
    if isinstance(judged.retention, Unknown):
        return None  # it says better why
    if teacher is None or not own.answers or len(own.answers) != len(teacher.answers):
        reason = "the record does not hold the answers that retention is of"
        return Unknown(reason=reason, settle="answer the items anew")
    if own.artifact_sha256 == teacher.artifact_sha256:
        return Unknown(reason="the teacher is this very artifact", settle="answers of the real teacher")
    if own.stand_in or teacher.stand_in:
        return Unknown(reason="stand-in weights: random numbers know no answers", settle="judge the real student")
    if {one.domain for one in own.answers} != {one.domain for one in tasks.domains}:
        return Unknown(reason="the record's domains are not those of its answers", settle="answer the items anew")
    value = _retention(own.answers, teacher.answers, score.domain if score is not None else None)
    return _differs(judged.retention, value, "answers")


def unbacked_identity(identity: Identity, tasks: Tasks) -> Unknown | None:
    """Why the share of foreign names is not of the responses in the record, `None` where it is."""
    from edgekit.corpus import identity_prompts

    asked = {prompt.id for prompt in identity_prompts()}
    spoken = sum(one.prompt in asked and bool(one.text.strip()) for one in tasks.answers.responses)
    return _differs(identity.share, len(identity.claims) / spoken if spoken else None, "responses")


def _differs(figure: Figure, value: float | None, raw: str) -> Unknown | None:
    if isinstance(figure, Unknown):
        return None
    if figure.basis not in MEASURED:
        return Unknown(
            reason=f"a figure of quality must be measured, and this one is {figure.basis}", settle="measure it"
        )
    if value is None or not math.isclose(figure.value, value, rel_tol=CLOSE, abs_tol=CLOSE * CLOSE):
        says = "do not give it" if value is None else f"give {value:.6g}"
        return Unknown(
            reason=f"the record contradicts itself: its figure is {figure.value:.6g} and its own {raw} {says}",
            settle="measure it anew",
        )
    return None


# ---- the values, plainly ------------------------------------------------------------------------------------------


def _mean(found: Callable[[ScoredChunk], float | None]) -> Means:
    def mean(chunks: Sequence[ScoredChunk]) -> float | None:
        parts = [part for part in map(found, chunks) if part is not None]
        return sum(parts) / sum(chunk.tokens for chunk in chunks) if len(parts) == len(chunks) else None

    return mean


def _shown(mean: Means, shown: Callable[[float], float]) -> Means:
    def figure(chunks: Sequence[ScoredChunk]) -> float | None:
        value = mean(chunks)
        return None if value is None else shown(value)

    return figure


def _quantile(share: float) -> Means:
    """Linear between neighbours."""

    def quantile(chunks: Sequence[ScoredChunk]) -> float | None:
        if any(len(chunk.token_kld) != chunk.tokens for chunk in chunks):
            return None
        ordered = sorted(kld for chunk in chunks for kld in chunk.token_kld)
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return quantile


def _ratio(chunk: ScoredChunk) -> float | None:
    return None if chunk.reference_nll is None else chunk.nll - chunk.reference_nll


def _exponential(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _divergence(nats: float) -> float:
    return max(0.0, nats)


def _root(mean_square: float) -> float:
    return math.sqrt(max(0.0, mean_square))


_MEANS: dict[str, Means] = {
    "perplexity": _shown(_mean(lambda chunk: chunk.nll), _exponential),
    "perplexity_ratio": _shown(_mean(_ratio), _exponential),
    "kld_mean": _shown(_mean(lambda chunk: chunk.kld), _divergence),
    "kld_median": _quantile(0.5),
    "kld_p99": _quantile(0.99),
    "top1_agreement": _mean(lambda chunk: chunk.top1),
    "top5_agreement": _mean(lambda chunk: chunk.top5),
    "dp_rms": _shown(_mean(lambda chunk: chunk.dp2), _root),
}


def _retention(own: Sequence[Answer], teacher: Sequence[Answer], domain: str | None) -> float | None:
    """(student − chance) ÷ (teacher − chance), of one domain or of all items."""
    pairs = [(one, two) for one, two in zip(own, teacher, strict=True) if domain in (None, one.domain)]
    kept = sum(one.correct - one.chance for one, _ in pairs)
    lead = sum(two.correct - one.chance for one, two in pairs)
    return kept / lead if lead > 0 else None
