"""What the artifact answered of a task bank, beside its teacher: rows a domain, cliffs, where answers were lost."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.records import Answer, Answers, DomainScore, Estimate, Figure, Quality, Status, Tasks, Unknown
from edgekit.report.facts import host_text, runtime_text
from edgekit.report.quality import Line, Lines, Part, Table, digest, settings_line, told
from edgekit.report.sweep_words import basis_of, short_text
from edgekit.report.words import Fact, clean
from edgekit.units import format_percent

READING = (
    "Retained is (student − chance) ÷ (teacher − chance): 0 % is guessing, 100 % the teacher. Its range is paired: "
    "both answered the same items."
)
ALONE_READING = "The share of the items answered rightly. Without a teacher's answers nothing is said of retention."
_MAX_TEMPLATES = 60
_NUMBERS = re.compile(r"[-−\d.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRow:
    """A domain, or all together (`overall`), with the gates its retention was judged by."""

    name: str
    score: DomainScore
    lines: tuple[Line, ...] = ()
    overall: bool = False
    cliff: bool = False

    @property
    def status(self) -> Status | None:
        """The worst ruling on this row's retention; `None` where no gate asks for it."""
        statuses = [line.status for line in self.lines]
        return min(statuses, key=("fail", "unknown", "pass").index) if statuses else None

    @property
    def against(self) -> float | None:
        """A limit that no rounding may make of the value."""
        return self.lines[0].limit if self.lines else None

    @property
    def retained(self) -> str:
        return short_text(self.score.retention, "fraction", self.against)


def domain_rows(tasks: Tasks, lines: Lines) -> tuple[DomainRow, ...]:
    """Overall first, then every domain in the record's order."""
    overall = DomainRow(
        name="overall", score=tasks.overall, lines=lines.get("quality_retention", ()), overall=True, cliff=False
    )
    return (
        overall,
        *(
            DomainRow(
                name=clean(score.domain, 40) or "unnamed",
                score=score,
                lines=_distinct((*lines.get(f"retention_{score.domain}", ()), *_worst_line(tasks, score, lines))),
                cliff=any(said == score.domain or said.startswith(f"{score.domain}:") for said in tasks.cliffs),
            )
            for score in tasks.domains
        ),
    )


def _worst_line(tasks: Tasks, score: DomainScore, lines: Lines) -> tuple[Line, ...]:
    """The gate of the worst domain lies on that domain alone."""
    worst = min(
        tasks.domains, key=lambda one: one.retention.value if isinstance(one.retention, Estimate) else -math.inf
    )
    return lines.get("retention_worst_domain", ()) if score is worst else ()


def _distinct(lines: Sequence[Line]) -> tuple[Line, ...]:
    return tuple({line.limit: line for line in lines}.values())


# ---- the part -----------------------------------------------------------------------------------------------------


def tasks_part(quality: Quality, lines: Lines) -> Part | None:
    """Right answers and retention by domain; `None` where nothing was asked."""
    tasks = quality.tasks
    if tasks is None:
        return None
    rows = domain_rows(tasks, lines)
    return Part(
        key="tasks",
        title=_title(tasks),
        reading=READING if tasks.teacher else ALONE_READING,
        table=_table(tasks, rows),
        rows=_basis(rows),
        notes=_unknowns(rows, tasks),
        folded=_templates(tasks),
        behind=_circumstances(tasks, quality),
    )


def _title(tasks: Tasks) -> str:
    asked = f"tasks: {tasks.overall.items} items of {clean(tasks.answers.bank, 60)}"
    return f"{asked}, beside {clean(tasks.teacher.model, 60)}" if tasks.teacher else asked


def _basis(rows: Sequence[DomainRow]) -> tuple[Fact, ...]:
    """What stands for every figure of the table, which has no room for it."""
    scores = [row.score for row in rows]
    basis = basis_of([figure for one in scores for figure in (one.accuracy, one.teacher_accuracy, one.retention)])
    return (Fact(label="all figures", value=f"{basis}, with 90 % ranges"),) if basis else ()


def _table(tasks: Tasks, rows: Sequence[DomainRow]) -> Table:
    beside = tasks.teacher is not None
    head = ("", "retained", "student", "teacher", "chance", "items") if beside else ("", "right", "chance", "items")
    return Table(
        title="by domain",
        head=head,
        rows=tuple(
            (
                row.name + (" (cliff)" if row.cliff else ""),
                *((row.retained,) if beside else ()),
                accuracy_text(row.score.accuracy),
                *((accuracy_text(row.score.teacher_accuracy),) if beside else ()),
                format_percent(row.score.chance),
                str(row.score.items),
            )
            for row in rows
        ),
    )


def accuracy_text(figure: Figure) -> str:
    """`78 % (76–80)`; never `100 %` for less."""
    return short_text(figure, "fraction", 1.0)


def cliff_texts(tasks: Tasks) -> tuple[str, ...]:
    """What a passing mean would hide, a line for every domain far below it."""
    return tuple(clean(said) for said in tasks.cliffs if said.strip())


def _unknowns(rows: Sequence[DomainRow], tasks: Tasks) -> tuple[str, ...]:
    """Why a share or a retention is unknown, and what would settle it; those that differ in their numbers alone follow
    the first.
    """
    found: dict[str, list[tuple[str, Unknown]]] = {}
    for row in rows:
        named: tuple[tuple[str, Figure], ...] = ((f"{row.name}, right answers", row.score.accuracy),)
        if tasks.teacher:
            named += ((f"{row.name}, the teacher's", row.score.teacher_accuracy), (row.name, row.score.retention))
        for name, figure in named:
            if isinstance(figure, Unknown):
                found.setdefault(_NUMBERS.sub("", figure.reason), []).append((name, figure))
    return tuple(_unknown([name for name, _ in alike], alike[0][1]) for alike in found.values())


def _unknown(names: Sequence[str], one: Unknown) -> str:
    settle = f"; {clean(one.settle)}" if one.settle else ""
    likewise = f"; likewise {', '.join(names[1:])}" if len(names) > 1 else ""
    return f"{names[0]}: unknown, {clean(one.reason)}{settle}{likewise}"


# ---- where answers were lost --------------------------------------------------------------------------------------


def _templates(tasks: Tasks) -> tuple[Table, ...]:
    """Counts by template, those that lost the most first: what lies behind a cliff."""
    theirs = {answer.item: answer.correct for answer in tasks.teacher.answers} if tasks.teacher else {}
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in tasks.answers.answers:
        groups.setdefault((answer.domain, answer.template), []).append(answer)
    if len(groups) < 2:
        return ()
    rows = sorted((_counts(key, group, theirs) for key, group in groups.items()), key=lambda row: (row[0], row[1]))
    shown = tuple(cells if theirs else (*cells[:2], cells[2]) for _, _, cells in rows[:_MAX_TEMPLATES])
    more = f", the first {_MAX_TEMPLATES} of {len(rows)}" if len(rows) > _MAX_TEMPLATES else ""
    head = ("template", "items", "right", "teacher right", "lost", "won") if theirs else ("template", "items", "right")
    order = "most lost first" if theirs else "fewest right first"
    return (Table(title=f"right answers by template, {order}{more}", head=head, rows=shown),)


def _counts(
    key: tuple[str, str], group: Sequence[Answer], theirs: dict[str, bool]
) -> tuple[float, str, tuple[str, ...]]:
    """(rank, name, cells): `lost` are the items that only the teacher answers rightly, `won` those that it does not."""
    right = sum(answer.correct for answer in group)
    pairs = [(answer.correct, theirs[answer.item]) for answer in group if answer.item in theirs]
    lost, won = sum(t and not s for s, t in pairs), sum(s and not t for s, t in pairs)
    rank = (won - lost) / len(group) if theirs else right / len(group)
    name = clean(f"{key[0]}: {key[1]}", 60)
    return rank, name, (name, str(len(group)), str(right), str(sum(t for _, t in pairs)), str(lost), str(won))


# ---- circumstances ------------------------------------------------------------------------------------------------


def _circumstances(tasks: Tasks, quality: Quality) -> tuple[Fact, ...]:
    answers, teacher = tasks.answers, tasks.teacher
    chosen = sum(answer.mode == "choice" for answer in answers.answers)
    modes = (
        f"{chosen} by the likelihood of the choices, {len(answers.answers) - chosen} by exact match of a short answer"
    )
    discordant = tasks.overall.discordant
    return told(
        (
            Fact(label="bank", value=f"{answers.bank}{digest(answers.bank_sha256)}"),
            Fact(label="judged", value=modes if answers.answers else ""),
            Fact(
                label="right of one only",
                value="" if discordant is None else f"{format_percent(discordant)} of the items",
            ),
            *_asked("", answers, quality),
            *((Fact(label="teacher", value=f"{teacher.model}{digest(teacher.artifact_sha256)}"),) if teacher else ()),
            *(_asked("teacher ", teacher, answers) if teacher else ()),
            *_judged_on(tasks),
        )
    )


def _asked(who: str, answers: Answers, before: Answers | Quality) -> tuple[Fact, ...]:
    """Settings, runtime and host, where they are not those said `before`."""
    settings, runtime, host = answers.settings, answers.runtime, answers.host
    return (
        Fact(label=f"{who}asked with", value=settings_line(settings, runtime) if settings != before.settings else ""),
        Fact(label=f"{who}run by", value=runtime_text(runtime) if runtime and runtime != before.runtime else ""),
        Fact(label=f"{who}ran on", value=host_text(host) if host and host != before.host else ""),
        Fact(label=f"{who}asked at", value=answers.started_at),
    )


def _judged_on(tasks: Tasks) -> tuple[Fact, ...]:
    """What each retention rests on, as its note says."""
    scores = (("overall", tasks.overall.retention), *((score.domain, score.retention) for score in tasks.domains))
    return tuple(
        Fact(label=f"retained, {name}", value=figure.note)
        for name, figure in scores
        if isinstance(figure, Estimate) and figure.note
    )
