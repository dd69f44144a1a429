"""Evidence → the figure of one metric of quality, where the record says something of the artifact and settings judged.

Every doubt ends in `Unknown`: quality of another file, of another KV cache, of an artifact compared with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekit.gate.onsite import Subject
from edgekit.intervals import ENOUGH
from edgekit.records import (
    Estimate,
    Evidence,
    Figure,
    Gate,
    Quality,
    Settings,
    Tasks,
    Unknown,
    exact,
)

QualityFunction = Callable[[Subject], Figure]

_TEXT = "`edgekit evaluate ARTIFACT --reference REF --out quality.json`, then `--quality quality.json`"
_TASKS = (
    "`edgekit evaluate TEACHER --save teacher.json`, then `edgekit bench MODEL --device NAME --teacher teacher.json`"
)
_NO_QUALITY = Unknown(reason="quality was not measured", settle=_TEXT)
_NO_TASKS = Unknown(reason="retention was not measured: no tasks were put to artifact and teacher", settle=_TASKS)
_NO_RESPONSES = Unknown(reason="what the artifact answers freely was not held against its teacher", settle=_TASKS)
_NO_IDENTITY = Unknown(reason="the artifact was not asked what it is", settle=_TASKS)
_NO_TEMPLATE = Unknown(
    reason="the chat template was not compared with the parent's", settle="evaluate with `--reference` or `--teacher`"
)

BANK_ITEMS = 10_000
"""About what edgekit's own bank holds."""

_FAR = 100
"""Times as much of anything: no advice."""

_ALONE = ("perplexity",)
"""Figures of a text that need no reference."""

FULL_PRECISION = ("f32", "f16", "bf16", "fp32", "fp16")
"""What `Header.quant` says of GGUF and of ONNX models of floats."""


def quality_of(evidence: Evidence) -> Quality | Unknown:
    """The quality record where it says something of this very artifact."""
    if evidence.artifact.header.stand_in:
        return Unknown(reason="stand-in weights: random numbers have no quality", settle="judge the real student")
    if evidence.quality is None:
        return _NO_QUALITY
    if not evidence.quality.artifact_sha256:
        return Unknown(reason="the quality record does not say of which file it is", settle="evaluate this one")
    if evidence.quality.artifact_sha256 != evidence.artifact.sha256:
        return Unknown(reason="quality was measured on another file", settle="evaluate this one")
    return evidence.quality


def _with(evidence: Evidence, part: str, missing: Unknown) -> Quality | Unknown:
    """The quality record where it holds `part`; `missing` where nobody has asked for that."""
    known = quality_of(evidence)
    if known is _NO_QUALITY or (isinstance(known, Quality) and getattr(known, part) is None):
        return missing
    return known


def tasks_of(evidence: Evidence) -> Tasks | Unknown:
    """The answered tasks where they are this very artifact's."""
    known = _with(evidence, "tasks", _NO_TASKS)
    if isinstance(known, Unknown) or known.tasks is None:
        return known if isinstance(known, Unknown) else _NO_TASKS
    if known.tasks.answers.artifact_sha256 != evidence.artifact.sha256:
        return Unknown(reason="the tasks were answered by another file", settle="let this one answer them")
    return known.tasks


# ---- on a text ----------------------------------------------------------------------------------------------------


def of_text(field: str) -> QualityFunction:
    """A figure of the artifact on a text: `field` of the quality record. Of a compact reference `kld_mean` is the
    unbiased estimate; its lower bound is no metric and passes nothing.
    """

    def figure(subject: Subject) -> Figure:
        known = quality_of(subject.evidence)
        if isinstance(known, Unknown):
            return known
        found: Figure = _unlike_judged(known, subject, field) or getattr(known, field)
        return found

    return figure


def _unlike_judged(quality: Quality, subject: Subject, field: str) -> Unknown | None:
    """Why a figure of this very artifact is not the one judged: another KV cache, or no reference but itself."""
    other_cache = _other_cache(quality.settings, subject)
    if other_cache is not None:
        return other_cache
    if 0 < len(quality.chunks) < ENOUGH:
        return Unknown(
            reason=f"quality was scored on {len(quality.chunks)} chunks of text, too few for a range to be trusted",
            settle=f"evaluate {ENOUGH} chunks or more",
        )
    artifact = subject.evidence.artifact
    itself = bool(artifact.sha256) and quality.reference_sha256 == artifact.sha256
    if itself and field not in _ALONE and artifact.header.quant not in FULL_PRECISION:
        return Unknown(
            reason=f"this {artifact.header.quant} artifact was compared with itself",
            settle="`edgekit evaluate ARTIFACT --reference REF` with the full-precision build",
        )
    return None


def _other_cache(settings: Settings | None, subject: Subject) -> Unknown | None:
    measured, judged = (settings or Settings()).kv_type, subject.case.settings.kv_type
    if measured == judged:
        return None
    return Unknown(
        reason=f"quality was measured with a KV cache of `{measured}`, and `{judged}` is judged",
        settle=f"judge with `--kv-type {measured}`",
    )


# ---- on tasks -----------------------------------------------------------------------------------------------------


def retained(domain: str = "") -> QualityFunction:
    """Retention of all items, or of one domain's."""

    def figure(subject: Subject) -> Figure:
        tasks = _judged_tasks(subject)
        if isinstance(tasks, Unknown):
            return tasks
        if not domain:
            return tasks.overall.retention
        for score in tasks.domains:
            if score.domain == domain:
                return score.retention
        return Unknown(
            reason=f"no item of `{tasks.answers.bank}` is of the domain `{domain}`", settle="answer a bank that has it"
        )

    return figure


def worst_retained(subject: Subject) -> Figure:
    """Retention of the domain that kept the least. Whether each clears a limit is asked of each, so the range ends at
    the lowest of the low ends and at the lowest of the high ones.
    """
    tasks = _judged_tasks(subject)
    if isinstance(tasks, Unknown):
        return tasks
    known = [(score.domain, score.retention) for score in tasks.domains if isinstance(score.retention, Estimate)]
    for score in tasks.domains:
        if isinstance(score.retention, Unknown):
            reason = f"retention is not known in every domain ({score.domain}: {score.retention.reason})"
            return Unknown(reason=reason, settle=score.retention.settle)
    if not known:
        return Unknown(reason="the tasks have no domains")
    worst, figure = min(known, key=lambda one: one[1].value)
    return Estimate(
        value=figure.value,
        low=min(one.low for _, one in known),
        high=min(one.high for _, one in known),
        basis=figure.basis,
        note=f"{worst}: {figure.note}",
    )


def _judged_tasks(subject: Subject) -> Tasks | Unknown:
    tasks = tasks_of(subject.evidence)
    if isinstance(tasks, Unknown):
        return tasks
    if tasks.teacher is None:
        return Unknown(reason="no teacher answered these tasks", settle=_TASKS)
    return _other_cache(tasks.answers.settings, subject) or tasks


def cliffs(evidence: Evidence) -> str:
    """What a passing mean would hide, in words; empty where nothing does."""
    tasks = tasks_of(evidence)
    if isinstance(tasks, Unknown) or not tasks.cliffs:
        return ""
    return f"a cliff that the mean hides: {'; '.join(tasks.cliffs)}"


# ---- on what it says and carries ----------------------------------------------------------------------------------


def alike(field: str) -> QualityFunction:
    """A figure of how alike artifact and teacher respond to open prompts."""

    def figure(subject: Subject) -> Figure:
        known = _with(subject.evidence, "similarity", _NO_RESPONSES)
        if isinstance(known, Unknown) or known.similarity is None:
            return known if isinstance(known, Unknown) else _NO_RESPONSES
        found: Figure = _other_cache(_answered_with(known), subject) or getattr(known.similarity, field)
        return found

    return figure


def foreign_identity(subject: Subject) -> Figure:
    """Share of the prompts about itself that the artifact answers with someone else's name."""
    known = _with(subject.evidence, "identity", _NO_IDENTITY)
    if isinstance(known, Unknown) or known.identity is None:
        return known if isinstance(known, Unknown) else _NO_IDENTITY
    return _other_cache(_answered_with(known), subject) or known.identity.share


def _answered_with(quality: Quality) -> Settings | None:
    return quality.tasks.answers.settings if quality.tasks is not None else quality.settings


def template_kept(subject: Subject) -> Figure:
    """1 where the chat template is the parent's, byte for byte, 0 where it was lost or changed."""
    known = _with(subject.evidence, "template", _NO_TEMPLATE)
    if isinstance(known, Unknown) or known.template is None:
        return known if isinstance(known, Unknown) else _NO_TEMPLATE
    template = known.template
    if template.status in ("none", "added"):
        return Unknown(reason=f"there is no chat template to compare with: `{template.parent}` has none")
    note = f"{template.status}, compared with `{template.parent}`"
    if template.detail:
        note += f" ({template.detail})"
    return exact(float(template.status == "same"), "predicted", note)


# ---- what would settle a range that straddles ---------------------------------------------------------------------


def narrower(evidence: Evidence, gate: Gate, figure: Estimate) -> str:
    """How much more text, or how many more items, would bring the judged end of the range clear of the limit, were the
    value to stay: ranges shrink with the square root.
    """
    limit = gate.min if gate.min is not None else gate.max
    if limit is None or gate.metric == "chat_template_kept":
        return ""
    distance, half = abs(figure.value - limit), (figure.high - figure.low) / 2
    factor = (half / distance) ** 2 if distance > 0 else math.inf
    if "retention" in gate.metric:
        return _more_items(evidence, figure, factor)
    if gate.metric in ("response_similarity", "final_answer_agreement", "foreign_identity_share"):
        return "edgekit's list of prompts limits the range: judge it by its lean, and waive the gate with a date"
    return f"evaluate on about {factor:.2g} × as much text" if factor < _FAR else "evaluate on far more text"


def _more_items(evidence: Evidence, figure: Estimate, factor: float) -> str:
    tasks = tasks_of(evidence)
    if isinstance(tasks, Unknown):
        return ""
    if "templates differ" in figure.note:
        return "more templates: the range is owed to how much they differ, and more items of these do not narrow it"
    items = tasks.overall.items * factor
    if items > BANK_ITEMS:
        return f"more items (`--items`), though the {BANK_ITEMS} that edgekit's bank holds would hardly tell"
    return f"answer about {math.ceil(items)} items (`--items`), {factor:.2g} × as many"
