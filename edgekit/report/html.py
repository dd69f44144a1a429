"""The report as one page."""

from __future__ import annotations

from edgekit.records import Report


def render_html(report: Report) -> str:
    """One self-contained page that opens offline."""
    raise NotImplementedError
