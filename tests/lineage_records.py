"""Synthetic but realistic distillations for the tests of the report."""

from __future__ import annotations

import math
from dataclasses import replace

from report_records import around, artifact, battery, case, evidence, header, host, measurement, memory, passing

from edgekit.records import (
    Change,
    Distillation,
    DistillCost,
    Estimate,
    Evidence,
    HeldOut,
    LayerMap,
    Lineage,
    Link,
    ModelFacts,
    Provenance,
    Report,
    StageKind,
    StageResult,
    Training,
    Unknown,
)

STUDENT_SHA = "57" * 32


def model(name: str, parameters: int, layers: int, **changes: object) -> ModelFacts:
    facts = ModelFacts(
        name=name,
        path=f"/models/{name}",
        sha256="7e" * 32,
        architecture="qwen3",
        parameters=parameters,
        embedding_parameters=0,
        layers=layers,
        hidden=256,
        ffn=768,
        heads=4,
        kv_heads=2,
        head_dim=64,
        vocabulary=2048,
        tied_embedding=True,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def held_out(loss: float, kld: float | None) -> HeldOut:
    unknown = Unknown(reason="the teacher itself")
    return HeldOut(
        loss=Estimate(value=loss, low=loss * 0.94, high=loss * 1.06, basis="measured-here"),
        top1=Estimate(value=math.exp(-loss), low=math.exp(-loss) * 0.97, high=math.exp(-loss), basis="measured-here"),
        kld=unknown if kld is None else Estimate(value=kld, low=kld * 0.9, high=kld * 1.1, basis="measured-here"),
        teacher="field-teacher",
        tokens=18_432,
        origin="questions of the evaluation split",
        text_sha256="0d" * 32,
    )


def cost(tokens: int, seconds: float) -> DistillCost:
    flops = Estimate(value=6 * 1.4e6 * tokens, low=6 * 1.4e6 * tokens, high=6.6 * 1.4e6 * tokens, basis="predicted")
    taught = Estimate(value=2 * 6.2e6 * tokens, low=2 * 6.2e6 * tokens, high=2.2 * 6.2e6 * tokens, basis="predicted")
    return DistillCost(
        tokens=tokens,
        teacher_tokens=tokens,
        student_flops=flops,
        teacher_flops=taught,
        seconds=seconds,
        peak_bytes=1_240_000_000,
    )


def stage(kind: StageKind, steps: int, before: float, after: float, kld: float) -> StageResult:
    losses = tuple(
        (n, after + (before - after) * math.exp(-4 * n / steps) + 0.02 * math.sin(n)) for n in range(0, steps, 2)
    )
    tokens = steps * 16 * 192
    return StageResult(
        kind=kind,
        teacher="field-teacher",
        settings=(("loss", "forward"), ("temperature", "3 → 1"), ("alpha", "0.7")),
        training=Training(
            steps=steps,
            tokens=tokens,
            seconds=steps * 0.11,
            losses=losses,
            tokens_per_s=28_300.0,
            peak_bytes=1_240_000_000,
        ),
        held_out=held_out(after, kld),
        cost=cost(tokens, steps * 0.11),
        path="/out/distill/student",
    )


def softly(student: int, teacher: int) -> LayerMap:
    """Each student layer looks mostly where it lies in depth."""
    rows = []
    for layer in range(student):
        at = layer * (teacher - 1) / max(1, student - 1)
        raw = [math.exp(-1.4 * (column - at) ** 2) for column in range(teacher)]
        rows.append(tuple(one / sum(raw) for one in raw))
    return LayerMap(student_layers=student, teacher_layers=teacher, weights=tuple(rows), mapping="learned")


def distillation() -> Distillation:
    """Two links, the second of three stages."""
    middle, last = model("field-middle", 3_100_000, 4), model("field-ranger", 1_380_000, 3, sha256=STUDENT_SHA)
    first = Link(
        student=middle,
        taught_by="field-teacher",
        source="prune:depth=0.5",
        start=held_out(3.1, 2.2),
        stages=(replace(stage("logits", 300, 3.0, 1.1, 0.42), notes=("a note of the stage",)),),
        kept_layers=(0, 3, 5, 7),
    )
    second = Link(
        student=last,
        taught_by="field-teacher",
        source="prune:depth=0.75",
        start=held_out(2.6, 1.9),
        stages=(
            stage("logits", 200, 2.5, 1.4, 0.61),
            stage("features", 200, 0.8, 1.2, 0.48),
            stage("task", 400, 1.9, 0.62, 0.21),
        ),
        layer_map=softly(3, 8),
    )
    return Distillation(
        edgekit_version="0.1.0",
        recipe="tiny",
        recipe_sha256="4e" * 32,
        teacher=model("field-teacher", 6_180_000, 8),
        teacher_held_out=held_out(0.41, None),
        teacher_cost=cost(4_400_000, 190.0),
        links=(first, second),
        cost=cost(3_379_200, 121.0),
        host=host(),
        versions=(("torch", "2.13.0"), ("transformers", "5.23.0")),
        started_at="2026-11-22T01:00:00+00:00",
        finished_at="2026-11-22T01:04:00+00:00",
    )


def teacher_run() -> Evidence:
    """The teacher's own build: five times the bytes, a quarter of the speed."""
    slow = measurement(sustained=False)
    slow = replace(slow, samples=tuple(replace(one, elapsed_s=one.elapsed_s * 4.2) for one in slow.samples))
    one = replace(case("oneplus-13", "OnePlus 13", 14.0), memory=memory(4.0), battery=battery(1.1))
    built = replace(
        artifact("field-teacher-f16.gguf"),
        header=replace(header("field-teacher"), quant="f16", size_bytes=4_100_000_000),
    )
    return replace(evidence(one, measured=slow), artifact=built)


def lineage() -> Lineage:
    changes = tuple(
        Change(metric=metric, better=better, limit=None, ratio=ratio, status="unknown", reason="no limit was set")  # type: ignore[arg-type]
        for metric, better, ratio in (
            ("decode", "higher", around(4.2, 1.12, "measured-here")),
            ("prefill", "higher", around(4.3, 1.13, "measured-here")),
        )
    )
    return Lineage(distillation=distillation(), teacher=teacher_run(), changes=changes)


def distilled(found: Lineage | None = None) -> Report:
    """A passing report whose artifact was distilled here."""
    base = passing()
    built = replace(base.evidence.artifact, provenance=Provenance(checkpoint_sha256=STUDENT_SHA))
    return replace(base, evidence=replace(base.evidence, artifact=built, lineage=found or lineage()))


def hostile_lineage(text: str) -> Lineage:
    """`text` wherever a stranger's record of a distillation can say something."""
    base = lineage()
    chain = base.distillation
    facts = replace(chain.teacher, name=text, path=text, architecture=text, made=text, sha256=text)
    bad = replace(chain.links[1].stages[0], teacher=text, settings=((text, text),), notes=(text,))
    bad = replace(bad, training=replace(bad.training, stopped=text))
    unscored = replace(held_out(1.0, 0.5), origin=text, text_sha256=text, kld=Unknown(reason=text, settle=text))
    link = replace(chain.links[1], student=facts, taught_by=text, source=text, start=unscored, stages=(bad,))
    chain = replace(
        chain,
        recipe=text,
        recipe_sha256=text,
        teacher=facts,
        links=(link,),
        teacher_held_out=unscored,
        teacher_cost=Unknown(reason=text, settle=text),
        versions=((text, text),),
        started_at=text,
        notes=(text,),
    )
    return replace(base, distillation=chain)


__all__ = ["STUDENT_SHA", "distilled", "hostile_lineage", "lineage", "model", "softly", "stage"]
