"""The README's result table, made from recorded reports in `benchmarks/results/`; nothing in it is typed."""

from __future__ import annotations

from pathlib import Path

from edgekit.records import Check, Estimate, Report, Verdict
from edgekit.storage import load_record
from edgekit.units import format_number

RESULTS = Path(__file__).parent / "results"
METRICS = ("memory_bytes", "decode_tokens_per_s", "battery_h")
WORDS = {"pass": "PASS", "fail": "FAIL", "unknown": "UNKNOWN"}


def figure_text(check: Check | None) -> str:
    """The value with its range, or the word unknown."""
    if check is None or not isinstance(check.figure, Estimate):
        return "unknown"
    figure = check.figure
    low, high = (format_number(bound, check.unit) for bound in (figure.low, figure.high))
    return f"{format_number(figure.value, check.unit)} ({low} – {high})"


def row(report: Report, verdict: Verdict) -> str:
    """One judged device; a class contributes a row per member."""
    checks = {check.metric: check for check in verdict.checks}
    cells = [figure_text(checks.get(metric)) for metric in METRICS]
    header = report.evidence.artifact.header
    return f"| {header.name} {header.quant} | {verdict.device_title} | {' | '.join(cells)} | {WORDS[verdict.status]} |"


def results_table() -> str:
    """A Markdown table over the recorded bench reports."""
    lines = ["| student | device | memory | decode | battery | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for path in sorted(RESULTS.glob("bench-*.json")):
        report = load_record(path, Report)
        for verdict in report.verdicts:
            lines += [row(report, member) for member in verdict.members or (verdict,)]
            if verdict.members:
                lines.append(f"| | **{verdict.device_title}** | | | | **{WORDS[verdict.status]}** |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(results_table())
