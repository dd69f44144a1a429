"""Quality as a list of parts, for the report of a gate and for `evaluate` alike, and what of it must be said first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.gate.quality import quality_of
from edgekit.records import Estimate, Evidence, Identity, IdentityClaim, Quality, Report, Unknown
from edgekit.report import quality as scores
from edgekit.report.quality import Lines, Part, lines_of
from edgekit.report.quality_answers import identity_part, similarity_part, template_part, template_text
from edgekit.report.quality_layers import layers_part
from edgekit.report.quality_tasks import cliff_texts, tasks_part
from edgekit.report.sweep_words import short_text
from edgekit.report.words import Fact, clean, span_text, value_text

_ANOTHER = Unknown(reason="found on another file than the text was scored with")


def parts(quality: Quality, lines: Lines | None = None) -> tuple[Part, ...]:
    """Every part of a quality record that says something, whatever artifact it is of."""
    quality = own(quality)
    found = (
        tasks_part(quality, lines or {}),
        similarity_part(quality),
        identity_part(quality),
        template_part(quality),
        layers_part(quality),
    )
    return (scores.text_part(quality), *(part for part in found if part is not None))


def parts_of(report: Report) -> tuple[Part, ...]:
    """The parts for a report; where the record says nothing of its artifact, all of it unknown and why."""
    quality = report.evidence.quality
    if quality is None:
        return ()
    known = quality_of(report.evidence)
    if not isinstance(known, Unknown):
        return parts(quality, lines_of(report))
    text, *rest = parts(quality)
    why = f"unknown: {clean(known.reason)}"
    unknown = tuple(Fact(label=part.key, value=why) for part in rest)
    return (replace(text, rows=(*(row.fact for row in scores.figures(report.evidence)), *unknown), known=False),)


def own(quality: Quality) -> Quality:
    """Without tasks and layers of another file than the record's own."""
    sha, tasks, layers = quality.artifact_sha256, quality.tasks, quality.layers
    if sha and tasks and tasks.answers.artifact_sha256 not in ("", sha):
        score = replace(tasks.overall, accuracy=_ANOTHER, teacher_accuracy=_ANOTHER, retention=_ANOTHER)
        quality = replace(quality, tasks=replace(tasks, overall=score, domains=(), cliffs=()))
    if sha and layers and layers.artifact_sha256 not in ("", sha):
        quality = replace(quality, layers=replace(layers, rows=(), sum=_ANOTHER, whole=_ANOTHER))
    return quality


# ---- what must be said first --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A warning that no pass may hide."""

    title: str
    texts: tuple[str, ...]


def alerts_of(evidence: Evidence) -> tuple[Alert, ...]:
    """The alerts of the evidence's quality; none where it says nothing of this artifact."""
    known = quality_of(evidence)
    return () if isinstance(known, Unknown) else alerts(known)


def alerts(quality: Quality) -> tuple[Alert, ...]:
    """Capability cliffs, a lost or changed chat template, and claims to be another's model."""
    quality = own(quality)
    tasks, template, identity = quality.tasks, quality.template, quality.identity
    cliffs = cliff_texts(tasks) if tasks else ()
    found = (
        Alert(title="capability cliff" if len(cliffs) < 2 else "capability cliffs", texts=cliffs),
        Alert(
            title="chat template",
            texts=(template_text(template),) if template and template.status in ("lost", "changed") else (),
        ),
        Alert(
            title="identity",
            texts=(f"says to be {_names(identity.claims)}: {_share(identity)}",)
            if identity and identity.claims
            else (),
        ),
    )
    return tuple(alert for alert in found if alert.texts)


def _names(claims: tuple[IdentityClaim, ...]) -> str:
    names = dict.fromkeys(clean(claim.claimed, 40) for claim in claims)
    shown = [f"`{name}`" for name in list(names)[:4]]
    return ", ".join(shown) + (" and others" if len(names) > len(shown) else "")


def _share(identity: Identity) -> str:
    share = f"{short_text(identity.share, 'fraction', 0.0)} of" if isinstance(identity.share, Estimate) else "some of"
    return f"{share} the {identity.prompts} prompts"


def headline(quality: Quality) -> tuple[str, str]:
    """The most telling figure and what it is: what is retained of the teacher, else KL divergence, else perplexity."""
    quality = own(quality)
    tasks = quality.tasks
    if tasks and tasks.teacher and isinstance(tasks.overall.retention, Estimate):
        retained = tasks.overall.retention
        return value_text(retained, "fraction", 1.0), f"of {clean(tasks.teacher.model, 60)} retained{_span(retained)}"
    if tasks and isinstance(tasks.overall.accuracy, Estimate) and scores.unscored(quality):
        right = tasks.overall.accuracy
        return value_text(right, "fraction", 1.0), f"of {tasks.overall.items} items answered rightly{_span(right)}"
    from_ = f" from {clean(quality.reference, 80)}" if quality.reference else ""
    if isinstance(quality.kld_mean, Estimate):
        return value_text(quality.kld_mean, "nat"), f"mean KL divergence{from_}{_span(quality.kld_mean, 'nat')}"
    if isinstance(quality.perplexity, Estimate):
        return value_text(quality.perplexity, ""), f"perplexity{_span(quality.perplexity, '')}"
    return "unknown", f"perplexity: {clean(quality.perplexity.reason)}"


def _span(figure: Estimate, unit: str = "fraction") -> str:
    return f" (90 % range {span_text(figure, unit)}, {figure.basis})"
