"""Tasks, retention, responses, identity, layers and the chat template, in every format."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from quality_records import STUDENT_SHA, answers, full, here, layers, spread, tasks, troubled
from report_records import HOSTILE, REPORTS, hostile, passing, quality

from edgekit import corpus
from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.gate import judge
from edgekit.records import Estimate, Evidence, Finding, Gate, Gates, Identity, IdentityClaim, Quality, Report, Unknown
from edgekit.report import (
    QUALITY_FORMATS,
    facts,
    quality_answers,
    quality_charts,
    quality_parts,
    render,
    render_quality,
)
from edgekit.report import quality as scores
from edgekit.report.charts import axis_over
from edgekit.report.quality import Line
from edgekit.report.quality_layers import DRAWN
from edgekit.report.quality_tasks import cliff_texts, domain_rows, tasks_part
from edgekit.report.scatter import log_axis_over
from edgekit.report.words import clean
from edgekit.storage import from_json, to_json

FORMATS = ("terminal", "markdown", "html", "junit")
CLIFF = "coding: 38 % retained, 39 points below"


def plain(text: str) -> str:
    """Without line breaks, Markdown's escapes and a page's code marks."""
    text = re.sub(r"</?(?:code|q|small|span[^>]*)>", "`", text.replace("\\_", "_").replace("\\-", "-"))
    return " ".join(text.replace("``", "`").split())


def report_with(found: Quality | None) -> Report:
    base = passing()
    return replace(base, evidence=replace(base.evidence, quality=found))


# ---- what is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_part_is_in_every_format(form: str) -> None:
    found = full()
    text = plain(render(report_with(found), form))
    assert found.tasks is not None
    for row in domain_rows(found.tasks, {}):
        assert row.name in text
        assert row.retained in text
    for said in (
        "zen-72b-q8_0.gguf",
        "edgekit-tasks-1",
        "measured-here, with 90 % ranges",
        "44 % (39–50), measured-here",  # edit distance
        "78 % (66–87), measured-here",  # final answers
        "0.0 % (0.0–14), measured-here; 0 claims",  # identity
        "byte for byte",
        "blk.3.ffn_down",
        "q6_k, +6 MB",
        "0.0121 nat (0.0112–0.0131), measured-here",
        "6144 tokens hold 6 beyond p99.9: too few",
    ):
        assert said in text, said


@pytest.mark.parametrize("form", FORMATS)
def test_without_them_nothing_is_said_of_tasks(form: str) -> None:
    text = render(report_with(quality(0.01)), form).lower()
    for word in (
        "retain",
        "identity",
        "chat template",
        "group of tensors",
        "median kl",
        "quoted",
        "unknown: not recorded",
    ):
        assert word not in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_cliff_stands_above_the_checks_even_where_the_overall_passes(form: str) -> None:
    report = REPORTS["tasks"]()
    overall = next(check for _, check in facts.all_checks(report) if check.metric == "quality_retention")
    assert overall.status == "pass"
    text = plain(render(report, form))
    assert text.index(CLIFF) < text.index("decode speed")
    calm = replace(full(), tasks=replace(tasks(), cliffs=()))
    assert "cliff" not in render(report_with(calm), form)


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_template_and_foreign_claims_are_said_first_and_quoted(form: str) -> None:
    text = plain(render(report_with(troubled()), form))
    first = text.index("decode speed")
    assert text.index("differs from that of `zen-nano-1.5b`") < first
    assert text.index("ChatGPT (OpenAI)") < first
    assert "My name is ChatGPT. How can I help you today?" in text
    assert "character 118" in text


@pytest.mark.parametrize("form", FORMATS)
def test_unknown_retention_says_why_and_what_settles_it(form: str) -> None:
    text = plain(render(report_with(troubled()), form))
    assert "onservation: unknown, the teacher is within 10 points of chance" in text
    assert "harder to guess items" in text


def test_without_a_teacher_nothing_is_retained() -> None:
    part = tasks_part(replace(full(), tasks=tasks(teacher=False)), {})
    assert part is not None
    assert part.table is not None
    assert part.table.head == ("", "right", "chance", "items")
    assert "Without a teacher" in part.reading
    page = render(report_with(replace(full(), tasks=tasks(teacher=False))), "html")
    assert "Retained of the teacher" not in page
    assert "Right answers" in page


def test_a_compact_reference_shows_its_lower_bound() -> None:
    text = plain(render_quality(troubled(), "terminal", name="a.gguf"))
    assert "its lower bound 0.0489 nat (0.0462–0.0518), measured-here" in text
    assert "a compact file of what it said" in text
    assert "lower bound" not in render_quality(full(), "terminal", name="a.gguf")


def test_a_live_reference_has_no_lower_bound_to_tell() -> None:
    live = replace(full(), kld_lower=Unknown(reason="the reference ran here"))
    assert "lower bound" not in render_quality(live, "terminal", name="a.gguf")


def test_domains_unknown_for_the_like_reason_follow_the_first() -> None:
    base = tasks()
    domains = tuple(
        replace(one, retention=Unknown(reason=f"the teacher is {n}.5 % above chance", settle="a better teacher"))
        for n, one in enumerate(base.domains)
    )
    part = tasks_part(replace(full(), tasks=replace(base, domains=domains)), {})
    assert part is not None
    assert " ".join(part.notes) == (
        "factual: unknown, the teacher is 0.5 % above chance; a better teacher; "
        "likewise reasoning, coding, conservation"
    )


def test_a_largest_figure_has_its_meaning_in_place_of_a_range() -> None:
    largest = here(1.92, 1.92, 1.92, note="the largest of 6144 tokens")
    shown = scores.Shown(label="largest", figure=largest, unit="nat")
    assert shown.text == "1.92 nat, measured-here; the largest of 6144 tokens"
    page = render_quality(replace(full(), kld_max=largest), "html", name="a.gguf")
    assert "no spread" not in page
    assert "the largest of 6144 tokens" in page


@pytest.mark.parametrize(
    ("most", "head", "cell"),
    [
        (0.5, "KLD, nat", "0.25 (0.125–0.5)"),
        (0.0005, "KLD, 1e-3 nat", "0.25 (0.125–0.5)"),
        (0.0, "KLD, 1e-6 nat", "0 (0–0)"),
    ],
)
def test_the_unit_of_the_groups_needs_no_power_of_ten(most: float, head: str, cell: str) -> None:
    found = layers()
    rows = tuple(replace(row, kld=here(most / 2, most / 4, most)) for row in found.rows)
    part = next(p for p in quality_parts.parts(replace(full(), layers=replace(found, rows=rows))) if p.key == "layers")
    assert part.table is not None
    assert part.table.head[3] == head
    assert part.table.rows[0][3] == cell


def test_claims_beyond_a_dozen_are_counted_not_shown() -> None:
    one = IdentityClaim(prompt="p", text="I am Qwen." + " Truly." * 1000, claimed="Qwen")
    part = quality_answers.identity_part(
        replace(full(), identity=Identity(prompts=40, expected=(), claims=(one,) * 15, share=here(0.375, 0.26, 0.5)))
    )
    assert part is not None
    assert len(part.quotes) == 12
    assert all(len(quote.text) <= 240 for quote in part.quotes)
    assert part.notes == ("3 more claims are in the record",)
    assert "no name was told" in part.rows[1].value


def test_responses_stand_side_by_side_the_least_alike_first() -> None:
    part = next(part for part in quality_parts.parts(full()) if part.key == "similarity")
    table = part.folded[0]
    assert table.title == f"responses side by side, least alike first: 8 of {len(corpus.open_prompts())}"
    assert all(own != their for _, own, their in table.rows)
    words = {one.prompt for one in corpus.open_prompts()}
    assert {row[0] for row in table.rows} <= {clean(one, 240) for one in words}
    assert quality_answers.asked("no-such-prompt") == "no-such-prompt"
    assert "A pangolin is a mammal that scales protect" in render(report_with(full()), "html")


def test_without_a_text_one_line_says_so() -> None:
    nothing = Unknown(reason="no text was scored", settle="`edgekit evaluate ARTIFACT --reference REF`")
    found = Quality(
        reference="",
        perplexity=nothing,
        kld_mean=nothing,
        top1_agreement=nothing,
        tasks=tasks(),
        artifact_sha256=STUDENT_SHA,
    )
    for form in FORMATS:
        text = plain(render(report_with(found), form))
        assert text.count("no text was scored") == 1, form
        assert "chunks of" not in text
    alone = replace(found, tasks=tasks(teacher=False))
    assert quality_parts.headline(alone)[1].startswith("of 800 items answered rightly (90 % range ")


def test_counts_by_template_name_what_was_lost_and_won() -> None:
    student, teacher = answers(0, "s", STUDENT_SHA, each=4), answers(1, "t", "00" * 32, each=4)
    right = (True, False, False, True) * 4
    above = (True, True, True, False) * 4
    student = replace(
        student,
        answers=tuple(replace(a, correct=r, template="one") for a, r in zip(student.answers, right, strict=True)),
    )
    teacher = replace(
        teacher, answers=tuple(replace(a, correct=r) for a, r in zip(teacher.answers, above, strict=True))
    )
    part = tasks_part(replace(full(), tasks=replace(tasks(), answers=student, teacher=teacher)), {})
    assert part is not None
    assert part.folded[0].head == ("template", "items", "right", "teacher right", "lost", "won")
    assert part.folded[0].rows[0][1:] == ("4", "2", "3", "2", "1")


def test_groups_beyond_a_dozen_are_folded_away() -> None:
    part = next(part for part in quality_parts.parts(full()) if part.key == "layers")
    assert part.table is not None
    assert len(part.table.rows) == DRAWN
    assert len(part.folded[0].rows) == 16
    assert "in `q6_k` it would bring 0.00031 nat (0.00025–0.00038) in place of 0.00578 nat" in part.notes[0]


# ---- of which file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_another_files_answers_are_never_shown_as_this_ones(form: str) -> None:
    found = replace(full(), artifact_sha256="00" * 32)
    text = plain(render(report_with(found), form))
    assert "quality was measured on another file" in text
    for hidden in (CLIFF, "78 % (", "blk.3.ffn_down", "byte for byte", "Chunk by chunk", "over the scored tokens"):
        assert hidden not in text


def test_stand_ins_have_no_alerts() -> None:
    base = passing().evidence
    stand_in = replace(base.artifact, header=replace(base.artifact.header, stand_in=True))
    evidence: Evidence = replace(base, artifact=stand_in, quality=troubled())
    assert quality_parts.alerts_of(evidence) == ()
    assert quality_parts.alerts_of(replace(base, quality=troubled())) != ()


def test_tasks_and_layers_of_another_file_than_the_record_are_unknown() -> None:
    found = full()
    assert found.tasks is not None
    strange = replace(
        found,
        tasks=replace(found.tasks, answers=replace(found.tasks.answers, artifact_sha256="00" * 32)),
        layers=replace(layers(), artifact_sha256="00" * 32),
    )
    text = plain(render_quality(strange, "terminal", name="a.gguf"))
    assert text.count("found on another file") >= 2
    assert CLIFF not in text
    assert "blk.3" not in text
    assert quality_parts.alerts(strange) == ()


# ---- old and odd records ------------------------------------------------------------------------------------------

NEW_FIELDS = (
    "reference_form",
    "kld_lower",
    "kld_median",
    "kld_p90",
    "kld_p99",
    "kld_p999",
    "kld_max",
    "top5_agreement",
    "dp_rms",
    "tasks",
    "similarity",
    "identity",
    "layers",
    "template",
)


@pytest.mark.parametrize("form", QUALITY_FORMATS)
def test_records_of_the_version_before_stay_readable_and_look_the_same(form: str) -> None:
    old: dict[str, Any] = json.loads(to_json(quality(0.012)))
    for name in NEW_FIELDS:
        del old[name]
    for chunk in old["chunks"]:
        for name in ("top5", "dp2", "kld_lower", "token_kld"):
            del chunk[name]
    found = from_json(json.dumps(old), Quality, origin="old.json")
    assert found == quality(0.012)
    text = render_quality(found, form, name="zen.gguf")
    assert text
    if form != "json":
        assert "not recorded" not in text


def test_what_is_unknown_for_one_reason_is_said_once() -> None:
    broken = Unknown(reason="the artifact gives logits that are no numbers")
    every = ("kld_mean", "kld_median", "kld_p90", "kld_p99", "kld_p999", "kld_max")
    found = replace(spread(quality(0.01)), **dict.fromkeys(every, broken))  # type: ignore[arg-type]
    assert [row.text for row in scores.divergence(found)] == [f"unknown: {broken.reason}"]
    other = replace(found, kld_p999=Unknown(reason="too few tokens"))
    assert [row.label for row in scores.divergence(other)] == ["mean KL divergence", "KL divergence p99.9"]


def test_a_perfect_copy_has_no_logarithm_and_is_still_shown() -> None:
    zero = here(0.0, 0.0, 0.0)
    every = ("kld_mean", "kld_median", "kld_p90", "kld_p99", "kld_p999", "kld_max")
    found = replace(spread(quality(0.01)), **dict.fromkeys(every, zero))  # type: ignore[arg-type]
    assert quality_charts.spread_axis(found, {}) is None
    page = render_quality(found, "html", name="copy.gguf")
    assert "0 nat (no spread), measured-here" in page


def test_findings_of_answers_and_teacher_stand_among_the_findings() -> None:
    said = Finding(level="warning", code="slow", message="an answer took long")
    found = full()
    assert found.tasks is not None
    assert found.tasks.teacher is not None
    noisy = replace(
        found,
        findings=(said,),
        tasks=replace(
            found.tasks,
            answers=replace(found.tasks.answers, findings=(said,)),
            teacher=replace(found.tasks.teacher, findings=(said, replace(said, code="deaf", message="it was deaf"))),
        ),
    )
    messages = [one.message for one in facts.quality_findings(noisy)]
    assert messages.count("an answer took long") == 1
    assert "of the teacher: it was deaf" in messages
    assert "of the teacher: an answer took long" not in messages  # it is said of the host already
    assert "14 groups were probed together for lack of time" in messages


def test_formats_of_a_quality_record() -> None:
    assert json.loads(render_quality(full(), "json", name="a.gguf"))["kind"] == "quality"
    assert "of zen-72b-q8_0.gguf retained" in render_quality(full(), "html", name="a.gguf")
    with pytest.raises(EdgekitError, match="unknown quality format: `pdf`"):
        render_quality(full(), "pdf", name="a.gguf")


@pytest.mark.parametrize(
    ("found", "value", "what"),
    [
        (full(), "%", "of zen-72b-q8_0.gguf retained (90 % range"),
        (replace(full(), tasks=None), "nat", "mean KL divergence from zen-nano-1.5b-f16.gguf"),
        (replace(quality(0.01), kld_mean=Unknown(reason="none")), "", "perplexity (90 % range"),
        (
            replace(quality(0.01), kld_mean=Unknown(reason="none"), perplexity=Unknown(reason="few")),
            "unknown",
            "perplexity: few",
        ),
    ],
    ids=["tasks", "divergence", "perplexity", "unknown"],
)
def test_the_headline_is_the_most_telling_figure(found: Quality, value: str, what: str) -> None:
    shown, said = quality_parts.headline(found)
    assert shown.endswith(value)
    assert said.startswith(what)


# ---- charts -------------------------------------------------------------------------------------------------------


def rows_of(report: Report) -> Any:
    assert report.evidence.quality is not None
    assert report.evidence.quality.tasks is not None
    return domain_rows(report.evidence.quality.tasks, scores.lines_of(report))


def test_gates_are_drawn_where_they_lie_and_colour_what_they_judged() -> None:
    rows = rows_of(REPORTS["tasks"]())
    by_name = {row.name: row for row in rows}
    assert by_name["overall"].lines == (Line(limit=0.7, status="pass"),)
    assert by_name["coding"].status == "fail"
    assert by_name["reasoning"].lines == ()
    chart = str(quality_charts.retention_chart("c", rows))
    highs = [row.score.retention.high for row in rows]
    axis = axis_over([1.0, *highs], "fraction")
    for limit in (0.7, 0.6, 0.9):
        assert f'class="limit" x1="{axis.at(limit)}%" x2="{axis.at(limit)}%"' in chart
    assert chart.count('class="limit"') == 3
    assert 'class="fill fail"' in chart
    assert 'class="fill student"' in chart  # nothing judged: no verdict's colour
    assert "capability cliff" in chart


def test_what_the_judge_ruled_is_what_the_chart_shows() -> None:
    asked = (
        Gate(metric="quality_retention", min=0.7),
        Gate(metric="retention_coding", min=0.45),
        Gate(metric="retention_worst_domain", min=0.5),
        Gate(metric="kld_p99", max=0.1),
        Gate(metric="chat_template_kept", min=1.0),
    )
    gates = Gates(gates=asked, origin="ours.toml", sha256="ab" * 32)
    known = full()
    assert isinstance(known.kld_p99, Estimate)
    tokens = tuple(replace(one, token_kld=(known.kld_p99.value,) * one.tokens) for one in known.chunks)
    base = replace(passing().evidence, quality=replace(known, chunks=tokens))
    verdict = judge(base, load_device("galaxy-s25"), gates)
    report = Report(evidence=base, verdicts=(verdict,), exit_code=1)
    rulings = {check.metric: check.status for check in verdict.checks}
    assert rulings == {
        "quality_retention": "pass",
        "retention_coding": "unknown",
        "retention_worst_domain": "fail",
        "kld_p99": "fail",
        "chat_template_kept": "pass",
    }
    by_name = {row.name: row for row in rows_of(report)}
    assert by_name["overall"].status == "pass"
    assert [(line.limit, line.status) for line in by_name["coding"].lines] == [(0.45, "unknown"), (0.5, "fail")]
    assert by_name["coding"].status == "fail"
    page = render(report, "html")
    assert 'class="range fail"' in page[page.index("over the scored tokens") :]
    text = plain(render(report, "terminal"))
    assert text.count("800 items of 16 templates in `edgekit-tasks-1`") == 2  # why it passed, and how it was found


def test_of_equal_limits_the_worst_ruling_is_drawn_and_different_ones_apart() -> None:
    report = REPORTS["tasks"]()
    check = next(check for _, check in facts.all_checks(report) if check.metric == "quality_retention")
    first = report.verdicts[0]
    others = tuple(
        replace(first, checks=(replace(check, status=status, min=limit),))
        for status, limit in (("unknown", 0.7), ("pass", 0.7), ("fail", 0.9))
    )
    lines = scores.lines_of(replace(report, verdicts=(first, *others)))["quality_retention"]
    assert lines == (Line(limit=0.7, status="unknown"), Line(limit=0.9, status="fail"))


def test_the_gate_of_the_worst_domain_lies_on_that_domain() -> None:
    rows = domain_rows(tasks(), {"retention_worst_domain": (Line(limit=0.7, status="fail"),)})
    assert [row.name for row in rows if row.lines] == ["coding"]
    found = troubled().tasks  # an unknown domain may be worse than any
    assert found is not None
    rows = domain_rows(found, {"retention_worst_domain": (Line(limit=0.7, status="unknown"),)})
    assert [row.name for row in rows if row.lines] == ["conservation"]


def test_bars_end_at_the_value_and_whiskers_at_the_range() -> None:
    rows = domain_rows(tasks(), {})
    chart = str(quality_charts.accuracy_chart("c", rows))
    student = [
        float(width) for width in re.findall(r'class="fill student" x="0.0%" y="[\d.]+" width="([\d.]+)%"', chart)
    ]
    assert student == pytest.approx([100 * row.score.accuracy.value for row in rows], abs=0.01)  # type: ignore[union-attr]
    whiskers = re.findall(r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%" y1="([\d.]+)" y2="\3"', chart)
    teacher = rows[0].score.teacher_accuracy
    assert [float(end) for end in whiskers[1][:2]] == pytest.approx([100 * teacher.low, 100 * teacher.high], abs=0.01)  # type: ignore[union-attr]
    chance = re.findall(r'class="chance" x1="([\d.]+)%"', chart)
    assert [float(at) for at in chance] == pytest.approx([100 * row.score.chance for row in rows], abs=0.01)


def test_an_unknown_retention_is_hatched_and_named() -> None:
    found = troubled()
    assert found.tasks is not None
    chart = str(quality_charts.retention_chart("c", domain_rows(found.tasks, {})))
    assert chart.count('class="hatched"') == 1
    assert ">unknown</text>" in chart


def test_where_all_retention_is_unknown_a_note_says_so_and_nothing_is_drawn() -> None:
    base, why = tasks(), Unknown(reason="the teacher guesses")
    domains = tuple(replace(one, retention=why) for one in base.domains)
    found = replace(full(), tasks=replace(base, overall=replace(base.overall, retention=why), domains=domains))
    page = render(report_with(found), "html")
    assert "Retained of the teacher" not in page
    assert "verall: unknown, the teacher guesses; likewise factual" in page


def test_labels_leave_room_for_their_values_and_ticks_for_each_other() -> None:
    long = quality_charts.Bar(label="w" * 60, value="100 % (96–104), gate 90 %", lanes=())
    chart = str(quality_charts.bar_chart("c", "t", [long], axis_over([1.0], "fraction")))
    label = re.search(r'class="bar-label start " x="0%" y="[\d.]+">(w+…w+)<', chart)
    assert label is not None
    assert (len(label[1]) + len(long.value)) * 6.7 < 288
    for low in (2e-5, 2e-4, 3e-3):
        axis = log_axis_over([low, 90 * low], "nat")
        ticks = re.findall(
            r'class="tick-text \w+" x="([\d.]+)%" y="[\d.]+">([^<]+)<', str(quality_charts.spread_foot("c", axis))
        )
        assert len(ticks) >= 2
        for (left, one), (right, other) in pairwise(ticks):
            assert (float(right) - float(left)) * 2.88 > (len(one) + len(other)) / 2 * 6.7


def test_a_student_below_chance_hangs_to_the_left_of_zero() -> None:
    base = tasks()
    below = replace(base.overall, retention=here(-0.2, -0.3, -0.1))
    chart = str(quality_charts.retention_chart("c", domain_rows(replace(base, overall=below, domains=()), {})))
    axis = axis_over([1.0, -0.3, -0.1], "fraction")
    assert axis.at(0.0) > 0
    bar = re.search(r'class="fill student" x="([\d.]+)%" y="[\d.]+" width="([\d.]+)%"', chart)
    assert bar is not None
    assert float(bar[1]) == pytest.approx(axis.at(-0.2), abs=0.01)
    assert float(bar[1]) + float(bar[2]) == pytest.approx(axis.at(0.0), abs=0.01)


def test_quantiles_share_a_logarithmic_axis_with_their_gates() -> None:
    page = render(REPORTS["tasks"](), "html")
    table = page[page.index("over the scored tokens") :]
    table = table[: table.index("</table>")]
    assert len(re.findall(r'<circle class="middle', table)) == 5  # p99.9 is unknown
    assert table.count('class="hatched"') == 1
    assert 'class="range pass"' in table  # p99 cleared its gate
    assert table.count('class="limit"') == 1


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers_add_nothing_to_markdown_lists_or_alerts(kind: str) -> None:
    found = hostile(HOSTILE[kind]).evidence.quality
    assert found is not None
    for form in QUALITY_FORMATS:
        text = render_quality(found, form, name=HOSTILE[kind])
        if form != "json":
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text)
        if form in ("markdown", "html"):  # inside a code span GitHub escapes by itself
            assert "<script>window" not in re.sub(r"`[^`\n]*`", "", text)
    assert found.tasks is not None
    assert all(len(text) <= 400 for text in cliff_texts(found.tasks))
