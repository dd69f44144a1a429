"""The report as a comment on a pull request, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekit.records import BASES, Check, Estimate, Finding, MemoryBreakdown, Report, Status, Verdict
from edgekit.report import distillation, facts, quality_parts
from edgekit.report.quality import BEHIND, Part
from edgekit.report.words import (
    BASIS_MEANING,
    EXIT_MEANING,
    RANGE_MEANING,
    STAND_IN_NOTE,
    advice,
    clean,
    figure_text,
    limit_of,
    limit_text,
    margin_text,
    point_text,
    sentence,
    span_text,
    value_text,
    waiver_text,
)
from edgekit.summary import summarize

SIGNS: dict[Status, str] = {"pass": "✅ PASS", "fail": "❌ FAIL", "unknown": "❔ UNKNOWN"}
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LIST_NUMBER = re.compile(r"^(\d+)([.)])(?=\s|$)")
_SPECIAL = re.compile(
    r"(?P<entity>[<>&])"
    r"|(?P<mention>(?<!\w)@(?=\w)|\#(?=\w))"  # @user and #123 fire on the rendered text: only a comment parts them
    r"|(?P<link>:(?=//)|(?<=www)\.|@(?=[\w-]+\.)|:(?=[\w+-]+:))"  # also the colon of an emoji's name
    r"|(?P<plain>[\\`*\[\]|~$\#]|(?<![^\W_])_|_(?![^\W_])|^[-+=])"
)


def render_markdown(report: Report) -> str:
    """The report as GitHub Markdown: verdict, checks, members of a class, speed, circumstances folded away."""
    lines: list[str] = []
    name = escape(facts.artifact_title(report.evidence.artifact))
    for verdict in report.verdicts:
        lines += [
            f"## {SIGNS[verdict.status]}: {name} on {escape(verdict.device_title)}",
            "",
            escape(verdict.reason),
            "",
        ]
    lines += [f"Exit code {report.exit_code} ({EXIT_MEANING.get(report.exit_code, 'unnamed')}).", ""]
    if report.evidence.artifact.header.stand_in:
        lines += ["> [!WARNING]", f"> {escape(STAND_IN_NOTE)}", ""]
    lines += alert_lines(quality_parts.alerts_of(report.evidence))
    for verdict in report.verdicts:
        lines += _class(report, verdict) if verdict.members else _device(report, verdict)
    lines += [
        *_memory(report),
        *_speed(report),
        *_quality(report),
        *_lineage(report),
        *_findings(report),
        *_circumstances(report),
        *_legend(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str, limit: int = 1000) -> str:
    """Text that GitHub shows as it is: no markup, no HTML, no link, no mention, no emoji."""
    pieces = clean(text, limit).split("`")
    if len(pieces) % 2 == 0 or not all(piece.strip() for piece in pieces[1::2]):  # not pairs of backticks: literal ones
        return _LIST_NUMBER.sub(r"\1\\\2", _SPECIAL.sub(_harmless, "`".join(pieces)))
    code = [f"`{piece.replace('|', chr(92) + '|')}`" for piece in pieces[1::2]]
    words = [_SPECIAL.sub(_harmless, piece) for piece in pieces[::2]]
    return _LIST_NUMBER.sub(r"\1\\\2", words[0]) + "".join(a + b for a, b in zip(code, words[1:], strict=True))


def _harmless(found: re.Match[str]) -> str:
    text = found[0]
    if found["entity"]:
        return _ENTITIES[text]
    if found["mention"]:
        return f"{text}<!-- -->"
    return f"&#{ord(text)};" if found["link"] else f"\\{text}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are escaped already."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _device(report: Report, verdict: Verdict) -> list[str]:
    lines = [f"### Checks on {escape(verdict.device_title)}", ""]
    lines += table(
        ("", "check", "value (90 % range), basis", "limit", "margin"),
        (_check_cells(check, check.title) for check in verdict.checks),
    )
    for check in verdict.checks:
        lines += _reasons(report, verdict, check, check.title)
    return [*lines, ""]


def _check_cells(check: Check, name: str) -> tuple[str, ...]:
    waived = f"<br>waiver {escape(waiver_text(check))}" if check.waiver else ""
    return (
        SIGNS[check.status],
        f"{escape(name)}{waived}",
        escape(figure_text(check.figure, check.unit, limit_of(check))),
        escape(limit_text(check)),
        escape(margin_text(check)),
    )


def _reasons(report: Report, leaf: Verdict, check: Check, name: str) -> list[str]:
    """What stands below the table for a check that did not pass, as one list item."""
    if check.status == "pass":
        return []
    parts = (
        (f"({point_text(check)})", check.reason),
        ("", facts.beside(report, leaf, check)),
        ("physics:", check.physics),
        *((f"{label}:", "; ".join(clauses)) for label, clauses in advice(check)),
    )
    said = " ".join(f"{escape(label)} {escape(text).rstrip('.')}.".lstrip() for label, text in parts if text)
    return [f"- **{escape(name)}** {said}"]


def _class(report: Report, verdict: Verdict) -> list[str]:
    counts = facts.count_statuses([member.status for member in verdict.members])
    lines = [f"### {escape(verdict.device_title)}: {counts}", ""]
    if verdict.population:
        lines += [f"Stands for: {escape(verdict.population)}", ""]
    rows = facts.by_metric(verdict)
    titles = [f"{escape(row.entries[0][1].title)}<br>{escape(limit_text(row.entries[0][1]))}" for row in rows]
    lines += table(("", "device", *titles), (_member_cells(member, rows) for member in verdict.members))
    for row in rows:
        if any(check.status != "pass" for _, check in row.entries):
            member, check = row.nearest
            who = f"all {len(row.entries)} devices" if row.uniform else f"nearest: {clean(member.device_title, 80)}"
            lines += _reasons(report, member, check, f"{check.title}, {who}")
    return [*lines, ""]


def _member_cells(member: Verdict, rows: Sequence[facts.MetricRow]) -> tuple[str, ...]:
    checks = {check.metric: check for check in member.checks}
    cells = []
    for row in rows:
        check = checks.get(row.metric)
        cells.append("" if check is None else f"{SIGNS[check.status]}<br>{_short(check)}")
    return (SIGNS[member.status], escape(member.device_title, 80), *cells)


def _short(check: Check) -> str:
    if not isinstance(check.figure, Estimate):
        return ""
    return escape(figure_text(check.figure, check.unit, limit_of(check)))


def _memory(report: Report) -> list[str]:
    rows = []
    for case in report.evidence.cases:
        title = escape(case.device_title, 80)
        if isinstance(case.memory, MemoryBreakdown):
            figures = (case.memory.working_set, case.memory.unevictable, case.memory.resident)
            rows.append((title, *(escape(figure_text(figure, "bytes")) for figure in figures)))
        else:
            rows.append((title, f"unknown: {escape(case.memory.reason)}", "", ""))
    return folded("Memory", table(("device", "working set", "unevictable", "resident (information)"), rows))


def _speed(report: Report) -> list[str]:
    measurement = report.evidence.measurement
    if measurement is None:
        return []
    rows = [
        (
            escape(row.test),
            escape(value_text(row.tokens_per_s, "tok/s")),
            escape(span_text(row.tokens_per_s, "tok/s"))
            if isinstance(row.tokens_per_s, Estimate)
            else escape(row.tokens_per_s.reason),
            f"{row.repetitions} in {row.processes}",
        )
        for row in summarize(measurement)
    ]
    waits = [
        f"- {escape(label)}: {escape(figure_text(figure, 's'))}"
        for label, figure in facts.latencies(measurement)
        if isinstance(figure, Estimate)
    ]
    speeds = table(("test", "median", "90 % range", "repetitions in processes"), rows)
    return folded("Speed measured here", [*speeds, *waits, ""])


def _quality(report: Report) -> list[str]:
    return [line for part in quality_parts.parts_of(report) for line in part_lines(part)]


def _lineage(report: Report) -> list[str]:
    return [line for part in distillation.parts_of(report) for line in part_lines(part)]


def part_lines(part: Part, head: str = "###") -> list[str]:
    """A part of quality: its table and figures, and how they were found folded away."""
    lines = [f"{head} {sentence(escape(part.title))}", ""]
    if part.table is not None and part.table.rows:
        lines += _escaped(part.table.head, part.table.rows)
    if part.rows:
        what = "value (90 % range), basis" if part.key in ("text", "similarity", "layers") else "value"
        lines += _escaped(("figure", what), ((row.label, row.value) for row in part.rows))
    lines += [f"- “{escape(quote.text)}”: {escape(quote.said)}" for quote in part.quotes]
    lines += [f"- {escape(note)}" for note in part.notes]
    lines += [""] if part.quotes or part.notes else []
    for more in part.folded:
        lines += folded(sentence(escape(more.title)), _escaped(more.head, more.rows))
    behind = _escaped(("what", "value"), ((fact.label, fact.value) for fact in part.behind))
    return [*lines, *(folded(BEHIND.get(part.key, "Found how"), behind) if part.behind else [])]


def _escaped(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return table(tuple(map(escape, header)), (tuple(map(escape, row)) for row in rows))


def alert_lines(alerts: Sequence[quality_parts.Alert]) -> list[str]:
    """What no pass may hide, as GitHub's warnings."""
    return [
        line
        for alert in alerts
        for text in alert.texts
        for line in ("> [!WARNING]", f"> **{sentence(alert.title)}**: {escape(text)}", "")
    ]


def _findings(report: Report) -> list[str]:
    return finding_lines(facts.findings(report), facts.waivers(report))


def finding_lines(found: Sequence[Finding], waivers: Sequence[str] = ()) -> list[str]:
    """Findings and waivers as a list with its heading; nothing where there are none."""
    lines = [
        f"- **{one.level}** {escape(one.message)} ({escape(one.code)})" + (f" {escape(one.hint)}" if one.hint else "")
        for one in found
    ]
    lines += [f"- **waiver** {escape(text)}" for text in waivers]
    return ["### Findings", "", *lines, ""] if lines else []


def _circumstances(report: Report) -> list[str]:
    rows = ((escape(fact.label), escape(fact.value)) for fact in facts.circumstances(report))
    return folded("Circumstances", table(("what", "value"), rows))


def _legend(report: Report) -> list[str]:
    used = {check.figure.basis for _, check in facts.all_checks(report) if isinstance(check.figure, Estimate)}
    bases = "; ".join(f"*{basis}*: {escape(BASIS_MEANING[basis])}" for basis in BASES if basis in used)
    return [f"<sub>{escape(RANGE_MEANING)} {bases}</sub>", ""]


def folded(title: str, lines: list[str]) -> list[str]:
    """`lines` behind a title that opens them."""
    return [f"<details><summary>{title}</summary>", "", *lines, "</details>", ""]
