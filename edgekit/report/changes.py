"""Two builds compared, for a terminal and for a pull request."""

from __future__ import annotations

from rich.console import Console

from edgekit.records import Change, Comparison, Unknown
from edgekit.report.facts import host_text, runtime_text, settings_text
from edgekit.report.markdown import escape
from edgekit.report.terminal import STYLES, Page, print_findings, print_page
from edgekit.report.words import clean
from edgekit.units import format_percent

TITLES = {
    "decode": "decode (tok/s)",
    "prefill": "prefill (tok/s)",
    "memory": "memory (working set)",
    "load": "load time",
    "size": "file size",
}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what became of NEW against BASE."""
    print_page(console, lambda page: _print(page, comparison))


def render_comparison(comparison: Comparison) -> str:
    """The comparison as Markdown, to be posted at a pull request."""
    lines = [f"**{comparison.status.upper()}** {_title(comparison, markdown=True)}", ""]
    lines += ["| metric | change | limit | verdict | why |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {TITLES[change.metric]} | {change_text(change)} | {limit_text(change)} | {_state(change)} | "
        f"{escape(change.reason)} |"
        for change in comparison.changes
    ]
    lines += ["", *(f"- {label}: {escape(value)}" for label, value in _circumstances(comparison))]
    lines += [f"- {finding.level}: {escape(finding.message)}" for finding in comparison.findings]
    return "\n".join(lines) + "\n"


def change_text(change: Change) -> str:
    """`−2.1 % (−3.0 % – −1.2 %)`, or why it is unknown."""
    figure = change.ratio
    if isinstance(figure, Unknown):
        return f"unknown: {clean(figure.reason)}"
    value, low, high = (format_percent(ratio - 1, signed=True) for ratio in (figure.value, figure.low, figure.high))
    return value if low == high else f"{value} ({low} – {high})"


def limit_text(change: Change) -> str:
    """`−3.0 % at most`, empty where no limit was set."""
    return "" if change.limit is None else f"{format_percent(change.limit - 1, signed=True)} at most"


def _state(change: Change) -> str:
    return "" if change.limit is None else change.status


def _title(comparison: Comparison, *, markdown: bool = False) -> str:
    name = escape if markdown else clean
    return f"{name(comparison.new.path.split('/')[-1])} against {name(comparison.base.path.split('/')[-1])}"


def _print(page: Page, comparison: Comparison) -> None:
    page.line((comparison.status.upper(), STYLES[comparison.status]), (f"  {_title(comparison)}", "bold"))
    page.blank()
    page.rows("", [(TITLES[change.metric], _words(change)) for change in comparison.changes])
    print_findings(page, comparison.findings)
    page.rows("circumstances", _circumstances(comparison))


def _words(change: Change) -> str:
    limit = limit_text(change)
    return change_text(change) + (f"; {limit}: {change.status}, {change.reason}" if limit else "")


def _circumstances(comparison: Comparison) -> list[tuple[str, str]]:
    count = len({pair.pair for pair in comparison.pairs})
    way = f"{count} pairs of fresh processes, in turn" if comparison.interleaved else "recorded runs, not in turn"
    found = [
        ("base", f"{clean(comparison.base.path)}, sha256 {comparison.base.sha256[:16]}"),
        ("new", f"{clean(comparison.new.path)}, sha256 {comparison.new.sha256[:16]}"),
        ("run", way),
        ("settings", settings_text(comparison.settings)),
        ("runtime", runtime_text(comparison.runtime) if comparison.runtime else ""),
        ("host", host_text(comparison.host)),
        ("at", comparison.started_at),
    ]
    return [(label, value) for label, value in found if value]
