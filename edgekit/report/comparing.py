"""Quality of one build, and two builds side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from edgekit.records import Parity, Quality, Unknown
from edgekit.report import quality as scores
from edgekit.report.facts import quality_findings
from edgekit.report.quality import Part
from edgekit.report.quality_parts import alerts, parts
from edgekit.report.terminal import Page, print_alerts, print_findings, print_page, print_part
from edgekit.report.words import RANGE_MEANING, clean


def print_quality(quality: Quality, console: Console, *, name: str) -> None:
    """Print what `evaluate` found of the artifact called `name`: every part of it that says something."""
    print_page(console, lambda page: _print_quality(page, quality, name))


def _print_quality(page: Page, quality: Quality, name: str) -> None:
    against = f" against {clean(quality.reference, 80)}" if quality.reference else ""
    page.line((f"quality of {clean(name, 80)}{against}", "bold"))
    warned = alerts(quality)
    if warned:
        page.blank()
        print_alerts(page, warned)
    page.blank()
    text, *rest = parts(quality)
    print_part(page, text)
    _print_settles(page, scores.of(quality))
    for part in rest:
        page.heading(part.title)
        print_part(page, part)
    _print_foot(page, quality, (text, *rest))


def print_parity(parity: Parity, console: Console) -> None:
    """Print how alike two builds are: the second judged with the first as its reference."""
    a, b = clean(parity.a, 80), clean(parity.b, 80)
    quality = parity.quality
    between = tuple(row for row in scores.of(quality) if row.label not in ("perplexity", "reference's perplexity"))
    shown = (
        scores.Shown(label=f"perplexity of {a}", figure=quality.reference_perplexity),
        scores.Shown(label=f"perplexity of {b}", figure=quality.perplexity),
        *between,
    )
    print_page(console, lambda page: _print_parity(page, quality, f"{b} against {a}", shown))


def _print_parity(page: Page, quality: Quality, title: str, shown: tuple[scores.Shown, ...]) -> None:
    page.line((title, "bold"))
    page.blank()
    page.rows("", [(one.label, one.text) for one in shown])
    _print_settles(page, shown)
    _print_foot(page, quality, (scores.text_part(quality),))


def _print_settles(page: Page, shown: tuple[scores.Shown, ...]) -> None:
    settles = (one.figure.settle for one in shown if isinstance(one.figure, Unknown))
    for settle in dict.fromkeys(settles):
        page.labelled("to settle", settle, indent=2)


def _print_foot(page: Page, quality: Quality, found: Sequence[Part]) -> None:
    """Findings, circumstances of the parts found, and what a range means."""
    print_findings(page, quality_findings(quality))
    page.rows("circumstances", [(fact.label, fact.value) for part in found for fact in part.behind])
    over = "the chunks of this text" if len(found) == 1 else "chunks of text, items or prompts"
    page.line((f"{RANGE_MEANING.split('. ')[0]}, over {over}.", "dim"), indent=2)
