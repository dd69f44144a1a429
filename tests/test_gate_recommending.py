"""Which build to ship: never one that fails, never one of unknown quality, and the smallest of those alike."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import gate_records as r
import pytest
from report_records import memory_check, quality, quality_check
from sweep_records import REFERENCE_SHA, class_row, failed, made, phone, phones, row

from edgekit.gate import recommend
from edgekit.gate.figures import quality_of
from edgekit.gate.recommending import kld_of
from edgekit.records import Estimate, Quality, ScoredChunk, SweepRow, Unknown, Waiver

SMALL, MIDDLE, LARGE = 872_000_000, 930_000_000, 1_060_000_000


def scored(target: str, klds: list[float], **changes: object) -> Quality:
    """A quality record whose chunks have these KLDs per token."""
    from edgekit.bench import text_figures

    chunks = tuple(ScoredChunk(tokens=256, nll=600.0, reference_nll=590.0, kld=256 * kld, top1=200) for kld in klds)
    base = replace(quality(0.01, sha=made(target, SMALL).sha256), chunks=chunks, kld_mean=text_figures.kld_mean(chunks))
    return replace(base, **changes)  # type: ignore[arg-type]


def other_quality(one: SweepRow, **changes: object) -> SweepRow:
    assert one.report is not None
    assert one.report.evidence.quality is not None
    found = replace(one.report.evidence.quality, **changes)  # type: ignore[arg-type]
    return replace(one, report=replace(one.report, evidence=replace(one.report.evidence, quality=found)))


def test_of_those_that_pass_the_best_quality_wins() -> None:
    target, reason = recommend(phone().rows)
    assert target == "gguf:q5_k_m"
    assert "least KLD of the 3 that pass" in reason
    assert "0.00945 nat (0.00803 to 0.0108) and 1.06 GB" in reason


def test_a_better_one_that_does_not_pass_is_not_shipped() -> None:
    rows = [row("gguf:q8_0", 1_650_000_000, 60.0, 0.0001), row("gguf:q4_0", SMALL, 60.0, 0.04)]
    assert [one.report.verdicts[0].status for one in rows if one.report] == ["fail", "pass"]
    target, reason = recommend(rows)
    assert target == "gguf:q4_0"
    assert reason.endswith("the only one that does")


def test_of_those_that_the_text_cannot_tell_apart_the_smallest_wins() -> None:
    spread = [0.010, 0.014, 0.009, 0.013, 0.011, 0.015, 0.010, 0.012]
    shuffled = [0.013, 0.010, 0.014, 0.009, 0.015, 0.011, 0.012, 0.0102]
    rows = [
        row("gguf:q5_k_m", LARGE, 60.0, scored=scored("gguf:q5_k_m", spread)),
        row("gguf:q4_k_m", MIDDLE, 60.0, scored=scored("gguf:q4_k_m", shuffled)),
    ]
    target, reason = recommend(rows)
    assert target == "gguf:q4_k_m"
    assert "cannot tell from the best, `gguf:q5_k_m`" in reason


def test_pairs_tell_apart_what_overlapping_ranges_do_not() -> None:
    """Each chunk is a little worse, while the chunks themselves differ far more: only the pairs show it."""
    spread = [0.004, 0.030, 0.009, 0.022, 0.006, 0.035, 0.010, 0.018]
    worse = [kld * 1.1 for kld in spread]
    rows = [
        row("gguf:q5_k_m", LARGE, 60.0, scored=scored("gguf:q5_k_m", spread)),
        row("gguf:q4_k_m", MIDDLE, 60.0, scored=scored("gguf:q4_k_m", worse)),
    ]
    klds = [kld_of(one, rows) for one in rows]
    assert isinstance(klds[0], Estimate)
    assert isinstance(klds[1], Estimate)
    assert klds[1].low < klds[0].high
    assert recommend(rows)[0] == "gguf:q5_k_m"


def test_without_chunks_overlapping_ranges_are_a_tie() -> None:
    near = Estimate(value=0.011, low=0.009, high=0.013, basis="measured-here")
    best = Estimate(value=0.010, low=0.008, high=0.012, basis="measured-here")
    rows = [
        row("gguf:q5_k_m", LARGE, 60.0, scored=scored("gguf:q5_k_m", [0.01, 0.01], chunks=(), kld_mean=best)),
        row("gguf:q4_k_m", MIDDLE, 60.0, scored=scored("gguf:q4_k_m", [0.01, 0.01], chunks=(), kld_mean=near)),
    ]
    assert recommend(rows)[0] == "gguf:q4_k_m"
    apart = replace(near, value=0.02, low=0.0121, high=0.03)
    assert recommend([rows[0], other_quality(rows[1], kld_mean=apart)])[0] == "gguf:q5_k_m"


def test_unknown_quality_never_wins() -> None:
    unknown = Unknown(reason="the artifact gives logits that are no numbers")
    passing = row("gguf:q4_0", SMALL, 60.0, 0.04)
    silent = other_quality(row("gguf:q4_k_m", MIDDLE, 60.0, 0.01), kld_mean=unknown)
    target, reason = recommend([silent, passing])
    assert target == "gguf:q4_0"
    assert "passed over, for want of a known quality: `gguf:q4_k_m`" in reason
    target, reason = recommend([silent])
    assert target == ""
    assert "no numbers" in reason


def test_random_weights_and_another_files_quality_never_win() -> None:
    good = row("gguf:q4_0", SMALL, 60.0, 0.01)
    assert good.report is not None
    evidence = good.report.evidence
    stand_in = replace(evidence.artifact, header=replace(evidence.artifact.header, stand_in=True))
    random = replace(good, report=replace(good.report, evidence=replace(evidence, artifact=stand_in)))
    assert recommend([random])[0] == ""
    assert "stand-in" in recommend([random])[1]
    foreign = other_quality(good, artifact_sha256="00" * 32)
    assert recommend([foreign])[0] == ""
    assert "another file" in recommend([foreign])[1]
    assert foreign.report is not None
    assert isinstance(quality_of(foreign.report.evidence), Unknown)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"text_sha256": "11" * 32}, "text"),
        ({"reference_sha256": "22" * 32}, "reference"),
        ({"context_tokens": 1024}, "context"),
    ],
)
def test_figures_of_unlike_runs_are_not_ranked(change: dict[str, object], named: str) -> None:
    rows = [row("gguf:q5_k_m", LARGE, 60.0, 0.009), other_quality(row("gguf:q4_0", SMALL, 60.0, 0.04), **change)]
    target, reason = recommend(rows)
    assert target == ""
    assert f"another {named}" in reason


def test_the_reference_itself_diverges_nowhere() -> None:
    """A tiny model whose full precision fits: nothing is nearer to it than itself."""
    own = row("gguf:f16", LARGE, 60.0)
    assert own.report is not None
    alone = replace(own.report.verdicts[0], status="pass", checks=own.report.verdicts[0].checks[:2])
    full = replace(own, report=replace(own.report, verdicts=(alone,), exit_code=0))
    other = row("gguf:q4_0", SMALL, 60.0, 0.04)
    kld = kld_of(full, [full, other])
    assert isinstance(kld, Estimate)
    assert kld.value == 0.0
    assert other.report is not None
    assert other.report.evidence.quality is not None
    assert other.report.evidence.quality.reference_sha256 == REFERENCE_SHA
    assert recommend([full, other])[0] == "gguf:f16"
    assert isinstance(kld_of(full, [full]), Unknown)  # nobody was held against it
    evidence = full.report.evidence  # type: ignore[union-attr]
    random = replace(evidence.artifact, header=replace(evidence.artifact.header, stand_in=True))
    stand_in = replace(full, report=replace(full.report, evidence=replace(evidence, artifact=random)))  # type: ignore[type-var]
    assert isinstance(kld_of(stand_in, [stand_in, other]), Unknown)


def test_retention_is_not_what_was_measured_here() -> None:
    """KLD and perplexity are no retention: the gate that asks for it says so, and not that nothing was measured."""
    from edgekit.gate.onsite import Subject
    from edgekit.gate.quality import of_text, retained

    one = row("gguf:q4_0", SMALL, 60.0, 0.04)
    assert one.report is not None
    subjects = [
        Subject(evidence=evidence, case=evidence.cases[0], device=r.phone())
        for evidence in (one.report.evidence, replace(one.report.evidence, quality=None))
    ]
    for subject in subjects:
        kept = retained()(subject)
        assert isinstance(kept, Unknown)
        assert "teacher" in kept.reason
    told = of_text("kld_mean")(subjects[0])
    assert isinstance(told, Estimate)
    assert replace(told, note="") == kld_of(one, [one])
    assert "corpus: evaluation, seed 1" in told.note
    missing = of_text("kld_mean")(subjects[1])
    assert isinstance(missing, Unknown)
    assert missing.reason == "quality was not measured"


def test_where_none_passes_the_nearest_is_named_with_what_stops_it() -> None:
    rows = [
        row("gguf:q8_0", 1_650_000_000, 27.0, 0.001),
        row("gguf:q6_k", 1_280_000_000, 45.0, 0.004),
        row("gguf:q2_k", 640_000_000, 15.0, 0.3),
    ]
    target, reason = recommend(rows)
    assert target == ""
    assert reason.startswith("no target passes; `gguf:q6_k` comes nearest, stopped by memory: ")


def test_one_check_missed_by_much_is_nearer_than_two_missed_by_little() -> None:
    one = row("gguf:q4_0", SMALL, 15.0, 0.04)
    two = row("gguf:q6_k", 1_280_000_000, 25.0, 0.004)
    for miss, checks in ((one, 1), (two, 2)):
        assert miss.report is not None
        assert sum(check.status == "fail" for check in miss.report.verdicts[0].checks) == checks
    assert "`gguf:q4_0` comes nearest" in recommend([two, one])[1]


def test_an_unknown_check_is_nearer_than_a_failing_one() -> None:
    open_, failing = row("gguf:q4_0", SMALL, 31.0, 0.04), row("gguf:q6_k", 1_280_000_000, 45.0, 0.004)
    assert open_.report is not None
    assert open_.report.verdicts[0].status == "unknown"
    target, reason = recommend([failing, open_])
    assert target == ""
    assert "`gguf:q4_0` comes nearest, stopped by decode speed" in reason


def test_among_those_alike_the_better_quality_is_nearer() -> None:
    rows = [class_row("gguf:q4_0", SMALL, 0.04, [80.0, 90.0]), class_row("gguf:q5_k_m", LARGE, 0.009, [80.0, 90.0])]
    target, reason = recommend(rows)
    assert target == ""
    assert "`gguf:q5_k_m` comes nearest, stopped by quality retained on Galaxy S25 Ultra" in reason


def test_a_class_names_the_device_that_stops_it() -> None:
    target, reason = recommend(phones().rows)
    assert target == ""
    assert "decode speed on Redmi Note 13" in reason
    assert "more required checks not met or not known" in reason


def test_a_waived_check_stops_nothing_while_the_waiver_holds() -> None:
    base = row("gguf:q6_k", 1_280_000_000, 45.0, 0.004)
    assert base.report is not None
    waiver = Waiver(metric="memory_bytes", until="2026-12-31", reason="field trial")
    checks = tuple(
        replace(check, waiver=waiver) if check.metric == "memory_bytes" else check
        for check in (*base.report.verdicts[0].checks, quality_check())
    )
    verdict = replace(base.report.verdicts[0], checks=checks)
    waived = replace(base, report=replace(base.report, verdicts=(verdict,)))
    assert "stopped by quality retained" in recommend([waived], today=date(2026, 12, 31))[1]
    assert "stopped by memory" in recommend([waived], today=date(2027, 1, 1))[1]


def test_advisory_checks_stop_nothing() -> None:
    base = row("gguf:q4_0", SMALL, 60.0, 0.04)
    assert base.report is not None
    advisory = replace(memory_check(next(one.memory for one in base.report.evidence.cases), 1.0), level="advisory")
    verdict = replace(base.report.verdicts[0], checks=(*base.report.verdicts[0].checks, advisory))
    assert recommend([replace(base, report=replace(base.report, verdicts=(verdict,)))])[0] == "gguf:q4_0"
    slow = row("gguf:q4_0", SMALL, 20.0, 0.04)
    assert slow.report is not None
    verdict = replace(slow.report.verdicts[0], checks=(*slow.report.verdicts[0].checks, advisory))
    reason = recommend([replace(slow, report=replace(slow.report, verdicts=(verdict,)))])[1]
    assert "stopped by decode speed" in reason  # though the advisory one misses by far more
    assert "more required" not in reason


def test_a_broken_run_is_never_recommended() -> None:
    base = row("gguf:q4_0", SMALL, 60.0, 0.04)
    assert base.report is not None
    broke = replace(base, report=replace(base.report, exit_code=4))
    target, reason = recommend([broke])
    assert target == ""
    assert "exit code 4" in reason
    assert recommend([replace(base, report=replace(base.report, verdicts=()))])[0] == ""
    far = row("gguf:q8_0", 1_650_000_000, 20.0, 0.001)
    assert "`gguf:q8_0` comes nearest" in recommend([broke, far])[1]


def test_where_nothing_was_made_the_first_reason_is_said() -> None:
    assert recommend([failed("onnx:int4", "no space left on the device")]) == (
        "",
        "no target could be judged: `onnx:int4` (no space left on the device)",
    )
    assert recommend([]) == ("", "no target could be judged")
