"""The report on where an artifact comes from: the chain, layer maps, cost, and what it brought."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from lineage_records import STUDENT_SHA, distillation, distilled, held_out, lineage, softly

from edgekit.errors import EdgekitError
from edgekit.records import Change, Distillation, Estimate, Lineage, Provenance, Report, Unknown, exact
from edgekit.report import render
from edgekit.report.distillation import CARVED_READING, chain_part, cost_part, map_parts, parts_of, stage_notes
from edgekit.report.distillation_charts import loss_series, map_chart, training_chart
from edgekit.report.distillation_return import divided, pairs_of
from edgekit.report.distillation_words import count_text, flops_text
from edgekit.storage import from_json, to_json


def part(report: Report, key: str) -> object:
    return next(one for one in parts_of(report) if one.key == key)


def around(value: float, low: float, high: float, basis: str = "measured-here") -> Estimate:
    return Estimate(value=value, low=low, high=high, basis=basis)  # type: ignore[arg-type]


def test_an_artifact_that_nobody_distilled_has_no_such_part() -> None:
    base = distilled()
    plain = replace(base, evidence=replace(base.evidence, lineage=None))
    assert parts_of(plain) == ()
    for kind in ("html", "markdown", "terminal"):
        assert "distill" not in render(plain, kind)


@pytest.mark.parametrize("kind", ["html", "markdown", "terminal"])
def test_every_link_and_stage_is_told_in_every_format(kind: str) -> None:
    rows = [*chain_part(distilled().evidence, lineage()).table.rows, *cost_part(lineage().distillation).table.rows]  # type: ignore[union-attr]
    assert [row[0] for row in rows if "ranger" in row[0]] == [
        *(f"field-ranger, {stage}" for stage in ("start", "logits", "features", "task")),
        *(f"field-ranger, {stage}" for stage in ("logits", "features", "task")),
    ]
    text = render(distilled(), kind)
    for row in rows:
        for word in " ".join(row).replace("(", " ").replace(")", " ").split():  # a terminal folds cells
            assert word in text


def test_the_curve_joins_the_stages_of_a_student_over_the_tokens_of_the_chain() -> None:
    chain = lineage().distillation
    middle, ranger, teacher = loss_series(chain)
    assert [point.y for point in ranger.points] == [2.6, 1.4, 1.2, 0.62]
    assert ranger.points[0].x == middle.points[-1].x == pytest.approx(300 * 16 * 192 / 1e6)
    assert ranger.points[-1].x == pytest.approx(chain.cost.tokens / 1e6)
    assert {point.y for point in teacher.points} == {0.41}
    assert all(point.low < point.y < point.high for point in ranger.points)


def test_a_long_curve_keeps_what_spikes() -> None:
    stage = lineage().distillation.links[0].stages[0]
    spiked = tuple((n, 9.0 if n == 5000 else 1.0) for n in range(10_000))
    chart = str(training_chart("c", replace(stage, training=replace(stage.training, losses=spiked))))
    band = re.search(r'<polygon class="band host" points="([^"]+)"', chart)
    assert band is not None
    heights = [float(pair.split(",")[1]) for pair in band[1].split()]
    assert min(heights) == pytest.approx(100 - 100 / 1.08, abs=0.1), "the spike reaches the top of the axis"
    assert len(heights) <= 700


def test_the_heat_map_draws_each_share_where_it_lies() -> None:
    found = softly(3, 8)
    chart = str(map_chart("c", found))
    shares = [float(one) for one in re.findall(r'fill-opacity="([\d.]+)"', chart)]
    assert shares == pytest.approx([0.65 * share for row in found.weights for share in row], abs=1e-3)
    named = re.findall(r'map-text middle"[^>]*>(\d+)<', chart)
    assert named == [f"{100 * share:.0f}" for row in found.weights for share in row if share >= 0.01]


def test_a_map_that_is_none_is_not_drawn() -> None:
    found = softly(2, 4)
    ragged = replace(found, weights=(found.weights[0], found.weights[1][:3]))
    assert map_chart("c", ragged) == ""
    assert map_chart("c", replace(found, teacher_layers=10**9)) == ""
    assert map_chart("c", replace(found, weights=())) == ""


def test_the_parts_shown_are_of_the_page_without_a_map() -> None:
    base = lineage()
    links = tuple(replace(link, layer_map=None) for link in base.distillation.links)
    bare = replace(base, distillation=replace(base.distillation, links=links))
    keys = [one.key for one in parts_of(distilled(bare))]
    assert keys == ["chain", "cost", "return"]
    assert "heat" not in render(distilled(bare), "html").split("</style>")[1]


# ---- of which student ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told_of", "note"),
    [(STUDENT_SHA, ""), ("ab" * 32, "another checkpoint"), ("", "does not say of which checkpoint")],
)
def test_a_chain_of_another_student_is_told(told_of: str, note: str) -> None:
    base = distilled()
    built = replace(base.evidence.artifact, provenance=Provenance(checkpoint_sha256=told_of))
    report = replace(base, evidence=replace(base.evidence, artifact=built))
    said = " ".join(part(report, "chain").notes)  # type: ignore[attr-defined]
    assert note in said
    assert ("checkpoint" in said) == bool(note)


def test_a_stage_that_stopped_early_says_so() -> None:
    base = lineage()
    last = base.distillation.links[-1]
    stopped = replace(last.stages[0], training=replace(last.stages[0].training, stopped="the loss was no number"))
    chain = replace(base.distillation, links=(replace(last, stages=(stopped,)),))
    said = part(distilled(replace(base, distillation=chain)), "chain").notes  # type: ignore[attr-defined]
    assert any("stopped early, the loss was no number" in note for note in said)


# ---- what it brought -----------------------------------------------------------------------------------------------


def test_a_stage_that_its_student_lost_by_says_so() -> None:
    last = distillation().links[-1]
    assert not [note for note in stage_notes(last) if "worse" in note]
    good, bad = last.stages[0], replace(last.stages[-1], held_out=held_out(2.74, 0.9))
    unsure = replace(bad, held_out=held_out(good.held_out.loss.value * 1.05, None))
    notes = list(stage_notes(replace(last, stages=(good, bad))))
    assert any(": the student is worse after it: held-out loss" in note and "→ 2.74 nat" in note for note in notes)
    assert not [note for note in stage_notes(replace(last, stages=(good, unsure))) if "worse" in note]


def test_a_ratio_spans_what_both_ranges_leave_open() -> None:
    found = divided(around(4.0, 3.0, 5.0), around(2.0, 1.0, 2.5, "projected"))
    assert found == around(2.0, 3.0 / 2.5, 5.0, "projected")
    assert divided(exact(2.0, "predicted"), exact(4.0, "predicted")) == exact(0.5, "predicted")
    unknown = Unknown(reason="nobody ran it")
    assert divided(around(4.0, 3.0, 5.0), unknown) == unknown
    assert isinstance(divided(around(4.0, 3.0, 5.0), around(2.0, 0.0, 2.5)), Unknown)


def test_the_pairs_are_of_file_run_and_device() -> None:
    report = distilled()
    assert report.evidence.lineage is not None
    pairs = {one.label: one for one in pairs_of(report, report.evidence.lineage)}
    assert pairs["parameters"].ratio == exact(1_380_000 / 6_180_000, "predicted")
    assert pairs["file"].ratio == exact(872_415_232 / 4_100_000_000, "predicted")
    here = pairs["decode here, tg128"]
    assert isinstance(here.ratio, Estimate)
    assert here.ratio.value == 4.2, "from the change, which allows for drift, and not from the two speeds"
    assert here.basis == "measured-here"
    assert pairs["decode, tg128, OnePlus 13"].basis == "projected"
    assert pairs["energy of 1000 tokens, OnePlus 13"].basis == "estimated"
    assert not any("@" in label for label in pairs)


def test_without_the_teachers_run_its_side_is_unknown_with_the_reason() -> None:
    alone = Lineage(distillation=lineage().distillation)
    report = distilled(alone)
    pairs = {one.label: one for one in pairs_of(report, alone)}
    assert isinstance(pairs["file"].ratio, Unknown)
    assert isinstance(pairs["decode here, tg128"].teacher, Unknown)
    assert isinstance(pairs["decode here, tg128"].artifact, Estimate)
    assert isinstance(pairs["parameters"].ratio, Estimate)
    notes = part(report, "return").notes  # type: ignore[attr-defined]
    assert len([note for note in notes if "its answers were saved elsewhere" in note]) == 1


def test_a_change_that_could_not_be_said_is_unknown_and_no_quotient_of_two_runs() -> None:
    base = lineage()
    open_change = Change(
        metric="decode", better="higher", limit=None, ratio=Unknown(reason="drifted"), status="unknown", reason=""
    )
    found = replace(base, changes=(open_change,))
    pairs = {one.label: one for one in pairs_of(distilled(found), found)}
    assert pairs["decode here, tg128"].ratio == Unknown(reason="drifted")
    unlike = replace(base, changes=(), not_compared="the runs are not alike, runtime")
    pairs = {one.label: one for one in pairs_of(distilled(unlike), unlike)}
    assert pairs["decode here, tg128"].ratio == Unknown(reason="the runs are not alike, runtime")
    assert isinstance(pairs["decode here, tg128"].artifact, Estimate)


# ---- words ---------------------------------------------------------------------------------------------------------


def test_a_teacher_that_was_given_has_no_cost_but_a_reason() -> None:
    chain = replace(lineage().distillation, teacher_cost=Unknown(reason="the teacher was given"))
    found = cost_part(chain)
    assert found.table is not None
    assert not any("itself" in row[0] for row in found.table.rows)
    assert any(fact.value == "unknown: the teacher was given" for fact in found.rows)


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (1000, "1 k"), (6_180_000, "6.18 M"), (72.7e9, "72.7 B"), (1.5e13, "15 T")]
)
def test_counts(value: float, text: str) -> None:
    assert count_text(value) == text


def test_operations_have_their_range_and_one_letter() -> None:
    assert flops_text(around(4.2e22, 4.0e22, 4.7e22)) == "42 Z (40–47)"
    assert flops_text(exact(12.0, "predicted")) == "12"
    assert flops_text(Unknown(reason="no shape")) == "unknown"


def test_a_record_without_a_student_is_refused() -> None:
    text = to_json(replace(lineage().distillation, links=lineage().distillation.links[:1]))
    told = json.loads(text) | {"links": []}
    with pytest.raises(EdgekitError, match="a distillation has a student"):
        from_json(json.dumps(told), Distillation, origin="distillation.json")


def test_a_carved_map_names_the_model_that_was_cut() -> None:
    """Which need not be the one that taught."""
    chain = lineage().distillation
    first, second = chain.links
    carved = replace(softly(3, 4), mapping="carved")
    found = map_parts(replace(chain, links=(first, replace(second, layer_map=carved))))
    assert [part.title for part in found] == ["layers of field-ranger and of field-middle"]
    assert found[0].reading == CARVED_READING
    assert [part.title for part in map_parts(chain)] == ["layers of field-ranger and of field-teacher"]
