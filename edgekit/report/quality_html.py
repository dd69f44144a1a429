"""A quality record as one page that opens offline, in the report's own look."""

from __future__ import annotations

from edgekit import __version__
from edgekit.records import Quality
from edgekit.report.facts import quality_findings
from edgekit.report.html import render_page
from edgekit.report.quality_parts import alerts, headline, parts
from edgekit.report.words import clean


def render_quality_html(quality: Quality, name: str) -> str:
    """The most telling figure first, then what must be said, then every part with its charts."""
    return render_page(
        "quality_page.html.j2",
        __version__,
        name=clean(name, 120),
        found=quality,
        headline=headline(quality),
        alerts=alerts(quality),
        parts=parts(quality),
        findings=quality_findings(quality),
    )
