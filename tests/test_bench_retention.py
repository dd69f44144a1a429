"""Students judged against teachers: what is retained, what cannot be said, and what a mean would hide."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgekit import corpus
from edgekit.bench import check_teacher, judge_answers
from edgekit.bench.answering import identity_of
from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import Answer, Answers, DomainScore, Estimate, Figure, Unknown
from edgekit.storage import from_json, to_json

DOMAINS = ("factual", "reasoning", "coding", "conservation")


def answers(model: str, right: dict[str, float], *, each: int = 500, templates: int = 6, own: int = 0) -> Answers:
    """Exactly `right` of `each` items of a domain, the same ones for the same share; `own` shuffles which."""
    found = []
    for domain, share in right.items():
        order = list(range(each))
        random.Random(f"{domain}{own}").shuffle(order)
        found += [
            Answer(
                item=f"{domain}-{at}",
                domain=domain,
                template=f"{domain} {at % templates}",
                mode="choice",
                correct=order[at] < round(share * each),
                chance=0.25,
            )
            for at in range(each)
        ]
    return Answers(
        edgekit_version="0",
        model=model,
        artifact_sha256=(model[0] * 64),
        bank="edgekit-tasks-1",
        bank_sha256="ba" * 32,
        answers=tuple(found),
    )


def evenly(share: float) -> dict[str, float]:
    return dict.fromkeys(DOMAINS, share)


TEACHER = answers("teacher", evenly(0.85))


def known(figure: Figure) -> Estimate:
    assert isinstance(figure, Estimate), figure
    assert figure.basis == "measured-here"
    return figure


def why(score: DomainScore) -> str:
    assert isinstance(score.retention, Unknown), score.retention
    return score.retention.reason


def test_retention_is_what_is_left_above_chance() -> None:
    tasks = judge_answers(answers("student", evenly(0.73)), TEACHER)
    overall = tasks.overall
    assert (overall.domain, overall.items, overall.chance) == ("overall", 2000, 0.25)
    assert known(overall.accuracy).value == pytest.approx(0.73)
    assert known(overall.teacher_accuracy).value == pytest.approx(0.85)
    assert known(overall.retention).value == pytest.approx((0.73 - 0.25) / (0.85 - 0.25))
    assert overall.discordant == pytest.approx(0.12)
    assert [score.domain for score in tasks.domains] == list(DOMAINS)
    assert [known(score.retention).value for score in tasks.domains] == pytest.approx([0.8] * 4)
    # a quarter of the items: twice the width, or more
    widths = [known(score.retention).high - known(score.retention).low for score in tasks.domains]
    assert all(1.5 < width / (known(overall.retention).high - known(overall.retention).low) < 4 for width in widths)
    assert tasks.cliffs == ()
    assert "2000 items of 24 templates in `edgekit-tasks-1`" in known(overall.retention).note


def test_chance_is_the_items_own() -> None:
    """Two choices here, none there: what guessing scores differs."""
    student, teacher = answers("student", evenly(0.73)), TEACHER
    mixed = [
        tuple(replace(one, chance=0.5 if one.domain == "coding" else 0.0) for one in some.answers)
        for some in (student, teacher)
    ]
    tasks = judge_answers(replace(student, answers=mixed[0]), replace(teacher, answers=mixed[1]))
    assert known(tasks.domains[0].retention).value == pytest.approx(0.73 / 0.85)
    assert known(tasks.domains[2].retention).value == pytest.approx(0.23 / 0.35)
    assert known(tasks.overall.retention).value == pytest.approx((0.73 - 0.125) / (0.85 - 0.125))


def test_a_student_that_answers_like_its_teacher_keeps_a_width() -> None:
    for share in (1.0, 0.85):
        figure = known(
            judge_answers(answers("student", evenly(share)), answers("teacher", evenly(share))).overall.retention
        )
        assert figure.value == pytest.approx(1.0)
        # three in n: what may be hidden where nothing was seen
        assert figure.low < 1 - 2 / 2000
        assert figure.high > 1 + 2 / 2000
        assert figure.low > 0.99


def test_a_student_may_be_better_or_worse_than_guessing() -> None:
    better = known(judge_answers(answers("student", evenly(0.95)), TEACHER).overall.retention)
    assert better.low > 1
    worse = known(judge_answers(answers("student", evenly(0.1)), TEACHER).overall.retention)
    assert worse.high < 0


def test_without_a_teacher_there_is_accuracy_alone() -> None:
    tasks = judge_answers(answers("student", evenly(0.73)))
    assert known(tasks.overall.accuracy).value == pytest.approx(0.73)
    assert tasks.teacher is None
    assert "no teacher" in why(tasks.overall)
    assert isinstance(tasks.overall.retention, Unknown)
    assert "--teacher" in tasks.overall.retention.settle
    assert isinstance(tasks.overall.teacher_accuracy, Unknown)
    assert tasks.overall.discordant is None


# ---- what cannot be said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "unknown"), [(0.25, True), (0.34, True), (0.36, True), (0.40, False)])
def test_a_teacher_near_chance_has_nothing_to_retain(share: float, unknown: bool) -> None:
    """0.36 is more than ten points above it, but not surely."""
    teacher = answers("teacher", evenly(share))
    tasks = judge_answers(answers("student", evenly(0.3), own=1), teacher)
    assert isinstance(tasks.overall.retention, Unknown) == unknown
    if unknown:
        assert "above chance" in why(tasks.overall)


def test_one_domain_near_chance_leaves_the_others_known() -> None:
    teacher = answers("teacher", {**evenly(0.85), "coding": 0.26})
    tasks = judge_answers(answers("student", {**evenly(0.73), "coding": 0.25}), teacher)
    assert "above chance" in why(tasks.domains[2])
    assert all(isinstance(score.retention, Estimate) for score in (*tasks.domains[:2], tasks.domains[3], tasks.overall))


def test_few_items_and_stand_ins_and_itself_are_unknown() -> None:
    few = judge_answers(answers("student", evenly(0.8), each=20), answers("teacher", evenly(0.9), each=20))
    assert all("too few" in why(score) for score in few.domains)
    assert isinstance(few.overall.retention, Estimate)
    student = answers("student", evenly(0.73))
    for pair in ((replace(student, stand_in=True), TEACHER), (student, replace(TEACHER, stand_in=True))):
        assert "stand-in" in why(judge_answers(*pair).overall)
    assert isinstance(judge_answers(replace(student, stand_in=True)).overall.accuracy, Unknown)
    itself = replace(TEACHER, model="copy")
    assert "this very artifact" in why(judge_answers(itself, TEACHER).overall)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(TEACHER, bank_sha256="cd" * 32), "other items"),
        (replace(TEACHER, answers=TEACHER.answers[:-1]), "1999"),
        (replace(TEACHER, answers=TEACHER.answers[::-1]), "conservation-499"),
        (replace(TEACHER, answers=(replace(TEACHER.answers[0], chance=0.2), *TEACHER.answers[1:])), "factual-0"),
        (replace(TEACHER, answers=(TEACHER.answers[0], *TEACHER.answers)), "twice"),
        (replace(TEACHER, answers=()), "no items"),
    ],
)
def test_a_teacher_that_answered_something_else_is_refused(changed: Answers, says: str) -> None:
    with pytest.raises(EdgekitError, match=says) as caught:
        judge_answers(answers("student", evenly(0.73)), changed)
    assert caught.value.code == ExitCode.USAGE


def test_a_teacher_is_refused_before_a_student_is_asked() -> None:
    item = corpus.Item(id="a", domain="d", template="t", prompt="p", answer="x", choices=("x", "y"))
    bank = corpus.Bank(name="own.jsonl", items=(item, replace(item, id="b", mode="generate", choices=())))
    given = tuple(
        Answer(item=one.id, domain="d", template="t", mode=one.mode, correct=True, chance=one.chance, picked="x")
        for one in bank.items
    )
    teacher = replace(TEACHER, bank_sha256=identity_of(bank), answers=given)
    check_teacher(teacher, bank)
    for answers_, says in (
        (given[:1], "1 items of a bank of `2`"),
        (given[::-1], "from item `b` on"),
        ((given[0], replace(given[1], mode="choice")), "from item `b` on"),
        ((replace(given[0], chance=0.25), given[1]), "from item `a` on"),
        ((replace(given[0], chance=2.0), given[1]), "chance"),
        ((), "no items"),
        ((replace(given[0], correct=False), given[1]), "were edited: .*wrong.*`a`"),
        ((given[0], replace(given[1], picked="y")), "were edited: .*right.*`b`"),
    ):
        with pytest.raises(EdgekitError, match=says):
            check_teacher(replace(teacher, answers=answers_), bank)
    with pytest.raises(EdgekitError, match=r"2000 of `edgekit-tasks-1`.*2 of `own.jsonl`"):
        check_teacher(TEACHER, bank)


def test_impossible_answers_are_refused() -> None:
    sure = replace(TEACHER, answers=(replace(TEACHER.answers[0], chance=1.0), *TEACHER.answers[1:]))
    with pytest.raises(EdgekitError, match="chance"):
        judge_answers(sure)
    with pytest.raises(EdgekitError, match="no items"):
        judge_answers(replace(TEACHER, answers=()))


# ---- what a mean hides --------------------------------------------------------------------------------------------


def test_a_domain_far_below_the_mean_is_a_cliff_though_the_mean_passes() -> None:
    student = answers("student", {**evenly(0.84), "coding": 0.5})
    tasks = judge_answers(student, TEACHER)
    assert known(tasks.overall.retention).value > 0.8
    (cliff,) = tasks.cliffs
    assert cliff.startswith("coding: 42 % retained, 42 points below the 84 % of all")


def test_a_domain_somewhat_below_is_none() -> None:
    assert judge_answers(answers("student", {**evenly(0.78), "coding": 0.7}), TEACHER).cliffs == ()


def test_chance_makes_no_cliff() -> None:
    """Of few items a domain may well be 15 points below by the draw."""
    teacher = answers("teacher", evenly(0.85), each=40)
    student = answers("student", {**evenly(0.775), "coding": 0.65}, each=40)
    assert judge_answers(student, teacher).cliffs == ()


def test_cliffs_are_rare_where_there_are_none() -> None:
    """Four domains alike: what the draw of items alone calls a cliff."""
    called = {100: 0, 500: 0}
    for each, runs in ((100, 40), (500, 10)):
        for run in range(runs):
            dice = random.Random(run)
            teacher = answers("teacher", evenly(0.85), each=each)
            shifted = [replace(one, correct=dice.random() < (0.806 if one.correct else 0.3)) for one in teacher.answers]
            student = replace(answers("student", evenly(0), each=each), answers=tuple(shifted))
            called[each] += bool(judge_answers(student, teacher).cliffs)
    assert called[100] <= 3
    assert called[500] == 0


def test_ranges_are_wider_where_whole_templates_were_lost() -> None:
    """The same share lost, here spread over all templates, there all in two of six."""
    spread = answers("student", evenly(0.68))
    lost = tuple(
        replace(
            one,
            correct=theirs.correct
            and not (int(one.item.split("-")[1]) % 6 < 1 or int(one.item.split("-")[1]) % 30 == 1),
        )
        for one, theirs in zip(spread.answers, TEACHER.answers, strict=True)
    )
    clustered = replace(spread, answers=lost)
    even, apart = (known(judge_answers(one, TEACHER).overall.retention) for one in (spread, clustered))
    assert even.value == pytest.approx(apart.value, abs=0.03)
    assert apart.high - apart.low > 3 * (even.high - even.low)
    assert "templates differ" in apart.note
    assert "templates differ" not in even.note


def test_the_record_survives_a_file() -> None:
    tasks = judge_answers(
        answers("student", {**evenly(0.84), "coding": 0.5}, each=40), answers("t", evenly(0.9), each=40)
    )
    assert from_json(to_json(tasks), type(tasks), origin="test") == tasks
