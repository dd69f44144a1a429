"""What quantizing cost, as rows for every format: figures with their ranges, and how they were scored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.gate.figures import quality_of
from edgekit.records import Evidence, Figure, Quality, Unknown
from edgekit.report.facts import host_text, runtime_text, settings_text
from edgekit.report.words import Fact, clean, figure_text

READING = (
    "Scored on this host, the second half of every chunk of text, as llama-perplexity does. KL divergence says by how "
    "many nats a token this build's predictions depart from the reference's: 0 is perfect."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure of quality under its name. `against` is the perfect value, which no rounding may make of another."""

    label: str
    figure: Figure
    unit: str = ""
    against: float | None = None

    @property
    def text(self) -> str:
        """`0.0123 nat (0.0117–0.0129), measured-here`, or why it is unknown."""
        if isinstance(self.figure, Unknown):
            return f"unknown: {clean(self.figure.reason)}"
        return figure_text(self.figure, self.unit, self.against)


def figures(evidence: Evidence) -> tuple[Shown, ...]:
    """Every figure of the evidence's quality; all unknown where it says nothing of this artifact. Empty without one."""
    quality = evidence.quality
    if quality is None:
        return ()
    known = quality_of(evidence)
    return tuple(replace(row, figure=known) if isinstance(known, Unknown) else row for row in of(quality))


def of(quality: Quality) -> tuple[Shown, ...]:
    """Every figure of a quality record, whatever artifact it is of."""
    return (
        Shown(label="mean KL divergence", figure=quality.kld_mean, unit="nat"),
        Shown(label="top-1 agreement", figure=quality.top1_agreement, unit="fraction", against=1.0),
        Shown(label="perplexity", figure=quality.perplexity),
        *_against_reference(quality),
    )


def _against_reference(quality: Quality) -> tuple[Shown, ...]:
    if not quality.reference:
        return ()
    return (
        Shown(label="reference's perplexity", figure=quality.reference_perplexity),
        Shown(label="perplexity increase", figure=excess(quality.perplexity_ratio), unit="fraction", against=0.0),
    )


def excess(ratio: Figure) -> Figure:
    """How far a ratio lies above one."""
    if isinstance(ratio, Unknown):
        return ratio
    return replace(ratio, value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)


def circumstances(quality: Quality) -> tuple[Fact, ...]:
    """Text, reference, settings, runtimes and host behind the figures, cleaned for display; nothing empty."""
    scored, broken = sum(chunk.tokens for chunk in quality.chunks), sum(chunk.broken for chunk in quality.chunks)
    origin = f"{quality.text_origin or 'of unrecorded origin'}, {quality.text_tokens} tokens"
    chunks = f"{len(quality.chunks)} chunks of {quality.context_tokens} tokens, {scored} tokens of them scored"
    kind = "onnx" if quality.runtime and quality.runtime.name == "onnxruntime" else "gguf"
    settings = settings_text(quality.settings, kind) if quality.settings else ""
    facts = (
        Fact(label="text", value=origin + _digest(quality.text_sha256)),
        Fact(label="scored", value=chunks + (f", {broken} of these with logits that are no numbers" if broken else "")),
        Fact(label="reference", value=quality.reference + _digest(quality.reference_sha256)),
        Fact(label="scored with", value=settings),
        Fact(label="scored by", value=runtime_text(quality.runtime) if quality.runtime else ""),
        Fact(
            label="reference run by",
            value=runtime_text(quality.reference_runtime)
            if quality.reference_runtime and quality.reference_runtime != quality.runtime
            else "",
        ),
        Fact(label="scored on", value=host_text(quality.host) if quality.host else ""),
        Fact(label="scored at", value=quality.started_at),
    )
    return tuple(Fact(label=fact.label, value=clean(fact.value)) for fact in facts if fact.value)


def _digest(sha256: str) -> str:
    return f", sha256 {sha256[:16]}" if sha256 else ""


def chunk_klds(quality: Quality) -> tuple[float, ...]:
    """KLD per token of every chunk that has one, in the text's order; nats."""
    return tuple(chunk.kld / chunk.tokens for chunk in quality.chunks if chunk.kld is not None and chunk.tokens)
