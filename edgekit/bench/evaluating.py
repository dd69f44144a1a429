"""What quantizing cost: an artifact against its reference on one text, token by token, with ranges over the chunks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from edgekit import runtimes
from edgekit.bench.host import probe_host
from edgekit.errors import EdgekitError
from edgekit.intervals import ENOUGH, mean_interval, share_interval
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Estimate, Figure, Finding, Parity, Quality, ScoredChunk, Settings, Unknown
from edgekit.runtimes import Scorer

STAGE = "scoring"
_MAX_NATS = 690.0
"""e⁶⁹⁰ is about the largest float."""

_NO_REFERENCE = Unknown(reason="no reference was given", settle="add `--reference` with the full-precision build")


class OpenScorer(Protocol):
    """`runtimes.open_scorer`, or a stand-in for it in tests."""

    def __call__(
        self, artifact: Path, reference: Path | None, settings: Settings, *, text: str, vocabulary: int, chunks: int
    ) -> AbstractContextManager[Scorer]: ...


def evaluate(
    artifact: Artifact,
    reference: Artifact | None,
    text: str,
    *,
    context_tokens: int = 512,
    chunks: int | None = None,
    threads: int = 0,
    settings: Settings | None = None,
    origin: str = "",
    progress: Progress = silent,
    open_scorer: OpenScorer = runtimes.open_scorer,
) -> Quality:
    """Perplexity of `artifact` on `text`, and its KL divergence from and agreement with `reference`, which both run
    here at once: nothing is written, and the logits of a few tokens are held at a time.

    `chunks` of `context_tokens` are scored, all that the text fills where it is `None`. `settings` are those of the
    artifact (KV type, flash attention, repacking; default: llama.cpp's own), `origin` says where the text came from.
    Raises EdgekitError for a text that is too short or holds no text, for models that do not read it as the same
    tokens, and for what a runtime declines; a process that dies raises WorkerDied (exit code 4).
    """
    text_sha256 = _identity(text)
    if chunks is not None and chunks < 1:
        raise EdgekitError(f"at least one chunk must be scored: `{chunks}`")
    settings = _settings(settings or Settings(), context_tokens, threads)
    vocabulary = max(artifact.header.vocabulary, reference.header.vocabulary if reference else 0)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    progress(STAGE, 0, 0, "loading")
    with open_scorer(
        Path(artifact.path),
        Path(reference.path) if reference else None,
        settings,
        text=text,
        vocabulary=vocabulary,
        chunks=chunks or 0,
    ) as scorer:
        scored = _collect(scorer, progress)
        scorer.finish()
        findings = (*scorer.findings, *_doubts(artifact, reference, scored))
    return Quality(
        reference=Path(reference.path).name if reference else "",
        perplexity=perplexity(scored),
        kld_mean=kld_mean(scored),
        top1_agreement=top1_agreement(scored),
        reference_perplexity=reference_perplexity(scored),
        perplexity_ratio=perplexity_ratio(scored),
        chunks=scored,
        context_tokens=context_tokens,
        text_tokens=scorer.text_tokens,
        text_sha256=text_sha256,
        text_origin=origin,
        artifact_sha256=artifact.sha256,
        reference_sha256=reference.sha256 if reference else "",
        settings=settings,
        runtime=scorer.runtime,
        reference_runtime=scorer.reference_runtime,
        host=probe_host(),
        started_at=started_at,
        findings=findings,
    )


def compare_outputs(
    a: Artifact,
    b: Artifact,
    text: str,
    *,
    context_tokens: int = 512,
    chunks: int | None = None,
    threads: int = 0,
    origin: str = "",
    progress: Progress = silent,
) -> Parity:
    """How alike two builds of one model are on `text`, such as a GGUF and an ONNX folder; `a` takes the reference's
    part. Raises EdgekitError as `evaluate` does, so also when they read the text as different tokens.
    """
    quality = evaluate(
        b, a, text, context_tokens=context_tokens, chunks=chunks, threads=threads, origin=origin, progress=progress
    )
    return Parity(a=Path(a.path).name, b=Path(b.path).name, quality=quality)


def _identity(text: str) -> str:
    """SHA-256 of the text's UTF-8. Raises EdgekitError where there is nothing to read."""
    if not text.strip():
        raise EdgekitError("the text is empty", hint="a few thousand words that the model was not trained on will do")
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise EdgekitError(f"the text holds half a character at `{error.start}`", hint="read it as UTF-8") from None


def _settings(settings: Settings, context_tokens: int, threads: int) -> Settings:
    return replace(
        settings,
        context_tokens=context_tokens,
        batch_tokens=context_tokens,
        ubatch_tokens=min(settings.ubatch_tokens, context_tokens),
        threads=threads or settings.threads,
    )


def _collect(scorer: Scorer, progress: Progress) -> tuple[ScoredChunk, ...]:
    scored: list[ScoredChunk] = []
    for chunk in scorer.scores():
        scored.append(chunk)
        tokens, nats = sum(part.tokens for part in scored), sum(part.kld or 0.0 for part in scored)
        detail = f"KLD {nats / tokens:.5f}" if chunk.kld is not None else ""
        progress(STAGE, len(scored), scorer.chunks, detail)
    return tuple(scored)


def _doubts(artifact: Artifact, reference: Artifact | None, chunks: Sequence[ScoredChunk]) -> list[Finding]:
    """What a reader of the figures should know."""
    doubts = []
    broken, tokens = sum(chunk.broken for chunk in chunks), sum(chunk.tokens for chunk in chunks)
    if broken:
        message = f"the artifact is broken: {broken} of {tokens} tokens got logits that are no numbers"
        doubts.append(Finding(level="warning", code="broken-logits", message=message, hint="was it converted rightly?"))
    if any(model is not None and model.header.stand_in for model in (artifact, reference)):
        message = "stand-in weights are random numbers: these figures time the tool and say nothing of a model"
        doubts.append(Finding(level="warning", code="stand-in-quality", message=message))
    if len(chunks) < ENOUGH:
        message = f"{len(chunks)} chunks of text are few: the ranges are wide or unknown"
        doubts.append(Finding(level="note", code="few-chunks", message=message, hint="a longer text"))
    return doubts


# ---- figures from raw chunks --------------------------------------------------------------------------------------


def perplexity(chunks: Sequence[ScoredChunk]) -> Figure:
    """exp of the mean negative log-likelihood a token."""
    return _from_chunks(chunks, lambda chunk: chunk.nll, _exponential)


def reference_perplexity(chunks: Sequence[ScoredChunk]) -> Figure:
    """The reference's perplexity on the same tokens."""
    return _against_reference(chunks, lambda chunk: chunk.reference_nll or 0.0, _exponential)


def perplexity_ratio(chunks: Sequence[ScoredChunk]) -> Figure:
    """The artifact's perplexity ÷ the reference's; paired by chunk, so far narrower than either alone."""
    return _against_reference(chunks, lambda chunk: chunk.nll - (chunk.reference_nll or 0.0), _exponential)


def kld_mean(chunks: Sequence[ScoredChunk]) -> Figure:
    """Mean KL(reference ‖ artifact), nats per token."""
    return _against_reference(chunks, lambda chunk: chunk.kld or 0.0, _divergence)


def top1_agreement(chunks: Sequence[ScoredChunk]) -> Figure:
    """Share of tokens on which both find the same one likeliest; a token with broken logits disagrees.

    The range is the wider, on either side, of the one over chunks and Wilson's, which keeps a width at 100 %.
    """
    if not chunks or chunks[0].top1 is None:
        return _NO_REFERENCE
    agreed, tokens = sum(chunk.top1 or 0 for chunk in chunks), sum(chunk.tokens for chunk in chunks)
    between = mean_interval([(chunk.top1 or 0) / chunk.tokens for chunk in chunks])
    if between is None:
        return _too_few(chunks)
    low, high = share_interval(agreed, tokens)
    value = agreed / tokens
    return Estimate(
        value=value,
        low=max(0.0, min(low, between[0], value)),
        high=min(1.0, max(high, between[1], value)),
        basis="measured-here",
    )


def _against_reference(
    chunks: Sequence[ScoredChunk], nats: Callable[[ScoredChunk], float], shown: Callable[[float], float]
) -> Figure:
    if not chunks or chunks[0].reference_nll is None:
        return _NO_REFERENCE
    return _from_chunks(chunks, nats, shown)


def _from_chunks(
    chunks: Sequence[ScoredChunk], nats: Callable[[ScoredChunk], float], shown: Callable[[float], float]
) -> Figure:
    """`shown` of the mean of `nats` per token, with its 90 % range over the chunks."""
    if any(chunk.broken for chunk in chunks):
        return Unknown(reason="the artifact gives logits that are no numbers", settle="convert or quantize it anew")
    between = mean_interval([nats(chunk) / chunk.tokens for chunk in chunks])
    if between is None:
        return _too_few(chunks)
    mean = sum(map(nats, chunks)) / sum(chunk.tokens for chunk in chunks)
    low, high = min(between[0], mean), max(between[1], mean)
    if high > _MAX_NATS:
        return Unknown(reason=f"beyond every scale: `{mean:.0f}` nats a token")
    return Estimate(value=shown(mean), low=shown(low), high=shown(high), basis="measured-here")


def _exponential(nats: float) -> float:
    return math.exp(nats)


def _divergence(nats: float) -> float:
    return max(0.0, nats)


def _too_few(chunks: Sequence[ScoredChunk]) -> Unknown:
    return Unknown(reason=f"`{len(chunks)}` chunks of text give no range", settle="a longer text: ten chunks or more")
