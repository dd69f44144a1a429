"""Quality of one build, and two builds side by side, for a terminal."""

from __future__ import annotations

from rich.console import Console

from edgekit.records import Estimate, Figure, Parity, Quality, Unknown
from edgekit.report import quality as rows
from edgekit.report.terminal import LEVEL_STYLES, Page, print_page
from edgekit.report.words import RANGE_MEANING, clean


def print_quality(quality: Quality, console: Console, *, name: str) -> None:
    """Print what `evaluate` found of the artifact called `name`."""
    against = f" against {clean(quality.reference, 80)}" if quality.reference else ""
    print_page(console, lambda page: _print(page, quality, f"quality of {clean(name, 80)}{against}", rows.of(quality)))


def print_parity(parity: Parity, console: Console) -> None:
    """Print how alike two builds are: the second judged with the first as its reference."""
    a, b = clean(parity.a, 80), clean(parity.b, 80)
    shown = (
        rows.Shown(label=f"perplexity of {a}", figure=parity.quality.reference_perplexity),
        rows.Shown(label=f"perplexity of {b}", figure=parity.quality.perplexity),
        *(one for one in rows.of(parity.quality) if one.label in ("mean KL divergence", "top-1 agreement")),
        *(one for one in rows.of(parity.quality) if one.label == "perplexity increase"),
    )
    print_page(console, lambda page: _print(page, parity.quality, f"{b} against {a}", shown))


def _print(page: Page, quality: Quality, title: str, shown: tuple[rows.Shown, ...]) -> None:
    page.line((title, "bold"))
    page.blank()
    page.rows("", [(one.label, one.text) for one in shown])
    for settle in dict.fromkeys(_settle(one.figure) for one in shown):
        page.labelled("to settle", settle, indent=2)
    if quality.findings:
        page.heading("findings")
    for finding in quality.findings:
        page.labelled(finding.level, f"{finding.message} [{finding.code}]", LEVEL_STYLES[finding.level], indent=2)
        page.labelled(" " * len(finding.level), finding.hint, indent=2)
    page.rows("circumstances", [(fact.label, fact.value) for fact in rows.circumstances(quality)])
    if any(isinstance(one.figure, Estimate) for one in shown):
        page.line((RANGE_MEANING.split(". ")[0] + ", over the chunks of this text.", "dim"), indent=2)


def _settle(figure: Figure) -> str:
    return figure.settle if isinstance(figure, Unknown) else ""
