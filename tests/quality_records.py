"""Quality records with everything in them: tasks beside a teacher, responses, identity, layers and a chat template."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from edgekit import corpus
from edgekit.records import (
    Answer,
    Answers,
    ChatTemplate,
    Estimate,
    Figure,
    Finding,
    Identity,
    IdentityClaim,
    Layers,
    LayerShare,
    Quality,
    Response,
    Similarity,
    Tasks,
    Unknown,
)

STUDENT_SHA, TEACHER_SHA = "ab12" * 16, "72b0" * 16
DOMAINS = ("factual", "reasoning", "coding", "conservation")
TEMPLATES = {
    "factual": ("capitals", "elements", "units", "years"),
    "reasoning": ("syllogism", "arithmetic", "ordering", "calendar"),
    "coding": ("slicing", "precedence", "string-methods", "comprehension"),
    "conservation": ("species-by-marks", "threat-in-report", "patrol-guidance", "status-of-species"),
}
RIGHT = {"factual": (0.86, 0.92), "reasoning": (0.71, 0.8), "coding": (0.47, 0.83), "conservation": (0.81, 0.88)}
"""Shares that student and teacher answer rightly: a cliff in coding."""


def here(value: float, low: float, high: float, note: str = "") -> Estimate:
    return Estimate(value=value, low=low, high=high, basis="measured-here", note=note)


def _answers(which: int, each: int) -> tuple[Answer, ...]:
    dice, found = random.Random(11), []
    for domain in DOMAINS:
        for number in range(each):
            luck, own = dice.random(), dice.random()
            share = RIGHT[domain][which]
            generated = number % 8 == 7
            right = (0.75 * luck + 0.25 * (own if which else 1 - own)) < share
            found.append(
                Answer(
                    item=f"{domain}-{number:012x}",
                    domain=domain,
                    template=TEMPLATES[domain][number % 4],
                    mode="generate" if generated else "choice",
                    correct=right,
                    chance=0.0 if generated else 0.25,
                    picked="Nairobi" if right else "Lagos",
                    margin_nats=None if generated else (1.3 if right else -0.4),
                )
            )
    return tuple(found)


def answers(which: int, model: str, sha: str, *, each: int = 200) -> Answers:
    """What the student (0) or the teacher (1) answered of `each` items a domain."""
    from report_records import SETTINGS, host, measurement

    return Answers(
        edgekit_version="0.1.0",
        model=model,
        artifact_sha256=sha,
        bank="edgekit-tasks-1",
        bank_sha256="ba" * 32,
        answers=_answers(which, each),
        settings=SETTINGS,
        runtime=measurement(sustained=False).runtime,
        host=host(),
        started_at="2026-11-22T01:20:00+00:00",
        responses=_responses(which),
    )


def _responses(which: int) -> tuple[Response, ...]:
    said = ("The pangolin is a mammal with scales.", "A pangolin is a mammal that scales protect from lions.")[which]
    asked = (*corpus.open_prompts(), *corpus.identity_prompts())
    return tuple(
        Response(prompt=one.id, text=said if number % 5 else f"{number} of them.", tokens=9, stopped=True)
        for number, one in enumerate(asked)
    )


@cache
def tasks(*, teacher: bool = True, each: int = 200) -> Tasks:
    """Four domains of `each` items, judged, with a cliff in coding."""
    from edgekit.bench import judge_answers

    student = answers(0, "zen-nano-1.5b-q4_0.gguf", STUDENT_SHA, each=each)
    return judge_answers(student, answers(1, "zen-72b-q8_0.gguf", TEACHER_SHA, each=each) if teacher else None)


def layers() -> Layers:
    """Sixteen groups, one of which brings almost half."""
    shares = [0.47, 0.11, *(0.42 / 14 * (1.4 - 0.8 * n / 13) for n in range(14))]
    names = ["blk.3.ffn_down", "token_embd", *(f"blk.{n // 2}.{('attn', 'ffn')[n % 2]}" for n in range(14))]
    whole = 0.0123
    return Layers(
        method="each group swapped alone into zen-nano-1.5b-f16.gguf, by layer and kind",
        rows=tuple(
            LayerShare(
                group=name,
                layer=3 if number == 0 else None,
                tensors=(f"{name}.weight",),
                types=("q2_k",) if number == 0 else ("q4_0",),
                size_bytes=4_587_520 * (1 + number % 3),
                kld=here(whole * share, whole * share * 0.82, whole * share * 1.21),
                share=share / sum(shares),
                suggestion="q6_k" if number == 0 else "",
                suggested_extra_bytes=6_422_528 if number == 0 else 0,
                suggested_kld=here(0.00031, 0.00025, 0.00038) if number == 0 else Unknown(reason="not recorded"),
            )
            for number, (name, share) in enumerate(zip(names, shares, strict=True))
        ),
        sum=here(0.0121, 0.0112, 0.0131),
        whole=here(whole, 0.0115, 0.0132),
        weights=here(0.0119, 0.0111, 0.0128),
        chunks=8,
        text_sha256="7e" * 32,
        reference_sha256="f1" * 32,
        artifact_sha256=STUDENT_SHA,
        findings=(Finding(level="note", code="few-probes", message="14 groups were probed together for lack of time"),),
    )


def claims() -> Identity:
    """Two answers of sixteen with someone else's name."""
    return Identity(
        prompts=16,
        expected=("Zen", "Zen Nano"),
        claims=(
            IdentityClaim(
                prompt="who-made-you",
                text="I am Qwen, a large language model created by Alibaba Cloud.",
                claimed="Qwen (Alibaba)",
            ),
            IdentityClaim(
                prompt="your-name", text="My name is ChatGPT. How can I help you today?", claimed="ChatGPT (OpenAI)"
            ),
        ),
        share=here(0.125, 0.041, 0.322),
    )


def spread(found: Quality) -> Quality:
    """With the quantiles of KL divergence, top-5 agreement and RMS Δp that this version records."""
    return replace(
        found,
        reference_form="live",
        kld_median=here(0.0041, 0.0038, 0.0044),
        kld_p90=here(0.0287, 0.0262, 0.0318),
        kld_p99=here(0.149, 0.121, 0.187),
        kld_p999=Unknown(reason="6144 tokens hold 6 beyond p99.9: too few", settle="110 chunks or more"),
        kld_max=here(1.92, 1.92, 2.61, note="the largest of these tokens; a longer text may hold a larger one"),
        top5_agreement=here(0.9971, 0.9958, 0.9982),
        dp_rms=here(0.0214, 0.0199, 0.0231),
    )


def full(kld: float = 0.0123) -> Quality:
    """Everything that can be found, most of it good, with a cliff in coding."""
    from report_records import quality

    return replace(
        spread(quality(kld)),
        tasks=tasks(),
        similarity=Similarity(
            teacher="zen-72b-q8_0.gguf",
            responses=48,
            edit=here(0.442, 0.391, 0.497),
            overlap=here(0.517, 0.468, 0.561),
            agreement=here(0.781, 0.662, 0.867),
        ),
        identity=Identity(prompts=16, expected=("Zen",), claims=(), share=here(0.0, 0.0, 0.145)),
        layers=layers(),
        template=ChatTemplate(
            status="same", parent="zen-nano-1.5b", sha256="c4" * 32, parent_sha256="c4" * 32, detail=""
        ),
    )


def troubled() -> Quality:
    """A lost template, foreign claims, a compact reference, a teacher near chance in one domain, retention unknown."""
    base = full(0.05)
    assert base.tasks is not None
    near: Figure = Unknown(
        reason="the teacher is within 10 points of chance (31 % to 36 %, chance 22 %)", settle="harder to guess items"
    )
    *others, last = base.tasks.domains
    lost = replace(last, retention=near, teacher_accuracy=here(0.33, 0.31, 0.36))
    return replace(
        base,
        reference_form="compact",
        kld_lower=here(0.0489, 0.0462, 0.0518),
        tasks=replace(base.tasks, domains=(*others, lost)),
        identity=claims(),
        template=ChatTemplate(
            status="changed",
            parent="zen-nano-1.5b",
            sha256="c4" * 32,
            parent_sha256="d5" * 32,
            detail="at character 118: `<|im_start|>system` and `<|im_start|>user`",
        ),
    )


def hostile_quality(text: str, found: Quality) -> Quality:
    """`text` wherever a model, a teacher, a bank or a template can bring its own words into `found`."""
    base = troubled()
    assert base.tasks is not None
    assert base.tasks.teacher is not None
    assert base.layers is not None
    assert base.identity is not None
    unknown = Unknown(reason=text, settle=text)

    def told(one: Answers) -> Answers:
        bad = tuple(replace(answer, template=text, domain=text, picked=text, item=text) for answer in one.answers[:3])
        findings = (Finding(level="warning", code=text, message=text, hint=text),)
        return replace(
            one,
            model=text,
            bank=text,
            bank_sha256=text,
            answers=(*bad, *one.answers[3:9]),
            started_at=text,
            findings=findings,
        )

    first, second, *rest = base.tasks.domains
    domains = (replace(first, domain=text), replace(second, domain=f"{text} ", retention=unknown), *rest)
    asked = replace(
        base.tasks,
        answers=replace(told(base.tasks.answers), artifact_sha256=found.artifact_sha256),
        teacher=told(base.tasks.teacher),
        domains=domains,
        cliffs=(text, f"{text}!"),
    )
    row = replace(base.layers.rows[0], group=text, types=(text,), suggestion=text or "q8_0", kld=unknown)
    return replace(
        spread(found),
        kld_lower=unknown,
        tasks=asked,
        similarity=Similarity(teacher=text, responses=3, edit=unknown, overlap=unknown, agreement=here(0.5, 0.2, 0.8)),
        identity=replace(
            base.identity,
            expected=(text,),
            claims=(IdentityClaim(prompt=text, text=text, claimed=text),) * 20,
            share=unknown,
        ),
        layers=replace(
            base.layers, method=text, rows=(row, *base.layers.rows), artifact_sha256=found.artifact_sha256, sum=unknown
        ),
        template=ChatTemplate(status="lost", parent=text, detail=text, sha256=text),
    )
