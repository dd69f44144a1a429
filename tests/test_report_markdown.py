"""The report as a comment on a pull request."""

from __future__ import annotations

import re

import pytest
from report_records import HOSTILE, REPORTS, hostile

from edgekit.report import render
from edgekit.report.markdown import escape

OUR_TAGS = {"details", "/details", "summary", "/summary", "br", "sub", "/sub", "!-- --"}


def table_widths(text: str) -> list[set[int]]:
    """The numbers of cells per table: a broken table has more than one."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    return [{len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()} for block in blocks]


@pytest.mark.parametrize("name", REPORTS)
def test_tables_are_whole(name: str) -> None:
    widths = table_widths(render(REPORTS[name](), "markdown"))
    assert widths
    assert all(len(one) == 1 for one in widths)


def test_verdict_first_and_reasons_below() -> None:
    text = render(REPORTS["fail"](), "markdown")
    assert text.startswith("## ❌ FAIL: zen-nano-1.5b-q4_0.gguf on Galaxy S24")
    assert "31.2 tok/s (25.6–38.1), projected" in text
    assert "≥ 50.0 tok/s" in text
    assert "- **decode speed** (burst tg128 at depth 0, required) the whole range misses the limit." in text
    assert "holds until 2027-01-31" in text
    assert "Exit code 1 (fail)" in text


def test_class_table_has_a_row_per_member_and_names_the_stand_in() -> None:
    text = render(REPORTS["class"](), "markdown")
    assert "> [!WARNING]\n> Stand-in weights" in text
    for title in ("Galaxy S25 Ultra", "Redmi Note 13"):
        assert re.search(rf"^\| .* \| {title} \| ", text, flags=re.M)


def test_bases_are_explained() -> None:
    text = render(REPORTS["fail"](), "markdown")
    assert "*projected*: computed for the device" in text
    assert "Ranges are 90 %" in text


@pytest.mark.parametrize(
    ("hostile_text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("@team and x@y.org", "@<!-- -->team and x&#64;y.org"),
        ("fixes #12", "fixes #<!-- -->12"),
        ("https://x.org", "https&#58;//x.org"),
        ("# title", r"\# title"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("12) item", r"12\) item"),
        ("2.52 h", "2.52 h"),
        (":bomb:", "&#58;bomb:"),
        ("q4_0 tg16@d1024", "q4_0 tg16@d1024"),
        ("_em_ *b*", r"\_em\_ \*b\*"),
        ("run `a|b <c>` now", r"run `a\|b <c>` now"),
        ("one ` tick", r"one \` tick"),
        ("``", r"\`\`"),
        ("&lt;", "&amp;lt;"),
        ("a\n\nb", "a b"),
    ],
)
def test_escaping(hostile_text: str, shown: str) -> None:
    assert escape(hostile_text) == shown


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_adds_no_tag_and_breaks_no_table(kind: str) -> None:
    text = render(hostile(HOSTILE[kind]), "markdown")
    outside_code = re.sub(r"`[^`\n]*`", "", text)
    assert set(re.findall(r"<([^>]*)>", outside_code)) <= OUR_TAGS
    assert all(len(one) == 1 for one in table_widths(text))
    assert "\ud800" not in text
    assert max(map(len, text.splitlines())) < 20_000
