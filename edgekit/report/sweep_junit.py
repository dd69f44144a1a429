"""The sweep as JUnit XML: a case for every target, and one for the recommendation (design §3: nothing is skipped)."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgekit.records import Sweep
from edgekit.report.junit import TAGS
from edgekit.report.sweep_rows import Line, lines
from edgekit.report.sweep_words import circumstances, kld_text
from edgekit.report.words import clean, figure_text


def render_sweep_junit(sweep: Sweep) -> str:
    """A `<testsuites>` document: a target that fails is a failure, one unknown or never made an error, and so is a
    sweep that recommends none.
    """
    root = Element("testsuites", name="edgekit")
    suite = SubElement(
        root,
        "testsuite",
        name=clean(f"sweep on {sweep.device_title}"),
        timestamp=clean(sweep.created_at)[:19],
        time="0",
    )
    properties = SubElement(suite, "properties")
    for fact in circumstances(sweep):
        SubElement(properties, "property", name=fact.label, value=fact.value)
    for row in lines(sweep):
        _add_target(suite, row)
    case = SubElement(suite, "testcase", classname="edgekit.sweep", name="recommendation", time="0")
    if not sweep.recommended:
        SubElement(case, "error", type="unknown", message=clean(sweep.reason))
    SubElement(case, "system-out").text = clean(f"{sweep.recommended or 'none'}: {sweep.reason}", 1000)
    for place in (suite, root):
        place.set("tests", str(len(suite.findall("testcase"))))
        place.set("failures", str(len(suite.findall("testcase/failure"))))
        place.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_target(suite: Element, row: Line) -> None:
    case = SubElement(suite, "testcase", classname="edgekit.sweep", name=row.target, time="0")
    if row.key != "pass":
        outcome = SubElement(case, TAGS.get(row.key, "error"), type=row.key, message=clean(row.reason))
        outcome.text = clean(row.settle)
    shown = (
        f"file {figure_text(row.file, 'bytes')}",
        f"memory {figure_text(row.memory, 'bytes')}",
        f"decode {figure_text(row.decode, 'tok/s')}",
        f"decode here {figure_text(row.decode_here, 'tok/s')}",
        f"KLD {kld_text(row)}",
    )
    SubElement(case, "system-out").text = clean("; ".join(shown), 1000)
