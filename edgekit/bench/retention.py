"""How much of its teacher's skill a student has kept: the same items, answered by both.

retention = (student − chance) ÷ (teacher − chance), from shares of right answers, for each domain and for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.bench.answering import MAX_PICKED, identity_of
from edgekit.bench.kinship import one_model
from edgekit.bench.paired import Pairs, Range, lead_range, retention_ranges, share_range
from edgekit.corpus import Bank, Item
from edgekit.corpus.item import plain
from edgekit.errors import EdgekitError
from edgekit.records import Answer, Answers, DomainScore, Estimate, Figure, Tasks, Unknown
from edgekit.units import format_percent

_Asked = tuple[str, str, str, str, float]
OVERALL = "overall"
ENOUGH_ITEMS = 30
"""Below it no interval over items is to be trusted."""

NEAR_CHANCE = 0.10
"""A teacher within it of guessing has nothing to retain: the quotient would be noise."""

CLIFF = 0.15
"""Retention below the whole from which on a domain is called a cliff: five standard errors of a domain of 500 items
where 21 % of them divide student and teacher. Of 250 simulated banks of 400 items in four domains alike one had a
domain called so, of 1000 items none.
"""

WIDENED = 1.5
"""A range over templates so many times as wide as one over items is owed to the templates."""

_NO_TEACHER = Unknown(
    reason="no teacher was given",
    settle="save its answers once (`edgekit evaluate TEACHER --save teacher.json`), then add `--teacher teacher.json`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    score: DomainScore
    items_alone: Range | None = None
    """Of the retention, had these templates been the only ones that could be asked."""


def judge_answers(student: Answers, teacher: Answers | None = None) -> Tasks:
    """Accuracy and retention of `student`, overall and for each domain in the order of its items, with 90 % ranges.

    The ranges are paired, item by item, and clustered by template (`edgekit.bench.paired`). Retention is `Unknown`
    without a teacher, where the teacher's range over items comes within 10 points of chance, for fewer than 30 items,
    for random weights, and where teacher and student are one model; overall it is over all items, also of domains where
    it is unknown alone. `cliffs` names the domains whose retention is 15 points or more below the whole, beyond what
    the draw of items explains, whether or not the whole would pass a gate.

    Raises EdgekitError where no items were answered, and where the two answered different ones.
    """
    _check(student)
    if teacher is not None:
        _check_same(student, teacher)
    domains = list(dict.fromkeys(answer.domain for answer in student.answers))
    whole = _judge(None, student, teacher)
    parts = [_judge(domain, student, teacher) for domain in domains]
    return Tasks(
        answers=student,
        teacher=teacher,
        overall=whole.score,
        domains=tuple(part.score for part in parts),
        cliffs=tuple(_cliffs(whole, parts)),
    )


def check_teacher(teacher: Answers, bank: Bank) -> None:
    """Raise EdgekitError where `teacher` answered other items than `bank`'s: before a student is asked for an hour."""
    _check(teacher)
    if teacher.bank_sha256 != identity_of(bank):
        raise _other_items(teacher, len(bank.items), bank.name)
    _check_items(teacher, [(item.id, item.domain, item.template, item.mode, item.chance) for item in bank.items])
    for item, answer in zip(bank.items, teacher.answers, strict=True):
        if answer.correct != _is_right(item, answer.picked):
            counted = "right" if answer.correct else "wrong"
            message = f"the teacher's answers were edited: counted {counted} is `{item.id}`"
            raise EdgekitError(message, hint="save them anew")


def _is_right(item: Item, picked: str) -> bool:
    """Whether what was `picked`, as a record keeps it, answers `item`."""
    kept = item.answer.strip()[:MAX_PICKED]
    return picked == kept if item.mode == "choice" else plain(picked) == plain(kept)


def _judge(domain: str | None, student: Answers, teacher: Answers | None) -> _Judged:
    """One domain, or all of them."""
    places = [at for at, one in enumerate(student.answers) if domain in (None, one.domain)]
    own = [student.answers[at] for at in places]
    theirs = [teacher.answers[at] for at in places] if teacher is not None else own
    pairs = Pairs.of(own, theirs)
    score = DomainScore(
        domain=OVERALL if domain is None else domain,
        items=len(own),
        chance=sum(one.chance for one in own) / len(own),
        accuracy=_accuracy(pairs, student),
    )
    if teacher is None:
        return _Judged(score=replace(score, teacher_accuracy=_NO_TEACHER, retention=_NO_TEACHER))
    retention, items_alone = _retention(pairs, student, teacher)
    score = replace(
        score,
        teacher_accuracy=_accuracy(Pairs.of(theirs, theirs), teacher),
        retention=retention,
        discordant=pairs.discordant,
    )
    return _Judged(score=score, items_alone=items_alone)


# ---- figures ------------------------------------------------------------------------------------------------------


def _accuracy(pairs: Pairs, answers: Answers) -> Figure:
    if answers.stand_in:
        return _stand_in(answers)
    found = share_range(pairs)
    return Estimate(value=found.value, low=found.low, high=found.high, basis="measured-here")


def _retention(pairs: Pairs, student: Answers, teacher: Answers) -> tuple[Figure, Range | None]:
    """The figure, and its range over items alone."""
    doubt = _no_retention(pairs, student, teacher)
    if doubt is not None:
        return doubt, None
    ranges = retention_ranges(pairs)
    note = f"{len(pairs.student)} items of {pairs.templates} templates in `{student.bank}`"
    if ranges.both.width > WIDENED * ranges.items.width:
        note += "; templates differ: other templates would narrow the range, more items of these would not"
    figure = Estimate(
        value=ranges.both.value, low=ranges.both.low, high=ranges.both.high, basis="measured-here", note=note
    )
    return figure, ranges.items


def _no_retention(pairs: Pairs, student: Answers, teacher: Answers) -> Unknown | None:
    """Why there is no retention to speak of."""
    for answers in (student, teacher):
        if answers.stand_in:
            return _stand_in(answers)
    if same := one_model(student, teacher):
        return Unknown(reason=same, settle="answers of the real teacher")
    if len(pairs.student) < ENOUGH_ITEMS:
        return Unknown(
            reason=f"{len(pairs.student)} items are too few for a range to be trusted",
            settle=f"ask {ENOUGH_ITEMS} items or more of each domain (`--items`)",
        )
    lead = lead_range(pairs)
    if lead.low < NEAR_CHANCE:
        shown = f"{format_percent(lead.value)} ({format_percent(lead.low)} to {format_percent(lead.high)})"
        return Unknown(
            reason=f"the teacher is {shown} above chance, too near to it for a share of that to mean something",
            settle="a teacher that can do these tasks, or tasks that it can do",
        )
    return None


def _stand_in(answers: Answers) -> Unknown:
    return Unknown(
        reason=f"stand-in weights: random numbers know no answers (`{answers.model}`)", settle="judge the real student"
    )


def _cliffs(whole: _Judged, parts: Sequence[_Judged]) -> list[str]:
    """What a passing mean would hide. Over items alone: that these templates broke is what is to be told."""
    overall = whole.score.retention
    if not isinstance(overall, Estimate):
        return []
    found = []
    for part in parts:
        retained = part.score.retention
        if not isinstance(retained, Estimate) or part.items_alone is None:
            continue
        if retained.value <= overall.value - CLIFF and part.items_alone.high < overall.value:
            found.append(
                f"{part.score.domain}: {format_percent(retained.value)} retained, "
                f"{(overall.value - retained.value) * 100:.0f} points below the {format_percent(overall.value)} of all"
            )
    return found


# ---- what can be compared -----------------------------------------------------------------------------------------


def _check(answers: Answers) -> None:
    """Raise EdgekitError where there is nothing to judge, or what no run can have answered."""
    if not answers.answers:
        raise EdgekitError(f"no items were answered: `{answers.model}`", hint="answer a bank of tasks")
    if len({answer.item for answer in answers.answers}) < len(answers.answers):
        raise EdgekitError(f"an item is answered twice in the answers of `{answers.model}`")
    if not all(0 <= answer.chance < 1 for answer in answers.answers):
        raise EdgekitError(f"a chance level that cannot be in the answers of `{answers.model}`")


def _check_same(student: Answers, teacher: Answers) -> None:
    _check(teacher)
    if student.bank_sha256 != teacher.bank_sha256:
        raise _other_items(teacher, len(student.answers), student.bank)
    _check_items(teacher, [_asked(one) for one in student.answers])


def _check_items(teacher: Answers, asked: Sequence[_Asked]) -> None:
    """Raise EdgekitError where the answers are not those to the bank that they name: the file was edited."""
    for one, wanted in zip(teacher.answers, asked, strict=False):
        if _asked(one) != wanted:
            message = f"the teacher's answers are not those to the bank that they name, from item `{one.item}` on"
            raise EdgekitError(message, hint="save them anew")
    if len(teacher.answers) != len(asked):
        message = f"the teacher answered {len(teacher.answers)} items of a bank of `{len(asked)}`"
        raise EdgekitError(message, hint="save them anew")


def _other_items(teacher: Answers, items: int, bank: str) -> EdgekitError:
    return EdgekitError(
        f"the teacher answered other items ({len(teacher.answers)} of `{teacher.bank}`) than the artifact is asked: "
        f"{items} of `{bank}`",
        hint="save the teacher's answers anew, with the same tasks and as many items",
    )


def _asked(answer: Answer) -> _Asked:
    return answer.item, answer.domain, answer.template, answer.mode, answer.chance
