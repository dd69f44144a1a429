"""Where an artifact comes from, as evidence: what of it is taken from a record and what is computed anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lineage_records import distilled, lineage, teacher_run
from report_records import memory

from edgekit.pipeline import regate
from edgekit.pipeline.lineages import computed_anew, lineage_of
from edgekit.records import Estimate, Evidence, Header, Lineage, Projection, exact


def mine() -> Evidence:
    return distilled().evidence


def test_changes_come_from_what_was_measured_of_both() -> None:
    found = lineage_of(mine(), lineage().distillation, teacher_run())
    ratios = {change.metric: change.ratio for change in found.changes}
    decode = ratios["decode"]
    assert isinstance(decode, Estimate)
    assert decode.value == pytest.approx(4.2, rel=0.02), "the teacher was slowed down so much"
    assert decode.low < 4.2 / 1.09 < 4.2 * 1.09 < decode.high, "a machine's drift is allowed for"
    assert ratios["size"] == exact(872_415_232 / 4.1e9, "measured-here")


def test_runs_that_are_not_alike_have_no_changes() -> None:
    teacher = teacher_run()
    assert teacher.measurement is not None
    assert teacher.measurement.runtime is not None
    other = replace(teacher.measurement, runtime=replace(teacher.measurement.runtime, name="onnxruntime"))
    chain = lineage().distillation
    found = lineage_of(mine(), chain, replace(teacher, measurement=other))
    assert found.changes == ()
    assert "not alike" in found.not_compared
    assert lineage_of(mine(), chain, None).changes == ()


def test_what_a_record_says_of_the_teacher_on_a_device_is_computed_anew() -> None:
    """A file that makes its teacher large and slow on the device, and its own changes with it."""
    lied = replace(teacher_run(), cases=(replace(teacher_run().cases[0], memory=memory(1e6)),))
    claimed = tuple(replace(one, ratio=exact(40.0, "measured")) for one in lineage().changes)
    evidence = replace(mine(), lineage=replace(lineage(), teacher=lied, changes=claimed))
    asked: list[str] = []

    def cases_of(header: Header) -> tuple[()]:
        asked.append(header.name)
        return ()

    anew = computed_anew(evidence, cases_of)
    assert anew is not None
    assert anew.teacher is not None
    assert asked == ["field-teacher"]
    assert anew.teacher.cases == ()
    ratios = [one.ratio.value for one in anew.changes if isinstance(one.ratio, Estimate)]
    assert ratios
    assert 40.0 not in ratios
    alone = Lineage(distillation=evidence.lineage.distillation, changes=lineage().changes)  # type: ignore[union-attr]
    assert computed_anew(replace(evidence, lineage=alone), cases_of) == replace(alone, changes=())
    assert computed_anew(replace(evidence, lineage=None), cases_of) is None


def test_judging_again_keeps_the_lineage_and_projects_the_teacher_to_the_new_device() -> None:
    evidence = replace(mine(), cases=())
    (report,) = regate(evidence, ["oneplus-13"])
    found = report.evidence.lineage
    assert found is not None
    assert found.teacher is not None
    assert found.distillation == lineage().distillation
    assert [case.device for case in found.teacher.cases] == ["oneplus-13"]
    projected = found.teacher.cases[0].projection
    assert not isinstance(projected, Projection) or projected != teacher_run().cases[0].projection
