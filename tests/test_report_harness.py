"""Scores of lm-evaluation-harness on a terminal."""

from __future__ import annotations

from report_records import HOSTILE, SETTINGS, host, measurement

from edgekit.records import Estimate, Finding, HarnessRun, HarnessScore, Unknown
from edgekit.report import print_harness
from edgekit.report.terminal import as_text


def run(name: str = "arc_easy") -> HarnessRun:
    known = Estimate(value=0.412, low=0.371, high=0.455, basis="measured-here")
    few = Unknown(reason="2 items are too few for a range", settle="ask more")
    scores = (
        HarnessScore(task=name, metric="acc", filter="none", items=300, value=known),
        HarnessScore(task=name, metric="exact_match", filter="strict", items=2, value=few, fewshot=5),
    )
    return HarnessRun(
        edgekit_version="0.1.0",
        harness_version="0.4.9",
        model="zen.gguf",
        artifact_sha256="ab" * 32,
        scores=scores,
        settings=SETTINGS,
        runtime=measurement(sustained=False).runtime,
        host=host(),
        findings=(Finding(level="note", code="few", message="few items", hint="ask more"),),
    )


def test_scores_come_with_range_basis_and_items_or_with_why_not() -> None:
    text = as_text(lambda console: print_harness(run(), console))
    assert "arc_easy acc" in text
    assert "0.412 (0.371–0.455), measured-here; 300 items, 0 examples" in " ".join(text.split())
    assert "unknown: 2 items are too few for a range; 2 items, 5 examples" in " ".join(text.split())
    assert "few items [few]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_of_tasks_are_cleaned() -> None:
    for hostile in HOSTILE.values():
        text = as_text(lambda console, hostile=hostile: print_harness(run(hostile), console))  # type: ignore[misc]
        assert all(c == "\n" or c.isprintable() or c == "\ufffd" for c in text)
