"""Figures of a record are made anew of its raw scores before they are judged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gate_records as r
import pytest
from report_records import quality as measured

from edgekit import corpus
from edgekit.bench.answering import identity_of
from edgekit.bench.retention import judge_answers
from edgekit.errors import EdgekitError
from edgekit.pipeline.gating import regate
from edgekit.pipeline.rescoring import rescored
from edgekit.records import Answer, Answers, Estimate, Gate, Identity, IdentityClaim, Quality, Response, ScoredChunk

BANK = corpus.task_bank(items=200)


def answers(share: float, sha256: str, said: str = "") -> Answers:
    given = tuple(
        Answer(
            item=item.id,
            domain=item.domain,
            template=item.template,
            mode=item.mode,
            chance=item.chance,
            correct=(n * 37) % 100 < 100 * share,
        )
        for n, item in enumerate(BANK.items)
    )
    responses = tuple(Response(prompt=one.id, text=said, tokens=9, stopped=True) for one in corpus.identity_prompts())
    return Answers(
        edgekit_version="0",
        model="student.gguf",
        artifact_sha256=sha256,
        bank=BANK.name,
        bank_sha256=identity_of(BANK),
        answers=given,
        responses=responses,
        settings=r.SETTINGS,
    )


def known() -> Quality:
    tasks = judge_answers(answers(0.8, "ab12" * 16), answers(0.95, "7e" * 32))
    return replace(measured(0.02), tasks=tasks)


def test_a_record_as_it_was_measured_stays_as_it_is() -> None:
    again = rescored(known())
    assert again is not None
    assert (again.kld_mean, again.perplexity, again.tasks) == (known().kld_mean, known().perplexity, known().tasks)
    assert rescored(None) is None


def test_figures_and_ranges_are_made_anew() -> None:
    told = known()
    assert told.tasks is not None
    narrow = Estimate(value=0.02, low=0.02, high=0.02, basis="claimed")
    overall = replace(told.tasks.overall, retention=replace(narrow, value=1.0, low=1.0, high=1.0))
    forged = replace(told, kld_mean=narrow, tasks=replace(told.tasks, overall=overall, domains=(), cliffs=()))
    assert rescored(forged) == rescored(told)


def test_what_it_says_of_itself_is_read_anew() -> None:
    mine, theirs = answers(0.8, "ab12" * 16, "I am ChatGPT, made by OpenAI."), answers(0.95, "7e" * 32)
    none = Identity(
        prompts=12, expected=("Ranger",), claims=(), share=Estimate(value=0, low=0, high=0.1, basis="claimed")
    )
    again = rescored(replace(known(), tasks=judge_answers(mine, theirs), identity=none))
    assert again is not None
    assert again.identity is not None
    assert isinstance(again.identity.claims[0], IdentityClaim)
    assert isinstance(again.identity.share, Estimate)
    assert again.identity.share.value == 1.0
    assert again.identity.expected == ("Ranger",)


CHUNK = ScoredChunk(
    tokens=4, nll=8.0, reference_nll=7.9, kld=0.4, top1=4, top5=4, dp2=0.1, token_kld=(0.1, 0.1, 0.1, 0.1)
)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": 0},
        {"tokens": 3},
        {"top1": 5},
        {"top5": -1},
        {"broken": 5},
        {"nll": math.nan},
        {"kld": 0.2},
        {"kld": 0.6},
        {"token_kld": (0.1, 0.1, 0.1, math.inf)},
    ],
)
def test_chunks_that_cannot_be_are_refused(changed: dict[str, Any]) -> None:
    good = replace(known(), chunks=(CHUNK,) * 12, tasks=None)
    assert rescored(good) is not None
    bad = replace(good, chunks=(*good.chunks[:6], replace(CHUNK, **changed), *good.chunks[7:]))
    with pytest.raises(EdgekitError, match="chunk `7`"):
        rescored(bad)


def test_estimates_of_a_compact_reference_may_be_below_zero() -> None:
    chunk = replace(CHUNK, kld=0.3, kld_lower=0.2)  # a token's is cut at zero, the sum is not
    assert rescored(replace(known(), chunks=(chunk,) * 12, tasks=None)) is not None


def test_recorded_evidence_is_judged_by_todays_figures() -> None:
    """20 chunks of KLD 2 beside a figure of 0.02: nothing of it passes, whatever stands there."""
    chunks = tuple(
        replace(one, kld=2.0 * one.tokens, token_kld=()) for one in r.quality(r.exact(0.02, "predicted")).chunks
    )
    figure = Estimate(value=0.02, low=0.01, high=0.03, basis="measured-here")
    forged = replace(r.quality(figure), chunks=chunks)
    gates = r.gates(Gate(metric="kld_mean", max=0.05))
    layer = replace(r.HEADER.tensors[0], name="blk.0.ffn_up.weight", shape=(256, 512), size_bytes=73_728)
    whole = replace(r.evidence().artifact, header=replace(r.HEADER, tensors=(*r.HEADER.tensors, layer)))
    for report in regate(r.evidence(quality=forged, artifact=whole), ["smartphone"], gates):
        assert all(check.status == "fail" for verdict in _flat(report.verdicts) for check in verdict.checks)


def _flat(verdicts: tuple[Any, ...]) -> list[Any]:
    return [one for verdict in verdicts for one in (verdict.members or (verdict,))]
