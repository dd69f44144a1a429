"""The sweep in every format: which to ship first, every target in a row, failed ones with their reason."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from plan_records import front
from report_records import HOSTILE
from rich.console import Console
from sweep_records import SWEEPS, hostile_sweep, phone, phones, row, sweep
from test_report_html import CSS, Page, visit
from test_report_html import browser as browser
from test_report_junit import check_shape
from test_report_markdown import OUR_TAGS, table_widths

from edgekit import storage
from edgekit.errors import EdgekitError
from edgekit.records import Estimate, Sweep, Unknown
from edgekit.report import SWEEP_FORMATS, print_sweep, render_sweep, scatter, sweep_rows, sweep_words
from edgekit.report.charts import axis_over
from edgekit.report.scatter import Dot, Limit, log_axis_over, scatter_chart
from edgekit.report.sweep_html import quality_chart, speed_chart

TEXTS = ("terminal", "markdown", "html")


def flat(text: str) -> str:
    """What a reader sees of any format: no markup, no line ends, no padding, no quotes around names."""
    text = Page(text).text if text.startswith("<!doctype") else re.sub(r"<[^>]*>|\\", "", text)
    return " ".join(html.unescape(text).replace("`", "").split())


# ---- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("name", SWEEPS)
def test_every_target_is_listed_and_failed_ones_say_why(name: str, form: str) -> None:
    found = SWEEPS[name]()
    text = flat(render_sweep(found, form))
    for one in found.rows:
        assert one.target in text
        if one.failed is not None:
            assert one.failed.reason.replace("`", "")[1:] in text  # a page begins it with a capital
            assert one.failed.settle.replace("`", "")[1:] in text


@pytest.mark.parametrize("form", TEXTS)
def test_the_recommendation_and_its_figures_come_first(form: str) -> None:
    text = flat(render_sweep(phone(), form))
    assert "gguf:q5_k_m" in text[:250] if form != "html" else "gguf:q5_k_m" in text
    reason = "gguf:q5_k_m passes with KLD 0.00945 nat (0.00803 to 0.0108) and 1.06 GB"
    assert reason in text
    assert text.index(reason) < text.index("gguf:q8_0")


@pytest.mark.parametrize("form", TEXTS)
def test_where_none_passes_none_is_recommended(form: str) -> None:
    text = flat(render_sweep(phones(), form)).lower()
    assert "none recommended" in text or "none to ship" in text
    assert "comes nearest" in text


def test_figures_of_a_row_are_those_that_were_judged() -> None:
    lines = {line.target: line for line in sweep_rows.lines(phone())}
    line, report = lines["gguf:q4_k_m"], next(one.report for one in phone().rows if one.target == "gguf:q4_k_m")
    assert report is not None
    judged = {check.metric: check.figure for check in report.verdicts[0].checks}
    assert line.decode == judged["decode_tokens_per_s"]
    assert line.memory == judged["memory_bytes"]
    assert line.kld == judged["kld_mean"]
    assert isinstance(line.decode_here, Estimate)
    assert line.decode_here.basis == "measured-here"
    assert lines["gguf:f16"].is_reference
    assert not line.is_reference
    assert lines["gguf:q5_k_m"].recommended
    assert sum(one.recommended for one in lines.values()) == 1


def test_a_refuted_prediction_is_unknown_though_the_case_has_one() -> None:
    one = row("gguf:q4_0", 872_000_000, 60.0, 0.04)
    assert one.report is not None
    doubt = Unknown(reason="the host's memory refutes the prediction")
    verdict = one.report.verdicts[0]
    checks = tuple(
        replace(check, figure=doubt, status="unknown") if check.metric == "memory_bytes" else check
        for check in verdict.checks
    )
    doubted = replace(one, report=replace(one.report, verdicts=(replace(verdict, checks=checks),)))
    assert sweep_rows.lines(sweep((doubted,)))[0].memory == doubt


def test_a_class_reaches_from_its_slowest_to_its_fastest_device() -> None:
    lines = sweep_rows.lines(phones())
    members = phones().rows[1].report.verdicts[0].members  # type: ignore[union-attr]
    speeds = [check.figure for leaf in members for check in leaf.checks if check.metric == "decode_tokens_per_s"]
    known = [figure for figure in speeds if isinstance(figure, Estimate)]
    decode = lines[1].decode
    assert isinstance(decode, Estimate)
    assert (decode.low, decode.high) == (min(one.low for one in known), max(one.high for one in known))
    assert decode.note == "over 7 devices"
    for form in TEXTS:
        assert "the median of the class's devices" in flat(render_sweep(phones(), form))
        assert "the median of the class's devices" not in flat(render_sweep(phone(), form))


def test_devices_of_which_nothing_is_known_are_counted() -> None:
    figure = Estimate(value=2.0, low=1.0, high=3.0, basis="projected")
    other = replace(figure, value=4.0, high=5.0, basis="predicted")
    unknown = Unknown(reason="nobody has measured it")
    mixed = sweep_rows.over_devices([figure, other, unknown])
    assert isinstance(mixed, Estimate)
    assert (mixed.value, mixed.low, mixed.high, mixed.basis) == (3.0, 1.0, 5.0, "predicted")
    assert mixed.note == "over 2 of 3 devices"
    assert sweep_rows.over_devices([unknown, unknown]) == unknown
    assert sweep_rows.over_devices([figure, figure]) == figure
    assert isinstance(sweep_rows.over_devices([]), Unknown)


def test_the_worst_verdict_of_a_row_counts_and_a_broken_run_most() -> None:
    one = row("gguf:q4_0", 872_000_000, 60.0, 0.04)
    assert one.report is not None
    good = one.report.verdicts[0]
    both = replace(one.report, verdicts=(good, replace(good, status="fail", reason="the other one misses"), good))
    line = sweep_rows.lines(sweep((replace(one, report=both),)))[0]
    assert (line.key, line.reason) == ("fail", "the other one misses")
    broke = sweep_rows.lines(sweep((replace(one, report=replace(one.report, exit_code=4)),)))[0]
    assert (broke.key, broke.word) == ("broke", "FAILED")


def test_required_checks_come_before_advisory_ones() -> None:
    one = row("gguf:q4_0", 872_000_000, 31.0, 0.04)
    assert one.report is not None
    verdict = one.report.verdicts[0]
    advisory = replace(verdict.checks[0], title="advice", status="fail", level="advisory")
    doubted = replace(one.report, verdicts=(replace(verdict, checks=(advisory, *verdict.checks)),))
    line = sweep_rows.lines(sweep((replace(one, report=doubted),)))[0]
    assert [check.title for _, check in line.obstacles] == ["decode speed", "advice"]


def test_the_front_holds_what_nothing_beats() -> None:
    targets = [line.target for line in sweep_rows.front(sweep_rows.lines(phone()))]
    assert targets == [
        "gguf:q2_k",
        "gguf:q4_0",
        "gguf:q4_k_m",
        "gguf:q5_k_m",
        "gguf:q6_k",
        "gguf:q8_0",
        "gguf:f16",
    ]  # fmt: skip - onnx:int8 is larger than q8_0 and worse


@pytest.mark.parametrize("form", TEXTS)
def test_unknown_figures_say_why_and_are_never_zero(form: str) -> None:
    text = flat(render_sweep(phones(), form))
    assert "KLD, top-1 agreement, perplexity of gguf:q4_0: quality was not measured" in text
    assert " 0 nat" not in text
    said = " ".join(sweep_words.gaps(sweep_rows.lines(phone())))
    assert "onnx:int4" not in said  # it has a reason of its own
    assert "0, the reference" in flat(render_sweep(phone(), form)).replace("0 the", "0, the")


def test_rows_of_unlike_circumstances_are_pointed_out() -> None:
    assert sweep_words.differences(phone()) == ()
    rows = phone().rows
    report = rows[1].report
    assert report is not None
    assert report.evidence.measurement is not None
    assert report.evidence.quality is not None
    moved = replace(report.evidence.measurement, host=replace(report.evidence.measurement.host, cpu_model="Other"))
    evidence = replace(
        report.evidence, measurement=moved, quality=replace(report.evidence.quality, text_sha256="0" * 64)
    )
    unlike = replace(phone(), rows=(rows[0], replace(rows[1], report=replace(report, evidence=evidence))))
    said = sweep_words.differences(unlike)
    assert len(said) == 2
    assert "host" in said[0]
    assert "text" in said[1]
    for form in TEXTS:
        assert said[0] in flat(render_sweep(unlike, form))


# ---- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEEPS)
def test_plain_text_fits_eighty_columns(name: str) -> None:
    text = render_sweep(SWEEPS[name](), "terminal")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_an_ascii_terminal_gets_ascii() -> None:
    raw = BytesIO()
    console = Console(file=TextIOWrapper(raw, encoding="ascii", errors="strict"), width=80)
    print_sweep(phone(), console)
    console.file.flush()
    assert "RECOMMENDED  gguf:q5_k_m" in raw.getvalue().decode("ascii")


def test_colour_adds_nothing_but_colour() -> None:
    out = StringIO()
    print_sweep(
        phone(), Console(file=out, width=80, force_terminal=True, color_system="truecolor", legacy_windows=False)
    )
    assert "\x1b[1;32m" in out.getvalue()
    bare = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert [line.rstrip() for line in bare.splitlines()] == render_sweep(phone(), "terminal").splitlines()


@pytest.mark.parametrize("name", SWEEPS)
def test_markdown_tables_are_whole(name: str) -> None:
    widths = table_widths(render_sweep(SWEEPS[name](), "markdown"))
    assert len(widths) >= 3
    assert all(len(one) == 1 for one in widths)


@pytest.mark.parametrize("name", SWEEPS)
def test_junit_has_a_case_for_every_target_and_skips_none(name: str) -> None:
    found = SWEEPS[name]()
    root = ET.fromstring(render_sweep(found, "junit"))
    check_shape(root)
    cases = {case.get("name"): case for case in root.findall("testsuite/testcase")}
    for line in sweep_rows.lines(found):
        case = cases[line.target]
        assert (case.find("failure") is not None) == (line.key == "fail")
        assert (case.find("error") is not None) == (line.key in ("unknown", "broke"))
    assert (cases["recommendation"].find("error") is None) == bool(found.recommended)
    assert int(root.get("tests", "")) == len(found.rows) + 1
    assert int(root.get("errors", "")) == len(root.findall(".//error"))
    assert int(root.get("failures", "")) == len(root.findall(".//failure"))


@pytest.mark.parametrize("name", SWEEPS)
def test_json_reads_back(name: str) -> None:
    found = SWEEPS[name]()
    text = render_sweep(found, "json")
    assert json.loads(text)["kind"] == "sweep"
    assert storage.from_json(text, Sweep, origin="test") == found


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(EdgekitError) as caught:
        render_sweep(phone(), "pdf")
    assert all(name in caught.value.hint for name in SWEEP_FORMATS)


# ---- the page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_is_whole_and_asks_for_nothing(name: str) -> None:
    page = Page(render_sweep(SWEEPS[name](), "html"))
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a", "form", "style:src"}
    assert not any({"src", "style"} & set(a) or any(n.startswith("on") for n in a) for _, a in page.tags)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_both_charts_label_every_target_and_ring_the_recommended_one() -> None:
    rows = sweep_rows.lines(phone())
    made = [line.target for line in rows if line.report]
    for chart in (str(quality_chart("a", rows)), str(speed_chart("b", rows))):
        labels = re.findall(r'<text class="dot-label[^>]*>([^<]*)</text>', chart)
        assert sorted(label.partition(",")[0] for label in labels) == sorted(made)
        assert chart.count('class="ring"') == 1
        assert re.search(r"dot-label \w+ strong[^>]*>gguf:q5_k_m<", chart)
        assert 'role="img"' in chart
    assert "gguf:f16, KLD 0" in str(quality_chart("a", rows))  # a logarithm has no zero: said instead of drawn
    assert "gate ≥ 30.0 tok/s" in str(speed_chart("b", rows))
    assert "curve front" in str(quality_chart("a", rows))
    own = row("gguf:q4_0", 872_000_000, 60.0, 0.04, limit=20.0)
    assert "gate" not in str(
        speed_chart("b", sweep_rows.lines(sweep((own, *phone().rows))))
    )  # they differ: none is drawn


@pytest.mark.parametrize(("name", "key"), [("phone", "pass"), ("class", "unknown"), ("none", "broke")])
def test_the_head_of_the_page_shows_the_answer(name: str, key: str) -> None:
    assert f'<header class="hero {key}">' in render_sweep(SWEEPS[name](), "html")
    failing = sweep((row("gguf:q8_0", 1_650_000_000, 13.0, 0.001),))
    assert '<header class="hero fail">' in render_sweep(failing, "html")


def test_a_front_of_plans_is_shown_where_the_sweep_has_one() -> None:
    with_front = replace(phone(), front=front())
    for form in TEXTS:
        text = flat(render_sweep(with_front, form))
        for point in front():
            assert point.label in text
        assert front()[0].label not in flat(render_sweep(phone(), form))
    page = render_sweep(with_front, "html")
    assert page.count('<svg class="chart"') == render_sweep(phone(), "html").count('<svg class="chart"') + 2
    assert Page(page).open == []
    assert "this plan" not in Page(page).text


def test_shape_says_what_colour_says() -> None:
    rows = sweep_rows.lines(phone())
    chart = str(quality_chart("a", rows))
    for key, drawn in (("pass", '<circle class="dot pass"'), ("fail", "M-5-5h10v10h-10z"), ("unknown", "M0-6 6 0")):
        count = sum(line.key == key and line.report is not None for line in rows)
        assert count
        assert chart.count(f'"dot {key}"') == count
        assert drawn in chart


def test_without_any_quality_no_chart_is_drawn() -> None:
    bare = sweep((row("gguf:q4_0", 872_000_000, 60.0),))
    assert str(quality_chart("a", sweep_rows.lines(bare))) == ""
    assert "quality is known" in Page(render_sweep(bare, "html")).text
    assert "Not drawn: gguf:q4_0: quality was not measured" in Page(render_sweep(bare, "html")).text


# ---- scatter ------------------------------------------------------------------------------------------------------


def boxes(dots: list[Dot], width: float, limit: Limit | None = None) -> list[tuple[float, float, float, float]]:
    x, y = log_axis_over([dot.x for dot in dots], "bytes"), log_axis_over([dot.y.value for dot in dots], "nat")
    places = [scatter._Place(x=scatter._across(x, d.x), y=scatter._down(y, d.y.value), dot=d) for d in dots]
    return [
        scatter._box(place, spot, width) for place, spot in zip(places, scatter._spots(places, y, limit), strict=True)
    ]


def dots_of(found: Sweep) -> list[Dot]:
    return [
        Dot(label=line.target, x=line.file.value, y=line.kld, css=line.key)
        for line in sweep_rows.lines(found)
        if isinstance(line.kld, Estimate) and isinstance(line.file, Estimate)
    ]


@pytest.mark.parametrize("width", [350, 900])
def test_labels_hide_no_other_label_and_stay_inside(width: float) -> None:
    found = boxes(dots_of(phone()), width)
    assert not [pair for pair in combinations(found, 2) if scatter._overlap(*pair) > 0]
    assert all(left >= 0 and right <= width for left, _, right, _ in found)


def test_crowded_labels_still_part() -> None:
    near = [
        Dot(
            label=f"gguf:q{n}_k_m",
            x=9e8 * 1.04**n,
            y=Estimate(value=0.02 * 0.8**n, low=0.019 * 0.8**n, high=0.021 * 0.8**n, basis="measured-here"),
            css="pass",
        )
        for n in range(7)
    ]
    assert not [pair for pair in combinations(boxes(near, 350), 2) if scatter._overlap(*pair) > 0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.001, 0.1, (0.001, 0.01, 0.1)),
        (6e8, 3e9, (1e9, 2e9, 3e9)),
        (1e-9, 1e3, (1e-9, 1e-3, 1e0)),
        (9.1e8, 9.2e8, ()),
    ],
)
def test_logarithmic_ticks_are_round_and_within(low: float, high: float, ticks: tuple[float, ...]) -> None:
    axis = log_axis_over([low, high], "bytes" if low > 1 else "nat")
    assert 2 <= len(axis.ticks) <= 12
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    for tick in ticks:
        assert any(tick == pytest.approx(one) for one in axis.ticks)
    assert [axis.at(one) for one in axis.ticks] == sorted(axis.at(one) for one in axis.ticks)


@pytest.mark.parametrize("values", [[], [0.0], [5e-324], [1e308], [1e-200, 1e200], [-1.0, 2.0]])
def test_logarithmic_axes_survive_any_value(values: list[float]) -> None:
    axis = log_axis_over(values, "nat")
    assert 0 < axis.low < axis.high
    assert len(axis.ticks) <= 12
    for value in (*values, 0.0, -1.0, 1e300):
        assert 0 <= axis.at(value) <= 100
    assert axis.at(axis.low) == axis.at(0.0) == 0.0
    assert axis.at(axis.high) == 100.0


def test_a_range_is_drawn_where_it_lies() -> None:
    figure = Estimate(value=0.02, low=0.01, high=0.05, basis="measured-here")
    dots = [Dot(label="a", x=1e9, y=figure, css="pass"), Dot(label="b", x=2e9, y=replace(figure, low=0.02), css="fail")]
    x, y = log_axis_over([1e9, 2e9], "bytes"), log_axis_over([0.01, 0.05], "nat")
    chart = str(scatter_chart("c", "t", dots, x=x, y=y, x_title="size"))
    bar = re.search(r'class="bar pass" x1="([\d.]+)%" x2="([\d.]+)%" y1="([\d.]+)" y2="([\d.]+)"', chart)
    assert bar is not None
    assert float(bar[1]) == float(bar[2]) == pytest.approx(10 + 0.87 * x.at(1e9), abs=0.01)
    assert float(bar[3]) == pytest.approx(22 + 270 * (1 - y.at(0.01) / 100), abs=0.06)
    assert float(bar[4]) == pytest.approx(22 + 270 * (1 - y.at(0.05) / 100), abs=0.06)
    assert "a: 0.02 (0.01–0.05) nat at 1 GB" in chart


def test_the_limits_words_go_where_they_hide_least() -> None:
    figure = Estimate(value=30.0, low=29.0, high=31.0, basis="projected")
    x, y, limit = log_axis_over([1e9, 3e9], "bytes"), axis_over([60.0], "tok/s"), Limit(value=30.0, label="gate ≥ 30")
    for at, side in ((3e9, "start"), (1e9, "end")):
        chart = str(
            scatter_chart("c", "t", [Dot(label="a", x=at, y=figure, css="host")], x=x, y=y, x_title="s", limit=limit)
        )
        assert f'class="limit-text {side}"' in chart


# ---- strangers' words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text_in_every_format(kind: str) -> None:
    found = hostile_sweep(HOSTILE[kind])
    page = Page(render_sweep(found, "html"))
    assert page.open == []
    known = {tag for name in SWEEPS for tag, _ in Page(render_sweep(SWEEPS[name](), "html")).tags}
    assert {tag for tag, _ in page.tags} <= known
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.text)
    text = render_sweep(found, "terminal")
    assert all(c == "\n" or c.isprintable() or c == "\ufffd" for c in text)
    assert max(map(len, text.splitlines())) <= 80
    marked = re.sub(r"`[^`\n]*`", "", render_sweep(found, "markdown"))
    assert set(re.findall(r"<([^>]*)>", marked)) <= OUR_TAGS
    assert all(len(one) == 1 for one in table_widths(render_sweep(found, "markdown")))
    check_shape(ET.fromstring(render_sweep(found, "junit").encode("utf-8")))


# ---- in a browser -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("width", [320, 390, 1400])
def test_the_page_fits_its_window(name: str, width: int, browser: Any, tmp_path: Path) -> None:
    tab, events = visit(
        browser,
        tmp_path / "sweep.html",
        render_sweep(SWEEPS[name](), "html"),
        viewport={"width": width, "height": 800},
    )
    for details in tab.query_selector_all("details"):
        details.evaluate("element => element.open = true")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    texts = tab.evaluate(
        "Array.from(document.querySelectorAll('.chart text')).map(t => parseFloat(getComputedStyle(t).fontSize))"
    )
    assert not texts or min(texts) >= 11
    overlapping = tab.evaluate(
        """Array.from(document.querySelectorAll('.chart')).flatMap(chart => {
          const boxes = Array.from(chart.querySelectorAll('.dot-label')).map(t => t.getBoundingClientRect());
          return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
            Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5));
        }).length"""
    )
    assert overlapping == 0
    assert events == []
    tab.context.close()


@pytest.mark.slow
def test_hostile_words_run_nothing_in_a_browser(browser: Any, tmp_path: Path) -> None:
    for kind in ("script", "attribute", "long", "override"):
        text = render_sweep(hostile_sweep(HOSTILE[kind]), "html")
        tab, events = visit(browser, tmp_path / f"{kind}.html", text, viewport={"width": 390, "height": 800})
        assert tab.evaluate("typeof window.hacked") == "undefined"
        assert tab.evaluate("document.scripts.length + document.images.length + document.links.length") == 0
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert events == []
        tab.context.close()


def test_every_colour_of_the_charts_is_defined() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", CSS))
    assert used <= set(re.findall(r"--([\w-]+):", CSS))
