"""The plan in every format: what it comes to, its tensors, the map of types, the front; and quality on a terminal."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from plan_records import LAYERS, PLANS, front, hostile_plan, plan, replayed
from report_records import HOSTILE, quality
from rich.console import Console
from test_report_html import CSS, Page, browser, colours, contrast, visit
from test_report_markdown import OUR_TAGS, table_widths

from edgekit import storage
from edgekit.errors import EdgekitError
from edgekit.records import Budget, Estimate, Parity, QuantPlan, Unknown
from edgekit.report import PLAN_FORMATS, plan_rows, print_parity, print_quality, render_plan
from edgekit.report.plan_html import bucket_of, front_chart, speed_chart, type_map

TEXTS = ("terminal", "markdown", "html")

__all__ = ["browser"]  # the fixture


def flat(text: str) -> str:
    """What a reader sees of any format."""
    text = Page(text).text if text.startswith("<!doctype") else re.sub(r"<[^>]*>|\\", "", text)
    return " ".join(html.unescape(text).replace("`", "").split())


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_groups_hold_every_tensor_once() -> None:
    found = plan()
    rows = plan_rows.groups(found)
    assert sum(row.count for row in rows) == len(found.tensors)
    assert sum(row.size_bytes for row in rows) == sum(one.size_bytes for one in found.tensors)
    assert sum(row.share or 0.0 for row in rows) == pytest.approx(1.0)
    assert len({(row.kind, row.type) for row in rows}) == len(rows)
    assert {row.bits for row in rows if row.type == "q4_k"} == {4.5}
    kinds = [row.kind for row in rows]
    assert kinds == sorted(kinds, key=kinds.index)  # types of a kind stand together
    for one, other in pairwise(rows):
        assert one.kind != other.kind or (one.bits or 0) < (other.bits or 0)


def test_what_was_not_measured_has_no_share() -> None:
    assert {row.share_text for row in plan_rows.groups(replayed())} == {"unknown"}
    half_known = replace(plan(), kld=Unknown(reason="too few chunks of text"))
    assert {row.share_text for row in plan_rows.groups(half_known)} == {"unknown"}
    for form in TEXTS:
        text = flat(render_plan(replayed(), (), form))
        assert "KLD unknown" in text
        assert "the plan was read from a file" in text
        assert "0 %" not in text.replace("90 %", "")


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("blk.7.ffn_down.weight", "ffn_down", 7),
        ("token_embd.weight", "token_embd", None),
        ("output", "output", None),
        ("blk.x.ffn_up.weight", "blk.x.ffn_up", None),
        ("blk.123456789.a.weight", "blk.123456789.a", None),
    ],
)
def test_kinds_and_layers(name: str, kind: str, layer: int | None) -> None:
    assert plan_rows.kind_of(name) == kind
    assert plan_rows.layer_of(name) == layer


@pytest.mark.parametrize(
    ("layers", "said"),
    [([], ""), ([3], "3"), ([2, 0, 1], "0–2"), ([0, 1, 5, 7, 8], "0–1, 5, 7–8")],
)
def test_layers_in_words(layers: list[int], said: str) -> None:
    assert plan_rows.layers_text(layers) == said


def test_bits_of_types() -> None:
    assert plan_rows.bits_of("q4_0") == 4.5
    assert plan_rows.bits_of("f16") == 16
    assert plan_rows.bits_of("nonsense") is None
    assert [bucket_of(name) for name in ("iq1_s", "q2_k", "q4_k", "q6_k", "q8_0", "bf16", "x")] == [
        "b2", "b2", "b4", "b6", "b8", "b16", "b0"
    ]  # fmt: skip


def test_budget_and_what_binds_in_words() -> None:
    assert plan_rows.budget_text(plan()) == "memory at run time ≤ 1.20 GB, decode ≥ 30.0 tok/s"
    assert plan_rows.budget_text(plan(device=False)) == "≤ 4.5 bits per weight"
    assert plan_rows.budget_text(replace(plan(), budget=Budget(), min_decode=0.0)) == "what `smartphone` may hold"
    assert plan_rows.binding_text(plan()) == "memory at run time, 99.7 % of it used: no single upgrade fits"
    assert plan_rows.binding_text(replayed()) == ""


# ---- the front ----------------------------------------------------------------------------------------------------


def test_the_front_rises_and_holds_the_plan_once() -> None:
    points = plan_rows.steps(plan(), front())
    assert [step.size_bytes for step in points] == sorted(step.size_bytes for step in points)
    assert [step.chosen for step in points].count(True) == 1
    other = plan_rows.steps(plan(2.2), front())
    assert [step.label for step in other if step.chosen] == ["this plan"]
    assert plan_rows.steps(plan(), ()) == ()


def test_on_several_devices_the_worst_off_counts() -> None:
    (step,) = (one for one in plan_rows.steps(plan(), front()) if one.chosen)
    slow, fast = (one.decode for one in plan().on)
    assert isinstance(slow, Estimate)
    assert isinstance(fast, Estimate)
    assert step.decode == slow
    assert slow.low < fast.low
    refused = Unknown(reason="nobody has run this type there")
    one_unknown = replace(plan(), on=(plan().on[0], replace(plan().on[1], decode=refused)))
    (step,) = (one for one in plan_rows.steps(one_unknown, front()) if one.chosen)
    assert step.decode == refused
    large = replace(plan().on[1], memory=Estimate(value=1.5e9, low=1.4e9, high=1.6e9, basis="predicted"))
    (step,) = (one for one in plan_rows.steps(replace(plan(), on=(plan().on[0], large)), front()) if one.chosen)
    assert step.memory == large.memory
    bare = replace(plan(), on=())
    (step,) = (one for one in plan_rows.steps(bare, front()) if one.chosen)
    assert isinstance(step.memory, Unknown)


def test_charts_show_every_point_and_ring_the_plan() -> None:
    points = plan_rows.steps(plan(), front())
    for chart in (str(front_chart("a", points)), str(speed_chart("b", points, 30.0))):
        labels = re.findall(r'<text class="dot-label[^>]*>([^<]*)</text>', chart)
        assert sorted(labels) == sorted(step.label for step in points)
        assert chart.count('class="ring"') == 1
    assert "asked ≥ 30 tok/s" in str(speed_chart("b", points, 30.0))
    assert "asked" not in str(speed_chart("b", points, 0.0))
    unmeasured = [replace(step, kld=Unknown(reason="x"), decode=Unknown(reason="x")) for step in points]
    assert str(front_chart("a", unmeasured)) == str(speed_chart("b", unmeasured, 30.0)) == ""


def test_the_map_has_a_cell_for_every_tensor() -> None:
    found = plan()
    chart = str(type_map("m", found))
    assert chart.count('<rect class="cell') == len(found.tensors)
    for kind in ("ffn_down", "attn_v", "token_embd"):
        assert f">{kind}</text>" in chart
    assert f"layer {LAYERS - 1}" in chart
    cells = re.findall(r'x="([\d.]+)%" y="(\d+)" width="([\d.]+)%"', chart)
    assert len(set(cells)) == len(cells)  # none hides another
    assert all(float(x) >= 24 and float(x) + float(width) <= 100.01 for x, _, width in cells)


def test_a_map_of_an_absurd_model_is_left_out() -> None:
    strange = replace(plan(), tensors=(replace(plan().tensors[1], name="blk.99999.ffn_up.weight"),))
    assert str(type_map("m", strange)) == ""
    assert str(type_map("m", replace(plan(), tensors=plan().tensors[:1]))) == ""


# ---- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", TEXTS)
def test_every_format_says_size_quality_budget_and_types(form: str) -> None:
    text = flat(render_plan(*PLANS["device"](), form))
    for said in (
        "911 MB",
        "4.720 bits per weight",
        "measured as a whole",
        "memory at run time ≤ 1.20 GB, decode ≥ 30.0 tok/s",
        "99.7 % of it used: no single upgrade fits",
        "ffn_down",
        "q6_k",
        "memory 1.12 GB (1.09–1.15), predicted of 1.20 GB",
    ):
        assert said in text
    assert text.count("sha256 5c5c5c5c5c5c5c5c") == 1


@pytest.mark.parametrize("name", PLANS)
def test_plain_text_fits_eighty_columns(name: str) -> None:
    text = render_plan(*PLANS[name](), "terminal")
    assert max(map(len, text.splitlines())) <= 80
    assert ("front" in text) == (name == "device")


@pytest.mark.parametrize("name", PLANS)
def test_markdown_tables_are_whole(name: str) -> None:
    assert all(len(one) == 1 for one in table_widths(render_plan(*PLANS[name](), "markdown")))


@pytest.mark.parametrize("name", PLANS)
def test_the_page_is_whole_and_asks_for_nothing(name: str) -> None:
    page = Page(render_plan(*PLANS[name](), "html"))
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a", "form"}
    assert not any({"src", "style"} & set(a) or any(n.startswith("on") for n in a) for _, a in page.tags)


def test_json_is_the_plans_record() -> None:
    text = render_plan(*PLANS["device"](), "json")
    assert json.loads(text)["kind"] == "plan"
    assert storage.from_json(text, QuantPlan, origin="test") == plan()


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(EdgekitError) as caught:
        render_plan(plan(), (), "junit")
    assert all(name in caught.value.hint for name in PLAN_FORMATS)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text_in_every_format(kind: str) -> None:
    found = hostile_plan(HOSTILE[kind])
    page = Page(render_plan(found, front(), "html"))
    assert page.open == []
    known = {tag for name in PLANS for tag, _ in Page(render_plan(*PLANS[name](), "html")).tags}
    assert {tag for tag, _ in page.tags} <= known
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.text)
    text = render_plan(found, front(), "terminal")
    assert all(c == "\n" or c.isprintable() or c == "\ufffd" for c in text)
    assert max(map(len, text.splitlines())) <= 80
    marked = re.sub(r"`[^`\n]*`", "", render_plan(found, front(), "markdown"))
    assert set(re.findall(r"<([^>]*)>", marked)) <= OUR_TAGS
    assert all(len(one) == 1 for one in table_widths(render_plan(found, front(), "markdown")))


# ---- colours and browser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_in_the_map_can_be_read_in_both_themes(theme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", CSS, flags=re.S)
    found = colours(blocks[0]) | (colours(blocks[1]) if theme == "dark" else {})
    text = {
        "b2": "ink",
        "b3": "ink",
        "b4": "ink",
        "b5": "ink",
        "b6": "on-status",
        "b8": "on-status",
        "b16": "on-status",
    }
    low = {cell: contrast(found[cell], found[name]) for cell, name in text.items()}
    assert {cell: round(ratio, 2) for cell, ratio in low.items() if ratio < 4.5} == {}
    assert contrast(found["ink"], found["plan-soft"]) > 4.5
    assert contrast(found["host"], found["plan-soft"]) > 4.5


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_the_page_fits_its_window(width: int, browser: Any, tmp_path: Path) -> None:
    text = render_plan(*PLANS["device"](), "html")
    tab, events = visit(browser, tmp_path / "plan.html", text, viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    names = tab.evaluate("Array.from(document.querySelectorAll('.map-name')).map(t => t.getBoundingClientRect().right)")
    first = tab.evaluate(
        "Math.min(...Array.from(document.querySelectorAll('.map rect')).map(r => r.getBoundingClientRect().left))"
    )
    assert max(names) <= first + 1
    assert events == []
    tab.context.close()


# ---- quality on a terminal ----------------------------------------------------------------------------------------


def printed(draw: Any) -> str:
    out = StringIO()
    draw(Console(file=out, width=80, color_system=None, legacy_windows=False))
    return out.getvalue()


def test_quality_alone_says_figures_and_circumstances() -> None:
    text = printed(lambda console: print_quality(quality(0.012), console, name="zen.gguf"))
    assert text.startswith("quality of zen.gguf against zen-nano-1.5b-f16.gguf\n")
    for said in ("mean KL divergence", "nat (", "measured-here", "24 chunks of 512 tokens", "[few-chunks]"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 80
    alone = replace(
        quality(0.01), reference="", kld_mean=Unknown(reason="no reference was given", settle="add `--reference`")
    )
    text = printed(lambda console: print_quality(alone, console, name="zen.gguf"))
    assert text.startswith("quality of zen.gguf\n")
    assert "unknown: no reference was given" in text
    assert "to settle  add `--reference`" in text


def test_parity_shows_both_perplexities_side_by_side() -> None:
    found = quality(0.012)
    text = printed(lambda console: print_parity(Parity(a="a.gguf", b="b-onnx", quality=found), console))
    rows = dict(re.findall(r"^  (perplexity of \S+)\s+([\d.]+) ", text, flags=re.M))
    assert isinstance(found.perplexity, Estimate)
    assert isinstance(found.reference_perplexity, Estimate)
    assert float(rows["perplexity of a.gguf"]) == pytest.approx(found.reference_perplexity.value, rel=1e-3)
    assert float(rows["perplexity of b-onnx"]) == pytest.approx(found.perplexity.value, rel=1e-3)
    assert "mean KL divergence" in text
    hostile = replace(found, reference=HOSTILE["control"], text_origin=HOSTILE["override"])
    text = printed(
        lambda console: print_parity(Parity(a=HOSTILE["control"], b=HOSTILE["markup"], quality=hostile), console)
    )
    assert all(c == "\n" or c.isprintable() or c == "\ufffd" for c in text)
