"""JUnit XML as CI servers read it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from report_records import HOSTILE, REPORTS, hostile

from edgekit.report import facts, render

# the shape of Jenkins' junit-10.xsd, as far as we use it
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],
    "properties": ["property"],
    "testcase": ["error", "failure", "system-out"],
}


def check_shape(element: ET.Element) -> None:
    assert set(element.attrib) <= ATTRIBUTES[element.tag]
    order = [CHILDREN.get(element.tag, []).index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check_shape(child)


@pytest.mark.parametrize("name", REPORTS)
def test_shape_and_totals(name: str) -> None:
    root = ET.fromstring(render(REPORTS[name](), "junit"))
    check_shape(root)
    cases = root.findall("testsuite/testcase")
    assert int(root.get("tests", "")) == len(cases)
    assert int(root.get("failures", "")) == len(root.findall(".//failure"))
    assert int(root.get("errors", "")) == sum(case.find("error") is not None for case in cases)
    assert not root.findall(".//skipped")


@pytest.mark.parametrize("name", REPORTS)
def test_fail_is_a_failure_and_unknown_an_error(name: str) -> None:
    report = REPORTS[name]()
    root = ET.fromstring(render(report, "junit"))
    cases = [case for case in root.findall("testsuite/testcase") if case.get("classname") != "edgekit.run"]
    checks = [check for _, check in facts.all_checks(report)]
    assert len(cases) == len(checks)
    for case, check in zip(cases, checks, strict=True):
        assert (case.find("failure") is not None) == (check.status == "fail")
        assert (case.find("error") is not None) == (check.status == "unknown")


def test_members_of_a_class_are_suites() -> None:
    root = ET.fromstring(render(REPORTS["class"](), "junit"))
    names = [suite.get("name", "") for suite in root]
    assert sum("Smartphone, 8 GB / " in name for name in names) == 7
    assert "stand_in" in {item.get("name") for item in root[0].findall("properties/property")}


def test_a_failure_carries_the_figures() -> None:
    root = ET.fromstring(render(REPORTS["fail"](), "junit"))
    failure = root.find(".//failure")
    assert failure is not None
    assert "31.2 tok/s (25.6–38.1), projected; limit ≥ 50.0 tok/s" in failure.get("message", "")
    assert "physics: 68.3 GB/s" in (failure.text or "")
    waived = [item.get("message", "") for item in root.findall(".//failure") if "waiver" in item.get("message", "")]
    assert waived == [waived[0]]
    assert waived[0].startswith("advisory; waiver holds until 2027-01-31")


def test_a_broken_run_is_an_error() -> None:
    root = ET.fromstring(render(REPORTS["broken"](), "junit"))
    error = root.find(".//testcase[@classname='edgekit.run']/error")
    assert error is not None
    assert "killed by the kernel" in error.get("message", "")


def test_a_device_without_checks_is_an_error() -> None:
    from dataclasses import replace

    report = REPORTS["pass"]()
    bare = replace(report, verdicts=(replace(report.verdicts[0], checks=(), status="unknown"),))
    assert ET.fromstring(render(bare, "junit")).get("errors") == "1"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(kind: str) -> None:
    text = render(hostile(HOSTILE[kind]), "junit")
    root = ET.fromstring(text.encode("utf-8"))
    check_shape(root)
    assert all(c in "\n\t" or c.isprintable() or c == "\ufffd" for c in text)
    assert "<script" not in text
    assert "<![CDATA[" not in text
