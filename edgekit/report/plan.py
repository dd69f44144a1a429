"""The quantization plan in the forms people and machines read. A format is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.errors import EdgekitError
from edgekit.records import ParetoPoint, QuantPlan
from edgekit.report.plan_markdown import render_plan_markdown
from edgekit.report.plan_terminal import print_plan
from edgekit.report.terminal import as_text
from edgekit.storage import to_json


def _terminal(plan: QuantPlan, front: Sequence[ParetoPoint]) -> str:
    return as_text(lambda console: print_plan(plan, front, console))


def _json(plan: QuantPlan, _front: Sequence[ParetoPoint]) -> str:
    """The plan's own record; the points of the front are plans too, and are written apart."""
    return to_json(plan)


def _html(plan: QuantPlan, front: Sequence[ParetoPoint]) -> str:
    from edgekit.report.plan_html import render_plan_html  # jinja2 loads only when a page is written

    return render_plan_html(plan, front)


PLAN_FORMATS: dict[str, Callable[[QuantPlan, Sequence[ParetoPoint]], str]] = {
    "terminal": _terminal,
    "json": _json,
    "markdown": render_plan_markdown,
    "html": _html,
}


def render_plan(plan: QuantPlan, front: Sequence[ParetoPoint], format: str) -> str:  # noqa: A002 - as in `render`
    """The plan, with the front it stands on, as text in `format`. Raises EdgekitError for one not in `PLAN_FORMATS`."""
    if format not in PLAN_FORMATS:
        raise EdgekitError(f"unknown plan format: `{format}`", hint=f"choose one of {', '.join(PLAN_FORMATS)}")
    return PLAN_FORMATS[format](plan, front)


__all__ = ["PLAN_FORMATS", "print_plan", "render_plan"]
