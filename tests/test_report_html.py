"""The page: self-contained, escaped, accessible; and looked at in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_records import HOSTILE, REPORTS, hostile

from edgekit.report import render
from edgekit.report.charts import axis_over, check_chart

CSS = (Path(__file__).parents[1] / "edgekit/report/report.css").read_text(encoding="utf-8")
VOID = {"meta", "br", "col", "rect", "line", "circle", "path", "polygon", "polyline", "use"}


class Page(HTMLParser):
    """What a page holds: tags with attributes, whether they nest, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"`{tag}` closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module", params=REPORTS)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(render(REPORTS[request.param](), "html"))


def test_every_tag_is_closed_and_every_id_is_alone(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = [one for _, a in page.tags for one in (a.get("aria-labelledby") or "").split()]
    assert set(used) <= set(ids)


def test_nothing_is_loaded_linked_or_run(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "a", "form", "base", "image", "video"}
    for tag, attributes in page.tags:
        assert not {"src", "style", "srcset", "xlink:href", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert tag == "use"
            assert (attributes["href"] or "").startswith("#")
    assert "url(" not in CSS.replace("url(#hatch)", "")
    assert "@import" not in CSS


def test_the_policy_forbids_what_the_page_does_not_do(page: Page) -> None:
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_charts_have_a_role_a_title_and_a_description() -> None:
    text = render(REPORTS["fail"](), "html")
    charts = re.findall(r'<svg class="chart".*?</desc>', text, flags=re.S)
    assert len(charts) >= 5 + 1 + 4 + 2
    for chart in charts:
        assert 'role="img"' in chart
        assert "aria-labelledby" in chart
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", chart)


def test_the_verdict_comes_first() -> None:
    for name, word in {"pass": "PASS", "fail": "FAIL", "unknown": "UNKNOWN", "broken": "The run broke"}.items():
        text = render(REPORTS[name](), "html")
        heading = re.search(r"<h1>.*?<span>(.*?)</span>", text, flags=re.S)
        assert heading is not None
        assert heading[1] == word
        assert text.index("<h1>") < text.index("<h2>")


def test_a_stand_in_is_announced_above_the_checks() -> None:
    text = render(REPORTS["class"](), "html")
    assert text.index('class="standin"') < text.index("<main>")
    assert 'class="standin"' not in render(REPORTS["pass"](), "html")


def test_an_unknown_figure_is_hatched_and_named_never_zero() -> None:
    quality = REPORTS["unknown"]().verdicts[0].checks[1]
    chart = str(check_chart("c", quality))
    assert "hatched" in chart
    assert ">unknown<" in chart
    assert 'class="range' not in chart
    assert "middle unknown" not in chart


def test_a_range_is_drawn_where_it_lies() -> None:
    check = REPORTS["fail"]().verdicts[0].checks[0]
    chart = str(check_chart("c", check))
    axis = axis_over([50.0, check.figure.high, check.figure.low], "tok/s")
    assert f'class="limit" x1="{axis.at(50.0)}%"' in chart
    bar = re.search(r'class="range fail" x="([\d.]+)%" y="\d+" width="([\d.]+)%"', chart)
    assert bar is not None
    assert float(bar[1]) == pytest.approx(axis.at(check.figure.low), abs=0.01)
    assert float(bar[1]) + float(bar[2]) == pytest.approx(axis.at(check.figure.high), abs=0.01)


def test_the_tint_lies_on_the_side_that_passes() -> None:
    decode, memory = REPORTS["fail"]().verdicts[0].checks[:2]
    for check, starts_at_limit in ((decode, True), (memory, False)):
        tint = re.search(r'class="clears" x="([\d.]+)%" y="\d+" width="([\d.]+)%"', str(check_chart("c", check)))
        assert tint is not None
        assert (float(tint[1]) > 0) == starts_at_limit
        assert (float(tint[1]) + float(tint[2]) == pytest.approx(100)) == starts_at_limit


@pytest.mark.parametrize(
    ("values", "unit"),
    [([0.0], "h"), ([], "h"), ([1e308], "tok/s"), ([-1e308, 1e308], "x"), ([1e-300], "s"), ([5e-324], "h")],
)
def test_axes_survive_any_finite_value(values: list[float], unit: str) -> None:
    axis = axis_over(values, unit)
    assert 0 <= len(axis.ticks) <= 12
    for value in values:
        assert 0 <= axis.at(value) <= 100


def test_every_part_of_the_memory_and_every_basis_is_named() -> None:
    text = Page(render(REPORTS["fail"](), "html")).text
    for said in ("repacked weights 850 MB", "KV cache 117 MB", "dormant source pages 830 MB", "compute buffer 76 MB"):
        assert said in text
    for basis in ("measured", "measured-here", "projected", "predicted", "estimated", "claimed"):
        assert basis in text


def test_multiple_verdicts_are_all_shown() -> None:
    from dataclasses import replace

    one, two = REPORTS["pass"](), REPORTS["fail"]()
    both = replace(two, verdicts=(*one.verdicts, *two.verdicts))
    text = Page(render(both, "html")).text
    assert "Checks on OnePlus 13" in text
    assert "Checks on Galaxy S24" in text
    assert "FAIL" in text


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_becomes_no_markup(kind: str) -> None:
    known = {tag for name in REPORTS for tag, _ in Page(render(REPORTS[name](), "html")).tags}
    text = render(hostile(HOSTILE[kind]), "html")
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags} <= known
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text)
    if kind == "template":
        assert "{{ 7*7 }}" in page.text


# ---- colours ------------------------------------------------------------------------------------------------------


def colours(block: str) -> dict[str, str]:
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))
    return {
        name: "#" + "".join(c * 2 for c in value[1:]) if len(value) == 4 else value for name, value in found.items()
    }


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_contrast_in_both_themes(theme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", CSS, flags=re.S)
    found = colours(blocks[0]) | (colours(blocks[1]) if theme == "dark" else {})
    statuses = ("pass", "fail", "unknown", "broke")
    pairs = [(text, ground) for text in ("ink", "muted", *statuses) for ground in ("paper", "raised")]
    pairs += [(text, f"{status}-soft") for status in statuses for text in ("ink", status)]
    pairs += [("on-status", status) for status in statuses]
    pairs += [("ink", "note-soft"), ("note", "note-soft"), ("ink", "track"), ("muted", "track")]
    low = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    drawn = [(status, ground) for status in statuses[:3] for ground in ("track", "clears")]
    assert [pair for pair in drawn if contrast(found[pair[0]], found[pair[1]]) < 3] == []


# ---- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def visit(browser: Any, path: Path, text: str, **context: Any) -> tuple[Any, list[str]]:
    """The page in a fresh context, and everything that it asked of a network or a console."""
    path.write_text(text, encoding="utf-8")
    tab = browser.new_context(**context).new_page()
    events: list[str] = []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: events.append("dialog"))
    tab.on("request", lambda request: None if request.url.startswith("file:") else events.append(request.url))
    tab.goto(path.as_uri())
    return tab, events


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_runs_nothing_in_a_browser(kind: str, browser: Any, tmp_path: Path) -> None:
    tab, events = visit(
        browser,
        tmp_path / "report.html",
        render(hostile(HOSTILE[kind]), "html"),
        viewport={"width": 390, "height": 800},
    )
    for details in tab.query_selector_all("details"):
        details.evaluate("element => element.open = true")
    assert tab.evaluate("typeof window.hacked") == "undefined"
    assert tab.evaluate("document.scripts.length + document.images.length + document.links.length") == 0
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert events == []
    tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [320, 390, 1100])
def test_the_page_fits_its_window_and_styles_apply(name: str, width: int, browser: Any, tmp_path: Path) -> None:
    tab, events = visit(
        browser, tmp_path / "report.html", render(REPORTS[name](), "html"), viewport={"width": width, "height": 800}
    )
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.evaluate("getComputedStyle(document.querySelector('.hero')).borderRadius") != "0px"
    texts = tab.evaluate(
        "Array.from(document.querySelectorAll('.chart text')).map(t => parseFloat(getComputedStyle(t).fontSize))"
    )
    assert not texts or min(texts) >= 11  # charts keep readable text at any width
    assert events == []
    tab.context.close()


@pytest.mark.slow
def test_the_dark_theme_is_dark_and_print_is_light(browser: Any, tmp_path: Path) -> None:
    text = render(REPORTS["class"](), "html")
    ground = "getComputedStyle(document.body).backgroundColor"
    light, _ = visit(browser, tmp_path / "a.html", text, color_scheme="light")
    dark, _ = visit(browser, tmp_path / "b.html", text, color_scheme="dark")
    assert light.evaluate(ground) == "rgb(251, 250, 247)"
    assert dark.evaluate(ground) == "rgb(19, 20, 22)"
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.evaluate("getComputedStyle(document.querySelector('h2')).color") == "rgb(29, 28, 26)"
    for tab in (light, dark):
        tab.context.close()
