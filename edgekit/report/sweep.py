"""The sweep in the forms people and machines read. A format is one function and one line here, as for the report."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.records import Sweep
from edgekit.report.sweep_junit import render_sweep_junit
from edgekit.report.sweep_markdown import render_sweep_markdown
from edgekit.report.sweep_terminal import print_sweep
from edgekit.report.terminal import as_text
from edgekit.storage import to_json


def _terminal(sweep: Sweep) -> str:
    return as_text(lambda console: print_sweep(sweep, console))


def _html(sweep: Sweep) -> str:
    from edgekit.report.sweep_html import render_sweep_html  # jinja2 loads only when a page is written

    return render_sweep_html(sweep)


SWEEP_FORMATS: dict[str, Callable[[Sweep], str]] = {
    "terminal": _terminal,
    "json": to_json,
    "junit": render_sweep_junit,
    "markdown": render_sweep_markdown,
    "html": _html,
}


def render_sweep(sweep: Sweep, format: str) -> str:  # noqa: A002 - the word that `render` has for it
    """The sweep as text in `format`, one of `SWEEP_FORMATS`. Raises EdgekitError for any other name."""
    if format not in SWEEP_FORMATS:
        raise EdgekitError(f"unknown sweep format: `{format}`", hint=f"choose one of {', '.join(SWEEP_FORMATS)}")
    return SWEEP_FORMATS[format](sweep)


__all__ = ["SWEEP_FORMATS", "print_sweep", "render_sweep"]
