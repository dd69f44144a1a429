"""Scores of lm-evaluation-harness, for a terminal."""

from __future__ import annotations

from rich.console import Console

from edgekit.records import HarnessRun, HarnessScore, Unknown
from edgekit.report.facts import host_text, runtime_text, settings_text
from edgekit.report.terminal import Page, print_findings, print_page
from edgekit.report.words import clean, figure_text


def print_harness(run: HarnessRun, console: Console) -> None:
    """Print every score with its range."""
    print_page(console, lambda page: _print(page, run))


def _print(page: Page, run: HarnessRun) -> None:
    page.line((f"lm-evaluation-harness {clean(run.harness_version)} on {clean(run.model, 80)}", "bold"))
    page.blank()
    page.rows("", [(_label(score), _text(score)) for score in run.scores])
    print_findings(page, run.findings)
    page.rows("circumstances", [(label, text) for label, text in _circumstances(run) if text])


def _label(score: HarnessScore) -> str:
    kept = "" if score.filter in ("", "none") else f", {score.filter}"
    return clean(f"{score.task} {score.metric}{kept}", 80)


def _text(score: HarnessScore) -> str:
    asked = f"{score.items} items, {score.fewshot} examples"
    if isinstance(score.value, Unknown):
        return f"unknown: {clean(score.value.reason)}; {asked}"
    return f"{figure_text(score.value, '')}; {asked}"


def _circumstances(run: HarnessRun) -> list[tuple[str, str]]:
    return [
        ("artifact", f"sha256 {run.artifact_sha256[:16]}"),
        ("items", f"at most {run.limit} of each task" if run.limit else "all"),
        ("settings", settings_text(run.settings) if run.settings else ""),
        ("run by", runtime_text(run.runtime) if run.runtime else ""),
        ("host", host_text(run.host) if run.host else ""),
        ("at", run.started_at),
    ]
