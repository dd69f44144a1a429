"""The release gate report in the forms people and machines read. A format is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.records import Report
from edgekit.report.changes import print_comparison, render_comparison
from edgekit.report.comparing import print_parity, print_quality
from edgekit.report.distilling import print_distill_plan, print_distillation
from edgekit.report.harness import print_harness
from edgekit.report.junit import render_junit
from edgekit.report.markdown import render_markdown
from edgekit.report.plan import PLAN_FORMATS, print_plan, render_plan
from edgekit.report.quality_formats import QUALITY_FORMATS, render_quality
from edgekit.report.sweep import SWEEP_FORMATS, print_sweep, render_sweep
from edgekit.report.terminal import print_terminal, render_terminal
from edgekit.report.tuning import print_tuning
from edgekit.storage import to_json


def render_html(report: Report) -> str:
    """One self-contained page that opens offline."""
    from edgekit.report.html import render_html  # jinja2 loads only when a page is written

    return render_html(report)


FORMATS: dict[str, Callable[[Report], str]] = {
    "terminal": render_terminal,
    "json": to_json,
    "junit": render_junit,
    "markdown": render_markdown,
    "html": render_html,
}


def render(report: Report, format: str) -> str:  # noqa: A002 - the README's word for it
    """The report as text in `format`, one of `FORMATS`. Raises EdgekitError for any other name."""
    if format not in FORMATS:
        raise EdgekitError(f"unknown report format: `{format}`", hint=f"choose one of {', '.join(FORMATS)}")
    return FORMATS[format](report)


__all__ = [
    "FORMATS",
    "PLAN_FORMATS",
    "QUALITY_FORMATS",
    "SWEEP_FORMATS",
    "print_comparison",
    "print_distill_plan",
    "print_distillation",
    "print_harness",
    "print_parity",
    "print_plan",
    "print_quality",
    "print_sweep",
    "print_terminal",
    "print_tuning",
    "render",
    "render_comparison",
    "render_plan",
    "render_quality",
    "render_sweep",
]
