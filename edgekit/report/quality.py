"""What quantizing cost, as rows for every format: figures with their ranges, and how they were scored.

Quality is shown in parts (text, tasks, responses, identity, template, layers). A part is plain rows and tables, made
once here and in the modules beside; each format only sets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekit.gate.quality import quality_of
from edgekit.records import Estimate, Evidence, Figure, Quality, Report, Runtime, Settings, Status, Unknown
from edgekit.report.facts import all_checks, host_text, runtime_text, settings_text
from edgekit.report.words import Fact, clean, figure_text, limit_of, value_text

READING = (
    "Scored on this host, the second half of every chunk of text, as llama-perplexity does. KL divergence says by how "
    "many nats a token this build's predictions depart from the reference's: 0 is perfect."
)
COMPACT_READING = (
    "The reference was read from a compact file: its likeliest tokens and a sample of the others. The mean is "
    "unbiased; with all other tokens as one it is at least the lower bound."
)
BEHIND = {
    "text": "Scored how",
    "tasks": "Asked how",
    "similarity": "Compared how",
    "layers": "Found how",
    "chain": "Distilled how",
}
"""By a part's key: what its circumstances are headed with where they are folded away."""
NOT_RECORDED = Unknown(reason="not recorded")
"""What fields of a record say that an older version, or another question, left open: not worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure of quality under its name. `against` is the perfect value, which no rounding may make of another;
    `metric` is the gate's word for it.
    """

    label: str
    figure: Figure
    unit: str = ""
    against: float | None = None
    metric: str = ""

    @property
    def text(self) -> str:
        """`0.0123 nat (0.0117–0.0129), measured-here`, or why it is unknown."""
        if isinstance(self.figure, Unknown):
            return f"unknown: {clean(self.figure.reason)}"
        note = f"; {clean(self.figure.note)}" if self.figure.note else ""
        if self.counted:
            return f"{value_text(self.figure, self.unit, self.against)}, {self.figure.basis}{note}"
        return figure_text(self.figure, self.unit, self.against) + note

    @property
    def counted(self) -> bool:
        """Whether it has no range but a note on what it means: a largest one, say."""
        return isinstance(self.figure, Estimate) and self.figure.low == self.figure.high and bool(self.figure.note)

    @property
    def fact(self) -> Fact:
        return Fact(label=self.label, value=self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text, cleaned already; the first of a row names it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: bool = False
    """Whether its cells are sentences that need to wrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A model's own words, cleaned, and what is said of them."""

    text: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of quality, ready to be set. `key` is the name by which a page finds its charts."""

    key: str
    title: str
    reading: str = ""
    table: Table | None = None
    rows: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    quotes: tuple[Quote, ...] = ()
    folded: tuple[Table, ...] = ()
    behind: tuple[Fact, ...] = ()
    """How it was found: circumstances."""
    known: bool = True
    """False where the record says nothing of the artifact, and every row is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A gate's limit, drawn across a figure, and how the figure was judged by it."""

    limit: float
    status: Status


Lines = Mapping[str, tuple[Line, ...]]
"""By metric. Empty where nothing was judged."""


def lines_of(report: Report) -> Lines:
    """The distinct limits of every metric among the report's checks; of equal limits the worst ruling."""
    found: dict[str, dict[float, Status]] = {}
    for _, check in all_checks(report):
        limit = limit_of(check)
        if limit is None:
            continue
        limits = found.setdefault(check.metric, {})
        limits[limit] = min(limits.get(limit, check.status), check.status, key=("fail", "unknown", "pass").index)
    return {
        metric: tuple(Line(limit=limit, status=status) for limit, status in sorted(limits.items()))
        for metric, limits in found.items()
    }


def figures(evidence: Evidence) -> tuple[Shown, ...]:
    """Every figure of the evidence's quality; all unknown where it says nothing of this artifact. Empty without one."""
    quality = evidence.quality
    if quality is None:
        return ()
    known = quality_of(evidence)
    return tuple(replace(row, figure=known) if isinstance(known, Unknown) else row for row in of(quality))


def of(quality: Quality) -> tuple[Shown, ...]:
    """Every figure of text scores, whatever artifact they are of: what an older version did not record is left out,
    and what is unknown for the reason of the first of its kind is said once.
    """
    if unscored(quality):
        return (Shown(label="scores of a text", figure=quality.perplexity),)
    top1 = Shown(
        label="top-1 agreement", figure=quality.top1_agreement, unit="fraction", against=1.0, metric="top1_agreement"
    )
    return (
        *divergence(quality),
        top1,
        *_told(
            quality.top1_agreement,
            replace(top1, label="top-5 agreement", figure=quality.top5_agreement, metric="top5_agreement"),
            Shown(label="RMS Δp", figure=quality.dp_rms, unit="fraction", against=0.0, metric="dp_rms"),
        ),
        Shown(label="perplexity", figure=quality.perplexity, metric="perplexity"),
        *_against_reference(quality),
    )


def unscored(quality: Quality) -> bool:
    """Whether no text was scored at all: tasks alone were asked."""
    return not quality.chunks and isinstance(quality.perplexity, Unknown) and quality.perplexity == quality.kld_mean


def divergence(quality: Quality) -> tuple[Shown, ...]:
    """KL divergence a token: its mean, and how it is spread over the tokens."""
    compact = quality.reference_form == "compact"  # of a live one nothing is lumped, and the mean is all there is
    mean = Shown(label="mean KL divergence", figure=quality.kld_mean, unit="nat", metric="kld_mean")
    spread = (
        ("its lower bound", quality.kld_lower if compact else NOT_RECORDED, "kld_lower"),
        ("median KL divergence", quality.kld_median, "kld_median"),
        ("KL divergence p90", quality.kld_p90, "kld_p90"),
        ("KL divergence p99", quality.kld_p99, "kld_p99"),
        ("KL divergence p99.9", quality.kld_p999, "kld_p999"),
        ("largest KL divergence", quality.kld_max, "kld_max"),
    )
    more = (replace(mean, label=label, figure=figure, metric=metric) for label, figure, metric in spread)
    return (mean, *_told(quality.kld_mean, *more))


def short_label(shown: Shown) -> str:
    """The row's name under a heading that says KL divergence."""
    return shown.label.replace("KL divergence", "").strip()


def _told(first: Figure, *rows: Shown) -> tuple[Shown, ...]:
    """The rows worth a line beside `first`."""
    silent = (NOT_RECORDED, first) if isinstance(first, Unknown) else (NOT_RECORDED,)
    return tuple(row for row in rows if row.figure not in silent)


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


def text_part(quality: Quality, rows: tuple[Shown, ...] | None = None) -> Part:
    """Text scores; `rows` are their figures where they are not those of the record."""
    shown = of(quality) if rows is None else rows
    compact = quality.reference_form == "compact"
    return Part(
        key="text",
        title=f"quality against {clean(quality.reference, 80)}" if quality.reference else "quality",
        reading="" if unscored(quality) else f"{READING} {COMPACT_READING}" if compact else READING,
        rows=tuple(one.fact for one in shown),
        behind=circumstances(quality),
    )


# ---- circumstances ------------------------------------------------------------------------------------------------

_FORMS = {"compact": "a compact file of what it said, ", "live": "run beside the artifact, ", "": ""}


def circumstances(quality: Quality) -> tuple[Fact, ...]:
    """Text, reference, settings, runtimes and host behind the figures, cleaned for display; nothing empty."""
    if unscored(quality):
        return told((Fact(label="found on", value=host_text(quality.host) if quality.host else ""),))
    scored, broken = sum(chunk.tokens for chunk in quality.chunks), sum(chunk.broken for chunk in quality.chunks)
    origin = f"{quality.text_origin or 'of unrecorded origin'}, {quality.text_tokens} tokens"
    chunks = f"{len(quality.chunks)} chunks of {quality.context_tokens} tokens, {scored} tokens of them scored"
    reference = f"{quality.reference}{digest(quality.reference_sha256)}"
    form = _FORMS[quality.reference_form].rstrip(", ")
    facts = (
        Fact(label="text", value=origin + digest(quality.text_sha256)),
        Fact(label="scored", value=chunks + (f", {broken} of these with logits that are no numbers" if broken else "")),
        Fact(label="reference", value=f"{reference}; {form}" if reference and form else reference),
        Fact(label="scored with", value=settings_line(quality.settings, quality.runtime)),
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
    return told(facts)


def told(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The facts that say something, cleaned."""
    return tuple(Fact(label=clean(fact.label, 60), value=clean(fact.value)) for fact in facts if fact.value)


def settings_line(settings: Settings | None, runtime: Runtime | None) -> str:
    """The configuration, as the runtime follows it."""
    kind = "onnx" if runtime and runtime.name == "onnxruntime" else "gguf"
    return settings_text(settings, kind) if settings else ""


def digest(sha256: str) -> str:
    """`, sha256 7e7e7e7e7e7e7e7e`, or nothing."""
    return f", sha256 {sha256[:16]}" if sha256 else ""


def chunk_klds(quality: Quality) -> tuple[float, ...]:
    """KLD per token of every chunk that has one, in the text's order; nats."""
    return tuple(chunk.kld / chunk.tokens for chunk in quality.chunks if chunk.kld is not None and chunk.tokens)


def known(rows: tuple[Shown, ...]) -> tuple[tuple[Shown, Estimate], ...]:
    """The rows with a number, for charts."""
    return tuple((row, row.figure) for row in rows if isinstance(row.figure, Estimate))
