"""What quantizing cost: an artifact against its reference on one text, token by token, with ranges over the chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from edgekit import __version__, runtimes
from edgekit.bench.hashing import hash_text
from edgekit.bench.host import probe_host
from edgekit.bench.reference_file import check_usable, seat
from edgekit.bench.text_figures import text_figures
from edgekit.errors import EdgekitError
from edgekit.header.precision import FULL_PRECISION, stored_as
from edgekit.intervals import ENOUGH
from edgekit.progress import Progress, silent
from edgekit.records import Artifact, Finding, Parity, Quality, ReferenceFile, ScoredChunk, Settings
from edgekit.runtimes import Scorer
from edgekit.runtimes.scoring import scoring_settings

STAGE = "scoring"


class OpenScorer(Protocol):
    """`runtimes.open_scorer`, or a stand-in for it in tests."""

    def __call__(
        self,
        artifact: Path,
        reference: Path | None,
        settings: Settings,
        *,
        text: str,
        vocabulary: int,
        chunks: int,
        reference_file: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[Scorer]: ...


def evaluate(
    artifact: Artifact,
    reference: Artifact | ReferenceFile | None,
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
    here at once: nothing is written, and the logits of a few dozen tokens are held at a time. A `ReferenceFile`
    (`open_reference_file`) takes the place of a reference that runs, on the text that it was made of
    (`read_reference_text`).

    `chunks` of `context_tokens` are scored, all that the text fills where it is `None`. `settings` are those of the
    artifact (KV type, flash attention, repacking; default: llama.cpp's own), `origin` says where the text came from.
    Raises EdgekitError for a text that is too short or holds no text, for chunks longer than a model's own context,
    for models that do not read the text as the same tokens, and for what a runtime declines; a process that dies
    raises WorkerDied (exit code 4).
    """
    text_sha256 = hash_text(text)
    settings = scoring_settings(settings or Settings(), context_tokens, threads)
    chunks = _check_asked(artifact, reference, text_sha256, context_tokens, chunks)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    progress(STAGE, 0, 0, "loading")
    with open_scorer(
        Path(artifact.path),
        settings=settings,
        text=text,
        chunks=chunks or 0,
        **_seats(artifact, reference),
    ) as scorer:
        told = _told(artifact, reference, scorer, progress)
    return Quality(
        **told,
        context_tokens=context_tokens,
        text_sha256=text_sha256,
        text_origin=origin,
        settings=settings,
        host=probe_host(),
        started_at=started_at,
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


def _check_asked(
    artifact: Artifact,
    reference: Artifact | ReferenceFile | None,
    text_sha256: str,
    context_tokens: int,
    chunks: int | None,
) -> int | None:
    """The chunks to score, all of a reference file's where none are asked for."""
    if chunks is not None and chunks < 1:
        raise EdgekitError(f"at least one chunk must be scored: `{chunks}`")
    for model in (artifact, reference):
        if isinstance(model, Artifact):
            _check_context(model, context_tokens)
    if isinstance(reference, ReferenceFile):
        return check_usable(reference, text_sha256=text_sha256, context_tokens=context_tokens, chunks=chunks)
    return chunks


def _check_context(model: Artifact, context_tokens: int) -> None:
    """Beyond the positions that a model was trained on its answers say nothing of its quality."""
    most = model.header.context_train
    if 0 < most < context_tokens:
        raise EdgekitError(
            f"chunks cannot be longer than the {most} tokens that `{Path(model.path).name}` was made for: "
            f"`{context_tokens}`",
            hint=f"`--context {most}` or less",
        )


def _named(reference: Artifact | ReferenceFile | None) -> dict[str, Any]:
    """What a record says of its reference, and who says so."""
    if isinstance(reference, ReferenceFile):
        form, name, sha256 = "compact", reference.model, reference.artifact_sha256
    elif reference is not None:
        form, name, sha256 = "live", Path(reference.path).name, reference.sha256
    else:
        form, name, sha256 = "", "", ""
    return {
        "edgekit_version": __version__,
        "reference": name,
        "reference_form": form,
        "reference_sha256": sha256,
        "reference_quant": _stored_as(reference),
    }


def _stored_as(reference: Artifact | ReferenceFile | None) -> str:
    """How the matrices of a reference are stored; empty without one."""
    if reference is None:
        return ""
    return reference.quant if isinstance(reference, ReferenceFile) else stored_as(reference.header)


def _seats(artifact: Artifact, reference: Artifact | ReferenceFile | None) -> dict[str, Any]:
    """What `open_scorer` is told of the two."""
    live = reference if isinstance(reference, Artifact) else None
    return {
        "reference": Path(live.path) if live else None,
        "vocabulary": max(artifact.header.vocabulary, live.header.vocabulary if live else 0),
        "reference_file": seat(reference) if isinstance(reference, ReferenceFile) else None,
    }


def _told(
    artifact: Artifact, reference: Artifact | ReferenceFile | None, scorer: Scorer, progress: Progress
) -> dict[str, Any]:
    """What a record says of the two models once all chunks are scored."""
    scored = _collect(scorer, progress)
    scorer.finish()
    by = reference.runtime if isinstance(reference, ReferenceFile) else scorer.reference_runtime
    return {
        **_named(reference),
        **text_figures(scored),
        "chunks": scored,
        "text_tokens": scorer.text_tokens,
        "artifact_sha256": artifact.sha256,
        "runtime": scorer.runtime,
        "reference_runtime": by,
        "findings": (*scorer.findings, *_doubts(artifact, reference, scored)),
    }


def _collect(scorer: Scorer, progress: Progress) -> tuple[ScoredChunk, ...]:
    scored: list[ScoredChunk] = []
    for chunk in scorer.scores():
        scored.append(chunk)
        tokens, nats = sum(part.tokens for part in scored), sum(part.kld or 0.0 for part in scored)
        detail = f"KLD {nats / tokens:.5f}" if chunk.kld is not None else ""
        progress(STAGE, len(scored), scorer.chunks, detail)
    return tuple(scored)


def _doubts(
    artifact: Artifact, reference: Artifact | ReferenceFile | None, chunks: Sequence[ScoredChunk]
) -> list[Finding]:
    """What a reader of the figures should know."""
    doubts = []
    broken, tokens = sum(chunk.broken for chunk in chunks), sum(chunk.tokens for chunk in chunks)
    if broken:
        message = f"the artifact is broken: {broken} of {tokens} tokens got logits that are no numbers"
        doubts.append(Finding(level="warning", code="broken-logits", message=message, hint="was it converted rightly?"))
    if any(map(_is_stand_in, (artifact, reference))):
        message = "stand-in weights are random numbers: these figures time the tool and say nothing of a model"
        doubts.append(Finding(level="warning", code="stand-in-quality", message=message))
    stored = _stored_as(reference)
    if reference is not None and stored not in FULL_PRECISION:
        message = f"the reference is itself a {stored} build: what quantizing that cost is in none of these figures"
        hint = "give the full-precision build as `--reference`"
        doubts.append(Finding(level="warning", code="quantized-reference", message=message, hint=hint))
    if len(chunks) < ENOUGH:
        message = f"{len(chunks)} chunks of text are few: the ranges are wide or unknown"
        doubts.append(Finding(level="note", code="few-chunks", message=message, hint="a longer text"))
    return doubts


def _is_stand_in(model: Artifact | ReferenceFile | None) -> bool:
    return model is not None and (model.stand_in if isinstance(model, ReferenceFile) else model.header.stand_in)
