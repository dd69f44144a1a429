"""The report on a terminal and in a log."""

from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from report_records import HOSTILE, REPORTS, hostile
from rich.console import Console

from edgekit.records import Report
from edgekit.report import facts, print_terminal, render
from edgekit.report.terminal import print_page


@pytest.mark.parametrize("name", REPORTS)
def test_plain_text_fits_eighty_columns(name: str) -> None:
    text = render(REPORTS[name](), "terminal")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "first", "code"),
    [
        ("pass", "PASS ", "exit code 0: pass"),
        ("fail", "FAIL ", "exit code 1: fail"),
        ("unknown", "UNKNOWN ", "exit code 3: unknown"),
        ("class", "UNKNOWN ", "exit code 3: unknown"),
        ("broken", "FAIL ", "exit code 4: the run broke"),
    ],
)
def test_the_verdict_comes_first_with_its_exit_code(name: str, first: str, code: str) -> None:
    lines = render(REPORTS[name](), "terminal").splitlines()
    assert lines[0].startswith(first)
    assert code in "\n".join(lines[:6])


def test_every_check_says_value_range_basis_limit_margin_and_remedy() -> None:
    text = render(REPORTS["fail"](), "terminal")
    for said in (
        "31.2 tok/s (25.6–38.1), projected",
        "limit ≥ 50.0 tok/s, misses by 38 %",
        "68.3 GB/s ÷ 0.872 GB per token",
        "to pass",
        "limit ≤ 1.20 GB",
        "holds until 2027-01-31",
    ):
        assert said in text


def test_unknown_says_why_and_what_settles_it_and_is_never_zero() -> None:
    text = render(REPORTS["unknown"](), "terminal")
    assert "not measured: stand-in weights have no quality" in text
    assert "edgekit evaluate MODEL --reference TEACHER" in text
    assert "the memory predictor does not know this architecture" in text
    assert " 0.0 tok/s" not in text


def test_a_stand_in_is_announced_before_the_first_check() -> None:
    text = render(REPORTS["class"](), "terminal")
    assert text.index("STAND-IN") < text.index("decode speed")
    assert "STAND-IN" not in render(REPORTS["pass"](), "terminal")


def test_a_broken_run_says_so_above_the_checks() -> None:
    text = render(REPORTS["broken"](), "terminal")
    assert text.index("the run broke  the worker was killed") < text.index("checks on")
    assert "--no-repack" in text


def test_members_of_a_class_each_have_a_line_per_metric() -> None:
    report = REPORTS["class"]()
    lines = render(report, "terminal").splitlines()
    for member in report.verdicts[0].members:
        assert any(member.device_title in line and "tok/s" in line for line in lines)
    assert any("all 7 devices" in line and "1.11 GB" in line for line in lines)


def test_measured_speeds_have_range_and_repetitions() -> None:
    text = render(REPORTS["fail"](), "terminal")
    assert "measured on this host" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("tg128"))
    assert "tok/s" in row
    assert "–" in row
    assert "12 in 3 processes" in row


def test_written_files_are_listed() -> None:
    out = StringIO()
    print_terminal(REPORTS["pass"](), Console(file=out, width=80), [Path("results/report.html")])
    assert "results/report.html" in out.getvalue()


@pytest.mark.parametrize("name", REPORTS)
def test_an_ascii_terminal_gets_ascii(name: str) -> None:
    raw = BytesIO()
    console = Console(file=TextIOWrapper(raw, encoding="ascii", errors="strict"), width=80)
    print_terminal(REPORTS[name](), console)
    console.file.flush()
    text = raw.getvalue().decode("ascii")
    assert "limit >= 50.0 tok/s" in text or ">= 50.0 tok/s" in text


def test_colour_adds_nothing_but_colour() -> None:
    def shown(report: Report, **options: object) -> str:
        out = StringIO()
        console = Console(file=out, width=80, legacy_windows=False, **options)  # type: ignore[arg-type]
        print_terminal(report, console)
        return out.getvalue()

    coloured = shown(REPORTS["class"](), force_terminal=True, color_system="truecolor")
    assert "\x1b[1;33m" in coloured
    import re

    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == shown(REPORTS["class"]()).splitlines()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_reaches_no_terminal_as_control_or_markup(kind: str) -> None:
    text = render(hostile(HOSTILE[kind]), "terminal")
    assert all(c == "\n" or (c.isprintable() or c == "\ufffd") for c in text)
    assert max(map(len, text.splitlines())) <= 80
    text.encode("utf-8")
    if kind == "markup":
        assert "[bold red]rich[/]" in text


def test_findings_are_ordered_by_weight() -> None:
    levels = [found.level for found in facts.findings(REPORTS["broken"]())]
    assert levels == sorted(levels, key=("fault", "warning", "note").index)


@pytest.mark.parametrize("width", [44, 45, 60, 200])
def test_no_word_of_a_table_is_broken_where_it_need_not_be(width: int) -> None:
    out = StringIO()
    rows = [("progressive-student, features", "13,847–31,635", "a reason that takes more than one line of its column")]
    cells = [[(cell, "") for cell in row] for row in rows]
    console = Console(file=out, width=width, color_system=None)
    print_page(console, lambda page: page.table(("stage", "GPU-hours", "why"), cells))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    words = {word for line in lines for word in line.split()}
    if width > 44:  # one column less than the longest words, their gaps and the indent take
        assert {"13,847–31,635", "progressive-student,", "features"} <= words
    assert len(lines) == 2 if width == 200 else len(lines) > 2
