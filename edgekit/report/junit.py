"""JUnit XML for CI: fail is a `<failure>`, unknown an `<error>`, and nothing is ever skipped (design §3)."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgekit.records import Check, Report, Verdict
from edgekit.report import facts, quality_parts
from edgekit.report.quality import Part
from edgekit.report.words import (
    STAND_IN_NOTE,
    advice,
    clean,
    figure_text,
    limit_of,
    limit_text,
    margin_text,
    point_text,
    waiver_text,
)

TAGS = {"fail": "failure", "unknown": "error"}


def render_junit(report: Report) -> str:
    """A `<testsuites>` document: one suite per device (per member of a class), one case per check, and one case for the
    run itself.
    """
    root = Element("testsuites", name="edgekit")
    for verdict in report.verdicts:
        for leaf in facts.leaves(verdict):
            _add_suite(root, report, verdict, leaf)
    _add_run(root, report)
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_suite(root: Element, report: Report, verdict: Verdict, leaf: Verdict) -> None:
    scope = leaf.device_title if leaf is verdict else f"{verdict.device_title} / {leaf.device_title}"
    suite = _suite(root, f"{facts.artifact_title(report.evidence.artifact)} on {clean(scope)}", report)
    properties = SubElement(suite, "properties")
    rows = [("verdict", leaf.status), ("reason", leaf.reason), ("exit_code", str(report.exit_code))]
    if report.evidence.artifact.header.stand_in:
        rows.append(("stand_in", STAND_IN_NOTE))
    rows += [(fact.label, fact.value) for fact in facts.circumstances(report)]
    rows += [(f"warning: {one.title}", text) for one in quality_parts.alerts_of(report.evidence) for text in one.texts]
    rows += [row for part in quality_parts.parts_of(report) for row in _part_rows(part)]
    for name, value in rows:
        SubElement(properties, "property", name=name, value=clean(value))
    for check in leaf.checks:
        _add_case(suite, report, leaf, check)
    if not leaf.checks:  # a device nobody judged is unknown, never silently green
        case = SubElement(suite, "testcase", classname=clean(f"edgekit.{leaf.device}"), name="verdict", time="0")
        SubElement(case, "error", type="unknown", message=clean(leaf.reason) or "no check was made")
    _total(suite)


def _part_rows(part: Part) -> list[tuple[str, str]]:
    """A part of quality as properties: `quality: mean KL divergence`, `tasks: coding, retained`."""
    name = "quality" if part.key == "text" else part.key
    cells = part.table.rows if part.table else ()
    head = part.table.head if part.table else ()
    rows = [
        (f"{name}: {row[0]}, {column}", cell)
        for row in cells
        for column, cell in zip(head[1:], row[1:], strict=True)
        if cell
    ]
    rows += [(f"{name}: {fact.label}", fact.value) for fact in (*part.rows, *part.behind)]
    rows += [(f"{name}: quoted", f"“{quote.text}” {quote.said}") for quote in part.quotes]
    return rows + [(f"{name}: note", note) for note in part.notes]


def _suite(root: Element, name: str, report: Report) -> Element:
    return SubElement(root, "testsuite", name=name, timestamp=clean(report.evidence.created_at)[:19], time="0")


def _add_case(suite: Element, report: Report, leaf: Verdict, check: Check) -> None:
    name = clean(f"{check.title} ({point_text(check)})")
    case = SubElement(suite, "testcase", classname=clean(f"edgekit.{leaf.device}"), name=name, time="0")
    shown = f"{figure_text(check.figure, check.unit, limit_of(check))}; limit {limit_text(check)}"
    tag = TAGS.get(check.status)
    if tag:  # advisory and waived ones too, and they say so: a report that hides them would read as a pass
        outcome = SubElement(case, tag, type=check.status, message=clean(f"{_prefix(check)}{shown}; {check.reason}"))
        outcome.text = _details(check)
    parts = (shown, facts.beside(report, leaf, check), margin_text(check), _waiver(check))
    SubElement(case, "system-out").text = clean("; ".join(part for part in parts if part), 1000)


def _prefix(check: Check) -> str:
    return "".join(f"{part}; " for part in ("advisory" * (check.level == "advisory"), _waiver(check)) if part)


def _waiver(check: Check) -> str:
    return f"waiver {waiver_text(check)}" if check.waiver else ""


def _details(check: Check) -> str:
    lines = [("why", check.reason), ("physics", check.physics)]
    lines += [(label, "; ".join(clauses)) for label, clauses in advice(check)]
    return "\n".join(f"{label}: {clean(text, 2000)}" for label, text in lines if text)


def _add_run(root: Element, report: Report) -> None:
    """The run as a case of its own: a worker that died is an error whatever the checks say."""
    if report.evidence.measurement is None:
        return
    suite = _suite(root, f"{facts.artifact_title(report.evidence.artifact)} measured on the host", report)
    case = SubElement(suite, "testcase", classname="edgekit.run", name="measurement", time="0")
    for finding in facts.findings(report):
        if finding.level == "fault":
            error = SubElement(case, "error", type=clean(finding.code), message=clean(finding.message))
            error.text = clean(finding.hint)
    _total(suite)


def _total(suite: Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for tag, total in (("failure", "failures"), ("error", "errors")):
        suite.set(total, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("skipped", "0")
