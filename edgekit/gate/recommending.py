"""Which of several builds of one model to ship: the best quality among those that pass, or none.

What was not measured never wins: a build of unknown quality is passed over, and figures of unlike runs are not ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from edgekit.gate.figures import quality_of
from edgekit.gate.judging import holds
from edgekit.intervals import mean_interval
from edgekit.records import Check, Estimate, Figure, Quality, Report, SweepRow, Unknown, Verdict, exact
from edgekit.units import format_bytes, format_number

IS_REFERENCE = "the reference itself"


def recommend(rows: Sequence[SweepRow], *, today: date | None = None) -> tuple[str, str]:
    """(target, reason): the row to ship, empty where none is, and one sentence with the figures that decide.

    Among rows whose every verdict passes, the one with the lowest upper bound of KLD; of those that cannot be told from
    it on the same text, the smallest. Where none passes, the reason names the one that comes nearest and what stops it.
    """
    passing = [row for row in rows if passes(row)]
    if not passing:
        return "", _nobody(rows, today or datetime.now(UTC).date())
    contenders = [_contender(row, rows) for row in passing]
    known = [one for one in contenders if isinstance(one.kld, Estimate)]
    if not known:
        return "", _no_quality(contenders)
    unlike = _unlike(known)
    if unlike:
        return "", unlike
    best = min(known, key=lambda one: (one.kld_high, one.size_bytes))
    tied = [one for one in known if one is best or _tied(one, best)]
    chosen = min(tied, key=lambda one: (one.size_bytes, one.kld_high))
    return chosen.target, _why(chosen, best, len(passing)) + _passed_over(contenders)


def passes(row: SweepRow) -> bool:
    """Whether the row was run to its end and every verdict on it passes."""
    report = row.report
    return report is not None and report.exit_code == 0 and bool(report.verdicts) and _all_pass(report)


def _all_pass(report: Report) -> bool:
    return all(verdict.status == "pass" for verdict in report.verdicts)


def kld_of(row: SweepRow, rows: Sequence[SweepRow]) -> Figure:
    """Mean KLD of a row; zero where the others were compared with it, unknown for random weights, another file's
    figures, and what nobody measured.
    """
    if row.report is None:
        return row.failed or Unknown(reason="not made")
    quality, own = quality_of(row.report.evidence), row.report.evidence.artifact.sha256
    references = {other.reference_sha256 for other in map(_quality, rows) if other} - {""}
    if own and references == {own} and not row.report.evidence.artifact.header.stand_in:
        return exact(0.0, "predicted", IS_REFERENCE)
    return quality.kld_mean if isinstance(quality, Quality) else quality


def _quality(row: SweepRow) -> Quality | None:
    return row.report.evidence.quality if row.report is not None else None


# ---- among those that pass ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contender:
    target: str
    size_bytes: int
    kld: Figure
    quality: Quality | None

    @property
    def kld_high(self) -> float:
        return self.kld.high if isinstance(self.kld, Estimate) else float("inf")

    @property
    def is_reference(self) -> bool:
        return isinstance(self.kld, Estimate) and self.kld.note == IS_REFERENCE


def _contender(row: SweepRow, rows: Sequence[SweepRow]) -> _Contender:
    assert row.report is not None
    size_bytes = row.report.evidence.artifact.header.size_bytes
    return _Contender(target=row.target, size_bytes=size_bytes, kld=kld_of(row, rows), quality=_quality(row))


def _unlike(known: Sequence[_Contender]) -> str:
    """Why figures cannot be ranked: they come from different texts or references; empty where they can."""
    measured = [one for one in known if one.quality is not None and not one.is_reference]
    if not measured:
        return ""
    first = measured[0]
    for other in measured[1:]:
        for name, value in _circumstances(other):
            if value != dict(_circumstances(first))[name]:
                return (
                    f"`{first.target}` and `{other.target}` both pass, but their KLD cannot be compared: "
                    f"it was measured with another {name}"
                )
    return ""


def _circumstances(one: _Contender) -> tuple[tuple[str, object], ...]:
    quality = one.quality
    assert quality is not None
    return (
        ("reference", quality.reference_sha256 or quality.reference),
        ("text", quality.text_sha256),
        ("context", quality.context_tokens),
        ("number of chunks", tuple(chunk.tokens for chunk in quality.chunks)),
    )


def _tied(one: _Contender, best: _Contender) -> bool:
    """Whether the text does not tell the two apart: its chunks pairwise, or else overlapping ranges."""
    pairs = _paired(one, best)
    if len(pairs) < 2:
        return isinstance(best.kld, Estimate) and isinstance(one.kld, Estimate) and one.kld.low <= best.kld.high
    interval = mean_interval(pairs)
    return interval is not None and interval[0] <= 0.0


def _paired(one: _Contender, best: _Contender) -> list[float]:
    """Difference of KLD per token, chunk by chunk; a reference diverges nowhere from itself."""
    mine, other = _chunk_klds(one), _chunk_klds(best)
    if one.is_reference and not best.is_reference:
        mine = [0.0] * len(other)
    elif best.is_reference and not one.is_reference:
        other = [0.0] * len(mine)
    return [a - b for a, b in zip(mine, other, strict=True)] if len(mine) == len(other) else []


def _chunk_klds(one: _Contender) -> list[float]:
    chunks = one.quality.chunks if one.quality is not None else ()
    return [chunk.kld / chunk.tokens for chunk in chunks if chunk.kld is not None and chunk.tokens]


# ---- in words -----------------------------------------------------------------------------------------------------


def _why(chosen: _Contender, best: _Contender, passing: int) -> str:
    said = f"`{chosen.target}` passes with {_kld_text(chosen)} and {format_bytes(chosen.size_bytes)}"
    if passing == 1:
        return f"{said}, the only one that does"
    if chosen is best:
        return f"{said}, the least KLD of the {passing} that pass"
    return (
        f"{said}: the smallest of those that this text cannot tell from the best, "
        f"`{best.target}` with {_kld_text(best)} and {format_bytes(best.size_bytes)}"
    )


def _kld_text(one: _Contender) -> str:
    kld = one.kld
    assert isinstance(kld, Estimate)
    if one.is_reference:
        return "KLD 0, as it is the reference itself"
    value = format_number(kld.value, "nat")
    low, high = (format_number(end, "nat").removesuffix(" nat") for end in (kld.low, kld.high))
    return f"KLD {value} ({low} to {high})"


def _passed_over(contenders: Sequence[_Contender]) -> str:
    without = [one for one in contenders if isinstance(one.kld, Unknown)]
    return f"; passed over, for want of a known quality: {_names(without)}" if without else ""


def _no_quality(contenders: Sequence[_Contender]) -> str:
    first = contenders[0]
    assert isinstance(first.kld, Unknown)
    return (
        f"none is recommended: {_names(contenders)} meet{'s' if len(contenders) == 1 else ''} every required gate, "
        f"but of unknown quality ({first.kld.reason})"
    )


def _names(some: Sequence[_Contender]) -> str:
    return ", ".join(f"`{one.target}`" for one in some)


# ---- where none passes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Obstacles:
    """The required checks that stop a row, failing ones and unknown ones, on every device judged."""

    failing: tuple[tuple[Verdict, Check], ...]
    unknown: tuple[tuple[Verdict, Check], ...]

    @property
    def worst(self) -> tuple[Verdict, Check] | None:
        """What stops it most: the failing check that misses by most, else the unknown one."""
        return max(self.failing or self.unknown, key=lambda one: shortfall(one[1]), default=None)


def _nobody(rows: Sequence[SweepRow], today: date) -> str:
    judged = [(row.target, row.report, _obstacles(row.report, today), _rank(row, rows)) for row in rows if row.report]
    if not judged:
        first = next((row for row in rows if row.failed is not None), None)
        why = f": `{first.target}` ({first.failed.reason})" if first is not None and first.failed is not None else ""
        return f"no target could be judged{why}"
    target, report, obstacles, _ = min(judged, key=lambda one: (*_distance(one[1], one[2]), *one[3]))
    return f"no target passes; `{target}` comes nearest, {_stopped_by(report, obstacles)}"


def _rank(row: SweepRow, rows: Sequence[SweepRow]) -> tuple[float, int]:
    kld = kld_of(row, rows)
    size_bytes = row.report.evidence.artifact.header.size_bytes if row.report is not None else 0
    return (kld.high if isinstance(kld, Estimate) else float("inf"), size_bytes)


def _obstacles(report: Report, today: date) -> _Obstacles:
    leaves = [leaf for verdict in report.verdicts for leaf in verdict.members or (verdict,)]
    stopping = [
        (leaf, check)
        for leaf in leaves
        for check in leaf.checks
        if check.level == "required"
        and check.status != "pass"
        and not (check.waiver is not None and holds(check.waiver, today))
    ]
    return _Obstacles(
        failing=tuple(one for one in stopping if one[1].status == "fail"),
        unknown=tuple(one for one in stopping if one[1].status == "unknown"),
    )


def _distance(report: Report, obstacles: _Obstacles) -> tuple[bool, int, float, int, float]:
    """How far from passing, for ordering: a broken run last, then by failing checks, then by unknown ones."""
    return (
        report.exit_code == 4,
        len(obstacles.failing),
        max((shortfall(check) for _, check in obstacles.failing), default=0.0),
        len(obstacles.unknown),
        max((shortfall(check) for _, check in obstacles.unknown), default=0.0),
    )


def shortfall(check: Check) -> float:
    """How much is missing as a fraction of the limit; all of it where nothing is known."""
    return -check.margin if check.margin is not None else 1.0


def _stopped_by(report: Report, obstacles: _Obstacles) -> str:
    worst = obstacles.worst
    if worst is None:
        reasons = [verdict.reason for verdict in report.verdicts if verdict.status != "pass"]
        return f"stopped because {reasons[0]}" if reasons else f"but ended with exit code {report.exit_code}"
    leaf, check = worst
    where = f" on {leaf.device_title}" if leaf not in report.verdicts else ""
    others = len(obstacles.failing) + len(obstacles.unknown) - 1
    more = f"; {others} more required check{'s' if others > 1 else ''} not met or not known" if others else ""
    return f"stopped by {check.title}{where}: {check.reason}{more}"
