"""A quality record in the forms people and machines read; nothing is judged, so there is no JUnit among them.

A format is one function and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from edgekit.errors import EdgekitError
from edgekit.records import Quality
from edgekit.report.comparing import print_quality
from edgekit.report.facts import quality_findings
from edgekit.report.markdown import alert_lines, escape, finding_lines, part_lines
from edgekit.report.quality_parts import alerts, headline, parts
from edgekit.report.terminal import as_text
from edgekit.report.words import RANGE_MEANING
from edgekit.storage import to_json


def _terminal(quality: Quality, name: str) -> str:
    return as_text(lambda console: print_quality(quality, console, name=name))


def _json(quality: Quality, _name: str) -> str:
    return to_json(quality)


def _markdown(quality: Quality, name: str) -> str:
    """Headline, alerts and parts, as a comment on a pull request."""
    value, what = headline(quality)
    lines = [f"## {escape(name, 120)}: {escape(value)} {escape(what)}", "", *alert_lines(alerts(quality))]
    lines += [line for part in parts(quality) for line in part_lines(part)]
    lines += [*finding_lines(quality_findings(quality)), f"<sub>{escape(RANGE_MEANING)}</sub>"]
    return "\n".join(lines).rstrip() + "\n"


def _html(quality: Quality, name: str) -> str:
    from edgekit.report.quality_html import render_quality_html  # jinja2 loads only when a page is written

    return render_quality_html(quality, name)


QUALITY_FORMATS: dict[str, Callable[[Quality, str], str]] = {
    "terminal": _terminal,
    "json": _json,
    "markdown": _markdown,
    "html": _html,
}


def render_quality(quality: Quality, format: str, *, name: str) -> str:  # noqa: A002 - as in `render`
    """What `evaluate` found of the artifact called `name`, as text in `format`. Raises EdgekitError for one not in
    `QUALITY_FORMATS`.
    """
    if format not in QUALITY_FORMATS:
        raise EdgekitError(f"unknown quality format: `{format}`", hint=f"choose one of {', '.join(QUALITY_FORMATS)}")
    return QUALITY_FORMATS[format](quality, name)
