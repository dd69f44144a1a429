"""Quality in every format: figures with range and basis, what they were scored on, and never another file's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_records import REPORTS, passing, quality

from edgekit.records import Estimate, Finding, Unknown
from edgekit.report import quality as shown
from edgekit.report import render
from edgekit.report.charts import chunk_chart

FORMATS = ("terminal", "markdown", "html", "junit")


@pytest.mark.parametrize("form", FORMATS)
def test_figures_come_with_range_basis_text_and_reference(form: str) -> None:
    report = REPORTS["quality"]()
    text = " ".join(render(report, form).replace("\\_", "_").split())
    for figure in shown.figures(report.evidence):
        assert figure.text.endswith(", measured-here")
        assert figure.text in text
    for said in (
        "corpus: evaluation, seed 1",
        "24 chunks of 512 tokens, 6144 tokens of them scored",
        "7e7e7e7e7e7e7e7e",
    ):
        assert said in text
    assert "zen-nano-1.5b-f16.gguf" in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_without_quality_says_nothing_of_chunks(form: str) -> None:
    assert "perplexity" not in render(REPORTS["pass"](), form)


def test_random_weights_and_another_files_figures_are_unknown() -> None:
    base = passing().evidence
    stand_in = replace(base.artifact, header=replace(base.artifact.header, stand_in=True))
    for evidence, said in (
        (replace(base, artifact=stand_in, quality=quality(0.01)), "stand-in weights"),
        (replace(base, quality=quality(0.01, sha="00" * 32)), "another file"),
    ):
        rows = shown.figures(evidence)
        assert len(rows) == 5
        assert all(row.text.startswith("unknown: ") and said in row.text for row in rows)


def test_almost_all_never_reads_as_all() -> None:
    nearly = Estimate(value=0.9981, low=0.9972, high=0.9989, basis="measured-here")
    row = shown.Shown(label="top-1 agreement", figure=nearly, unit="fraction", against=1.0)
    assert row.text == "99.8 % (99.7–99.9), measured-here"
    assert shown.Shown(label="x", figure=nearly, unit="fraction").text.startswith("100 %")  # what `against` prevents


def test_the_increase_is_the_ratio_less_one() -> None:
    ratio = Estimate(value=1.012, low=1.008, high=1.016, basis="measured-here")
    more = shown.excess(ratio)
    assert isinstance(more, Estimate)
    assert (more.value, more.low, more.high) == pytest.approx((0.012, 0.008, 0.016))
    assert shown.excess(Unknown(reason="no reference")) == Unknown(reason="no reference")


def test_without_a_reference_only_what_is_known_is_listed() -> None:
    alone = replace(quality(0.01), reference="", kld_mean=Unknown(reason="no reference was given"))
    rows = {row.label: row.text for row in shown.figures(replace(passing().evidence, quality=alone))}
    assert rows["mean KL divergence"] == "unknown: no reference was given"
    assert "reference's perplexity" not in rows


def test_findings_of_the_scoring_stand_among_the_findings() -> None:
    found = Finding(level="warning", code="broken-logits", message="3 of 6144 tokens got logits that are no numbers")
    report = REPORTS["quality"]()
    scored = replace(report.evidence.quality, findings=(found,))  # type: ignore[type-var]
    for form in ("terminal", "markdown", "html"):
        text = " ".join(render(replace(report, evidence=replace(report.evidence, quality=scored)), form).split())
        assert found.message in text


def test_every_chunk_is_a_dot() -> None:
    klds = shown.chunk_klds(quality(0.02, chunks=17))
    assert len(klds) == 17
    chart = str(chunk_chart("c", klds, quality(0.02).kld_mean))
    assert chart.count("<circle") == 17
    assert 'class="spread"' in chart
    assert 'class="spread"' not in str(chunk_chart("c", klds, Unknown(reason="few")))
