"""How the artifact's student was distilled, as rows for every format: the chain, its layer maps, what it cost.

What it brought stands in `distillation_return`. As with quality, a part is plain rows and tables made once, and each
format only sets them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.records import (
    Distillation,
    DistillCost,
    Estimate,
    Evidence,
    HeldOut,
    LayerMap,
    Lineage,
    Link,
    ModelFacts,
    Report,
    StageResult,
    Unknown,
)
from edgekit.report.distillation_return import return_part
from edgekit.report.distillation_words import count_text, flops_text
from edgekit.report.facts import host_text
from edgekit.report.quality import Part, Table, digest, told
from edgekit.report.sweep_words import bare_text, short_text
from edgekit.report.words import Fact, clean
from edgekit.units import format_bytes, format_duration, format_percent

READING = (
    "Loss and top-1 are on text that no training saw; KL divergence says by how many nats a token the student's "
    "predictions depart from the first teacher's. A chart's band and a bracket are the 90 % range over the windows of "
    "that text."
)
MAP_READING = "The share of each teacher layer in what a student layer was taught to be like; a row sums to 100 %."
CARVED_READING = "The layer that each student layer was cut out as, before it was trained."
COST_READING = (
    "FLOPs are counted from the shapes: 6 for each weight and token that is trained, 2 for each that a teacher reads "
    "(Kaplan et al. 2020, §2.1); their range is without and with attention. The time is that of the clock here."
)
MAX_ROWS = 200
"""Stages, and layers of a map, that are shown; a stranger's record may hold any number."""


def parts_of(report: Report) -> tuple[Part, ...]:
    """Every part on how the artifact came to be; nothing of one that nobody distilled here."""
    lineage = report.evidence.lineage
    if lineage is None:
        return ()
    maps = map_parts(lineage.distillation)
    return (chain_part(report.evidence, lineage), *maps, cost_part(lineage.distillation), return_part(report, lineage))


def maps_of(distillation: Distillation) -> tuple[tuple[Link, LayerMap], ...]:
    """The links that have a layer map, with it."""
    return tuple((link, link.layer_map) for link in distillation.links if link.layer_map is not None)


# ---- the chain ------------------------------------------------------------------------------------------------------


def chain_part(evidence: Evidence, lineage: Lineage) -> Part:
    """The teacher, and every student before its first stage and after each, on held-out text."""
    chain = lineage.distillation
    rows: list[tuple[str, ...]] = [(name(chain.teacher), "", *_scores(chain.teacher_held_out, own=True))]
    for link in chain.links:
        rows.append((f"{name(link.student)}, start", "", *_scores(link.start)))
        rows += [_stage_row(link, stage) for stage in link.stages]
    head = ("after", "tokens", "held-out loss, nat", "top-1", "KL divergence, nat")
    models = [Fact(label="teacher", value=f"{name(chain.teacher)}: {_made(chain.teacher)}")]
    models += [
        Fact(label="student", value=f"{name(link.student)}: {_made(link.student)}; taught by {link.taught_by}")
        for link in chain.links[:MAX_ROWS]
    ]
    return Part(
        key="chain",
        title="distillation",
        reading=READING,
        table=Table(title="the chain", head=head, rows=tuple(rows[:MAX_ROWS])),
        rows=told(tuple(models)),
        notes=tuple(_notes(evidence, chain)),
        behind=_behind(chain),
    )


def _made(model: ModelFacts) -> str:
    return f"{count_text(model.parameters)} parameters" + (f", {model.made}" if model.made else "")


def _stage_row(link: Link, stage: StageResult) -> tuple[str, ...]:
    return (f"{name(link.student)}, {stage.kind}", count_text(stage.training.tokens), *_scores(stage.held_out))


def _scores(held_out: HeldOut, *, own: bool = False) -> tuple[str, str, str]:
    """Loss, top-1 and KL divergence; the first teacher's own divergence is no figure."""
    kld = "" if own else bare_text(held_out.kld, "nat")
    return bare_text(held_out.loss, "nat"), short_text(held_out.top1, "fraction", 1.0), kld


def _notes(evidence: Evidence, chain: Distillation) -> Iterator[str]:
    """What a reader must know before the figures."""
    told_of = evidence.artifact.provenance.checkpoint_sha256 if evidence.artifact.provenance else ""
    if not told_of:
        yield "the artifact does not say of which checkpoint it is: that it is this student is the record's word"
    elif told_of != chain.student.sha256:
        yield "the artifact says that it is of another checkpoint than this chain's last student"
    for link in chain.links:
        yield from stage_notes(link)
    yield from (clean(note) for note in chain.notes)


def stage_notes(link: Link) -> Iterator[str]:
    """What is to be said of the stages of a link: where one ended early or its student lost by it, and their notes."""
    before = link.start
    for stage in link.stages:
        where = f"{name(link.student)}, {stage.kind}"
        if stage.training.stopped:
            yield f"{where}: stopped early, {clean(stage.training.stopped)}"
        lost = tuple(_lost(before, stage.held_out))
        if lost:
            yield f"{where}: the student is worse after it: {', '.join(lost)}"
        yield from (f"{where}: {clean(note)}" for note in stage.notes)
        before = stage.held_out


def _lost(before: HeldOut, after: HeldOut) -> Iterator[str]:
    """What rose beyond both ranges."""
    for what, old, new in (
        ("held-out loss", before.loss, after.loss),
        ("KL divergence", before.kld, after.kld),
    ):
        if isinstance(old, Estimate) and isinstance(new, Estimate) and new.low > old.high:
            yield f"{what} {old.value:.3g} → {new.value:.3g} nat"


def _behind(chain: Distillation) -> tuple[Fact, ...]:
    held_out, teacher = chain.teacher_held_out, chain.teacher
    facts = [
        Fact(label="recipe", value=f"{chain.recipe}{digest(chain.recipe_sha256)}"),
        Fact(label="teacher", value=f"{_shape(teacher)}{digest(teacher.sha256)}"),
        *(Fact(label="student", value=f"{_shape(one.student)}{digest(one.student.sha256)}") for one in chain.links),
        Fact(
            label="held-out text",
            value=f"{held_out.origin or 'of unrecorded origin'}, {held_out.tokens} tokens"
            f"{digest(held_out.text_sha256)}",
        ),
        Fact(label="trained on", value=host_text(chain.host) if chain.host else ""),
        Fact(label="trained with", value=", ".join(f"{one} {version}" for one, version in chain.versions)),
        Fact(
            label="trained at", value=" to ".join(moment for moment in (chain.started_at, chain.finished_at) if moment)
        ),
    ]
    for link in chain.links:
        for stage in link.stages:
            chosen = ", ".join(f"{key} {value}" for key, value in stage.settings)
            facts.append(Fact(label=f"{link.student.name}, {stage.kind}", value=chosen))
    return told(tuple(facts[:MAX_ROWS]))


def _shape(model: ModelFacts) -> str:
    return (
        f"{model.name}: {model.architecture}, {model.layers} layers, hidden {model.hidden}, ffn {model.ffn}, "
        f"{model.heads}/{model.kv_heads} heads of {model.head_dim}, vocabulary {model.vocabulary}"
    )


# ---- layer maps -----------------------------------------------------------------------------------------------------


def map_parts(chain: Distillation) -> tuple[Part, ...]:
    """Of each layer map which layers every student layer saw: its teacher's, or (carved) of the model it is cut of."""
    before = {id(link): name(model) for link, model in zip(chain.links, _models(chain), strict=False)}
    return tuple(
        _map_part(link, found, before[id(link)] if found.mapping == "carved" else clean(link.taught_by, 60))
        for link, found in maps_of(chain)
    )


def _models(chain: Distillation) -> tuple[ModelFacts, ...]:
    return (chain.teacher, *(link.student for link in chain.links))


def _map_part(link: Link, layer_map: LayerMap, other: str) -> Part:
    """The heaviest first."""
    rows = [
        (f"layer {layer}", ", ".join(f"{at} ({format_percent(share)})" for at, share in heaviest(weights)))
        for layer, weights in enumerate(layer_map.weights[:MAX_ROWS])
    ]
    return Part(
        key="map",
        title=f"layers of {clean(link.student.name, 60)} and of {other}",
        reading=CARVED_READING if layer_map.mapping == "carved" else MAP_READING,
        table=Table(title="layer map", head=("student", "teacher layers"), rows=tuple(rows), prose=True),
        rows=(Fact(label="map", value=map_words(layer_map)),),
    )


def map_words(layer_map: LayerMap) -> str:
    """How the map was found, and its extent."""
    return f"{layer_map.mapping}: {layer_map.student_layers} of the student on {layer_map.teacher_layers}"


def heaviest(weights: Sequence[float]) -> list[tuple[int, float]]:
    """(teacher layer, share) of the three largest shares of at least a hundredth."""
    ranked = sorted(enumerate(weights), key=lambda one: -one[1])[:3]
    return [(at, share) for at, share in ranked if share >= 0.01]


# ---- cost -----------------------------------------------------------------------------------------------------------


def cost_part(chain: Distillation) -> Part:
    """Tokens, FLOPs and time of every stage and of the whole."""
    rows = []
    if isinstance(chain.teacher_cost, DistillCost):
        rows.append(_cost_row(f"{name(chain.teacher)} itself", chain.teacher_cost, ""))
    for link in chain.links:
        rows += [_cost_row(f"{name(link.student)}, {one.kind}", one.cost, _speed(one)) for one in link.stages]
    rows = [*rows[:MAX_ROWS], _cost_row("all stages", chain.cost, "")]
    head = ("", "tokens", "FLOP, student", "FLOP, teacher", "time", "tok/s")
    own, wrote = chain.teacher_cost, chain.cost.written_tokens
    facts = (
        Fact(label="the teacher read", value=f"{count_text(chain.cost.teacher_tokens)} tokens"),
        Fact(label="the student wrote", value=f"{count_text(wrote)} of its tokens itself" if wrote else ""),
        Fact(label="peak memory", value=f"{format_bytes(chain.cost.peak_bytes)} of one process"),
        Fact(label="the teacher’s own", value=f"unknown: {own.reason}" if isinstance(own, Unknown) else ""),
    )
    return Part(
        key="cost",
        title="cost of the training",
        reading=COST_READING,
        table=Table(title="cost", head=head, rows=tuple(rows)),
        rows=told(facts),
    )


def _cost_row(what: str, cost: DistillCost, speed: str) -> tuple[str, ...]:
    student, teacher = flops_text(cost.student_flops), flops_text(cost.teacher_flops)
    return (what, count_text(cost.tokens), student, teacher, format_duration(cost.seconds), speed)


def _speed(stage: StageResult) -> str:
    return count_text(stage.training.tokens_per_s)


def name(model: ModelFacts) -> str:
    return clean(model.name, 60) or "unnamed"
