"""Evidence → the figure of one metric of quality, where the record says something of the artifact and settings judged.

Every doubt ends in `Unknown`: quality of another file, of other settings, of an artifact compared with itself or with a
quantized build, and figures that are not those of the record's own raw scores (`edgekit.gate.raw`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from edgekit.gate.onsite import Subject
from edgekit.gate.raw import unbacked_identity, unbacked_tasks, unbacked_text
from edgekit.header.precision import FULL_PRECISION, is_full_precision
from edgekit.records import (
    Answers,
    Estimate,
    Evidence,
    Figure,
    Gate,
    Quality,
    Runtime,
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
    reason="the chat template was not compared with the parent's",
    settle="`edgekit evaluate ARTIFACT --reference PARENT`, the model that it was made of, or a file of what that said",
)

BANK_ITEMS = 10_000
"""About what edgekit's own bank holds."""

_FAR = 100
"""Times as much of anything: no advice."""

_ALONE = ("perplexity",)
"""Figures of a text that need no reference."""


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

    The note says which text. Perplexity is a matter of the text alone, so of any but edgekit's own it is `Unknown`: a
    limit found on one text says nothing of another.
    """

    def figure(subject: Subject) -> Figure:
        known = quality_of(subject.evidence)
        if isinstance(known, Unknown):
            return known
        doubt = _unlike_judged(known, subject, field) or unbacked_text(known, field)
        found: Figure = getattr(known, field)
        if doubt is not None or isinstance(found, Unknown):
            return doubt or found
        return replace(found, note="; ".join(part for part in (found.note, _text_of(known)) if part))

    return figure


def _text_of(quality: Quality) -> str:
    """The text in words: origin, digest, how much of it."""
    origin = quality.text_origin or "a text of unknown origin"
    digest = f", SHA-256 {quality.text_sha256[:12]}" if quality.text_sha256 else ""
    return f"{len(quality.chunks)} chunks of {quality.context_tokens} tokens of {origin}{digest}"


def _unlike_judged(quality: Quality, subject: Subject, field: str) -> Unknown | None:
    """Why a figure of this very artifact is not the one judged: other settings, another text, no proper reference."""
    other = unlike_settings(quality.settings, quality.runtime, subject)
    if other is not None:
        return other
    return _foreign_text(quality) if field in _ALONE else _no_reference(quality, subject, field)


def _foreign_text(quality: Quality) -> Unknown | None:
    from edgekit.corpus import EVALUATION_ORIGIN

    if quality.text_origin == EVALUATION_ORIGIN or isinstance(quality.perplexity, Unknown):
        return None
    return Unknown(
        reason=f"perplexity is a matter of the text, and this is of `{quality.text_origin or 'an unknown one'}`",
        settle="gate `perplexity_ratio` or `kld_mean`, or evaluate without `--text`",
    )


def _no_reference(quality: Quality, subject: Subject, field: str) -> Unknown | None:
    """Why what it was compared with is no reference: the artifact itself, or a build that was quantized too."""
    artifact = subject.evidence.artifact
    itself = bool(artifact.sha256) and quality.reference_sha256 == artifact.sha256
    if itself and not is_full_precision(artifact.header):
        return Unknown(
            reason=f"this {artifact.header.quant} artifact was compared with itself",
            settle="`edgekit evaluate ARTIFACT --reference REF` with the full-precision build",
        )
    if isinstance(getattr(quality, field), Unknown) or quality.reference_quant in FULL_PRECISION:
        return None
    stored = f"a {quality.reference_quant} build" if quality.reference_quant else "of a precision that nobody recorded"
    return Unknown(
        reason=f"the reference `{quality.reference}` is {stored}: what quantizing cost it would be missing",
        settle="`edgekit evaluate ARTIFACT --reference REF` with the full-precision build",
    )


def unlike_settings(settings: Settings | None, runtime: Runtime | None, subject: Subject) -> Unknown | None:
    """Which setting that changes logits was another one when quality was measured; `None` where none was. Flash
    attention left to the runtime is what the runtime made of it: on, where it does not tell.
    """
    measured, judged = settings or Settings(), subject.case.settings
    if measured.kv_type != judged.kv_type:
        return Unknown(
            reason=f"quality was measured with a KV cache of `{measured.kv_type}`, and `{judged.kv_type}` is judged",
            settle=f"judge with `--kv-type {measured.kv_type}`",
        )
    resolved = runtime.flash_attention if runtime is not None else None
    flash = resolved if resolved is not None else measured.flash_attention != "off"
    if flash != (judged.flash_attention != "off"):
        return _other_setting("flash attention", "on" if flash else "off", "--flash-attention " + ("off", "on")[flash])
    if measured.repack != judged.repack:
        flag = "--repack" if measured.repack else "--no-repack"
        return _other_setting("repacking", "on" if measured.repack else "off", flag)
    return None


def _other_setting(what: str, was: str, flag: str) -> Unknown:
    judged = "off" if was == "on" else "on"
    return Unknown(
        reason=f"quality was measured with {what} {was}, and {judged} is judged", settle=f"judge with `{flag}`"
    )


# ---- on tasks -----------------------------------------------------------------------------------------------------


def retained(domain: str = "") -> QualityFunction:
    """Retention of all items, or of one domain's."""

    def figure(subject: Subject) -> Figure:
        tasks = _judged_tasks(subject)
        if isinstance(tasks, Unknown):
            return tasks
        if not domain:
            return _lacking_domains(tasks) or unbacked_tasks(tasks) or tasks.overall.retention
        for score in tasks.domains:
            if score.domain == domain:
                return unbacked_tasks(tasks, score) or score.retention
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
    doubts = (_lacking_domains(tasks), *(unbacked_tasks(tasks, score) for score in tasks.domains))
    for doubt in filter(None, doubts):
        return doubt
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
    other = unlike_settings(tasks.answers.settings, tasks.answers.runtime, subject)
    return other or _another_teacher(subject.evidence, tasks.teacher) or tasks


def _another_teacher(evidence: Evidence, answers: Answers) -> Unknown | None:
    """Why these are not surely the answers of the teacher that the student learned from, where a walk tells of it."""
    if evidence.lineage is None:
        return None
    taught_by, run = evidence.lineage.distillation.teacher, evidence.lineage.teacher
    if run is not None and run.artifact.sha256 and run.artifact.sha256 == answers.artifact_sha256:
        return None  # the walk's own build of it
    if answers.checkpoint_sha256 == taught_by.sha256:
        return None
    known = "are of another checkpoint" if answers.checkpoint_sha256 else "do not say of which checkpoint they are"
    return Unknown(
        reason=f"the teacher's saved answers {known}, and the student learned from `{taught_by.name}`",
        settle="`edgekit quantize TEACHER --to gguf:f16`, then `edgekit evaluate` it with `--save`",
    )


def _lacking_domains(tasks: Tasks) -> Unknown | None:
    """Of edgekit's own bank every domain must be there: a part of it is called like the whole. A user's own bank has
    the domains that it has.
    """
    from edgekit.corpus import DOMAINS
    from edgekit.corpus.bank import NAME

    answered = {answer.domain for answer in tasks.answers.answers} & {score.domain for score in tasks.domains}
    lacking = [domain for domain in DOMAINS if domain not in answered]
    if not lacking or not tasks.answers.bank.startswith(NAME):
        return None
    return Unknown(
        reason=f"only a part of `{tasks.answers.bank}` was answered, nothing of {', '.join(lacking)}",
        settle="answer all its domains (no `--domain`), or gate the domain alone",
    )


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
        tasks = _judged_tasks(subject)
        if isinstance(tasks, Unknown):
            return tasks
        assert tasks.teacher is not None
        found: Figure = getattr(known.similarity, field)
        said = min(len(tasks.answers.responses), len(tasks.teacher.responses))
        if isinstance(found, Unknown) or 0 < known.similarity.responses <= said:
            return found
        return Unknown(reason="the record does not hold the responses that it compares", settle="evaluate it anew")

    return figure


def foreign_identity(subject: Subject) -> Figure:
    """Share of the prompts about itself that the artifact answers with someone else's name."""
    known = _with(subject.evidence, "identity", _NO_IDENTITY)
    if isinstance(known, Unknown) or known.identity is None:
        return known if isinstance(known, Unknown) else _NO_IDENTITY
    tasks = tasks_of(subject.evidence)
    if isinstance(tasks, Unknown):
        return tasks
    other = unlike_settings(tasks.answers.settings, tasks.answers.runtime, subject)
    return other or unbacked_identity(known.identity, tasks) or known.identity.share


def template_kept(subject: Subject) -> Figure:
    """1 where the chat template is the parent's, byte for byte, 0 where it was lost or changed."""
    known = _with(subject.evidence, "template", _NO_TEMPLATE)
    if isinstance(known, Unknown) or known.template is None:
        return known if isinstance(known, Unknown) else _NO_TEMPLATE
    template = known.template
    if known.reference_sha256 == subject.evidence.artifact.sha256:
        return Unknown(
            reason="the chat template was compared with that of this very artifact",
            settle="`edgekit evaluate ARTIFACT --reference PARENT`, the model that it was made of",
        )
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
