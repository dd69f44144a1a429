"""The report as a comment on a pull request, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekit.records import BASES, Check, Estimate, MemoryBreakdown, Report, Status, Verdict
from edgekit.report import facts, quality
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
    name = _escape(facts.artifact_title(report.evidence.artifact))
    for verdict in report.verdicts:
        lines += [
            f"## {SIGNS[verdict.status]}: {name} on {_escape(verdict.device_title)}",
            "",
            _escape(verdict.reason),
            "",
        ]
    lines += [f"Exit code {report.exit_code} ({EXIT_MEANING.get(report.exit_code, 'unnamed')}).", ""]
    if report.evidence.artifact.header.stand_in:
        lines += ["> [!WARNING]", f"> {_escape(STAND_IN_NOTE)}", ""]
    for verdict in report.verdicts:
        lines += _class(report, verdict) if verdict.members else _device(report, verdict)
    lines += [
        *_memory(report),
        *_speed(report),
        *_quality(report),
        *_findings(report),
        *_circumstances(report),
        *_legend(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str, limit: int = 1000) -> str:
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


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _device(report: Report, verdict: Verdict) -> list[str]:
    lines = [f"### Checks on {_escape(verdict.device_title)}", ""]
    lines += _table(
        ("", "check", "value (90 % range), basis", "limit", "margin"),
        (_check_cells(check, check.title) for check in verdict.checks),
    )
    for check in verdict.checks:
        lines += _reasons(report, verdict, check, check.title)
    return [*lines, ""]


def _check_cells(check: Check, name: str) -> tuple[str, ...]:
    waived = f"<br>waiver {_escape(waiver_text(check))}" if check.waiver else ""
    return (
        SIGNS[check.status],
        f"{_escape(name)}{waived}",
        _escape(figure_text(check.figure, check.unit, limit_of(check))),
        _escape(limit_text(check)),
        _escape(margin_text(check)),
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
    said = " ".join(f"{_escape(label)} {_escape(text).rstrip('.')}.".lstrip() for label, text in parts if text)
    return [f"- **{_escape(name)}** {said}"]


def _class(report: Report, verdict: Verdict) -> list[str]:
    counts = facts.count_statuses([member.status for member in verdict.members])
    lines = [f"### {_escape(verdict.device_title)}: {counts}", ""]
    if verdict.population:
        lines += [f"Stands for: {_escape(verdict.population)}", ""]
    rows = facts.by_metric(verdict)
    titles = [f"{_escape(row.entries[0][1].title)}<br>{_escape(limit_text(row.entries[0][1]))}" for row in rows]
    lines += _table(("", "device", *titles), (_member_cells(member, rows) for member in verdict.members))
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
    return (SIGNS[member.status], _escape(member.device_title, 80), *cells)


def _short(check: Check) -> str:
    if not isinstance(check.figure, Estimate):
        return ""
    return _escape(figure_text(check.figure, check.unit, limit_of(check)))


def _memory(report: Report) -> list[str]:
    rows = []
    for case in report.evidence.cases:
        title = _escape(case.device_title, 80)
        if isinstance(case.memory, MemoryBreakdown):
            figures = (case.memory.working_set, case.memory.unevictable, case.memory.resident)
            rows.append((title, *(_escape(figure_text(figure, "bytes")) for figure in figures)))
        else:
            rows.append((title, f"unknown: {_escape(case.memory.reason)}", "", ""))
    return _folded("Memory", _table(("device", "working set", "unevictable", "resident (information)"), rows))


def _speed(report: Report) -> list[str]:
    measurement = report.evidence.measurement
    if measurement is None:
        return []
    rows = [
        (
            _escape(row.test),
            _escape(value_text(row.tokens_per_s, "tok/s")),
            _escape(span_text(row.tokens_per_s, "tok/s"))
            if isinstance(row.tokens_per_s, Estimate)
            else _escape(row.tokens_per_s.reason),
            f"{row.repetitions} in {row.processes}",
        )
        for row in summarize(measurement)
    ]
    waits = [
        f"- {_escape(label)}: {_escape(figure_text(figure, 's'))}"
        for label, figure in facts.latencies(measurement)
        if isinstance(figure, Estimate)
    ]
    table = _table(("test", "median", "90 % range", "repetitions in processes"), rows)
    return _folded("Speed measured here", [*table, *waits, ""])


def _quality(report: Report) -> list[str]:
    found = report.evidence.quality
    if found is None:
        return []
    title = f"### Quality against {_escape(found.reference, 80)}" if found.reference else "### Quality"
    figures = ((_escape(shown.label), _escape(shown.text)) for shown in quality.figures(report.evidence))
    behind = ((_escape(fact.label), _escape(fact.value)) for fact in quality.circumstances(found))
    table = _table(("figure", "value (90 % range), basis"), figures)
    return [title, "", *table, *_folded("Scored how", _table(("what", "value"), behind))]


def _findings(report: Report) -> list[str]:
    lines = [
        f"- **{found.level}** {_escape(found.message)} ({_escape(found.code)})"
        + (f" {_escape(found.hint)}" if found.hint else "")
        for found in facts.findings(report)
    ]
    lines += [f"- **waiver** {_escape(text)}" for text in facts.waivers(report)]
    return ["### Findings", "", *lines, ""] if lines else []


def _circumstances(report: Report) -> list[str]:
    rows = ((_escape(fact.label), _escape(fact.value)) for fact in facts.circumstances(report))
    return _folded("Circumstances", _table(("what", "value"), rows))


def _legend(report: Report) -> list[str]:
    used = {check.figure.basis for _, check in facts.all_checks(report) if isinstance(check.figure, Estimate)}
    bases = "; ".join(f"*{basis}*: {_escape(BASIS_MEANING[basis])}" for basis in BASES if basis in used)
    return [f"<sub>{_escape(RANGE_MEANING)} {bases}</sub>", ""]


def _folded(title: str, lines: list[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "</details>", ""]
