"""What a sweep says of each target, in the figures every format shows: one row a target, none left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edgekit.gate.figures import quality_of
from edgekit.gate.recommending import IS_REFERENCE, kld_of, shortfall
from edgekit.records import (
    Case,
    Check,
    Estimate,
    Figure,
    Measurement,
    MemoryBreakdown,
    Projection,
    Quality,
    Report,
    Sweep,
    SweepRow,
    Unknown,
    Verdict,
    weakest,
)
from edgekit.report.facts import all_checks, leaves
from edgekit.report.words import clean
from edgekit.summary import speed

OVER = "over "
"""How the note of a figure over the devices of a class begins."""

Key = Literal["pass", "fail", "unknown", "broke"]
WORDS: dict[Key, str] = {"pass": "PASS", "fail": "FAIL", "unknown": "UNKNOWN", "broke": "FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One target. Figures on the device are those the gate judged, or else those of the case; over the devices of a
    class they reach from the lowest to the highest range.
    """

    target: str
    key: Key
    reason: str
    settle: str = ""
    recommended: bool = False
    report: Report | None = None
    file: Figure
    memory: Figure
    decode: Figure
    prefill: Figure
    decode_here: Figure
    prefill_here: Figure
    tests_here: tuple[str, str] = ("tg128", "pp512")
    kld: Figure
    top1: Figure
    perplexity: Figure

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure of the row."""
        quality = (self.kld, self.top1, self.perplexity)
        return (self.file, self.memory, self.decode, self.prefill, self.decode_here, self.prefill_here, *quality)

    @property
    def word(self) -> str:
        return WORDS[self.key]

    @property
    def is_reference(self) -> bool:
        """The others' quality was held against this one."""
        return isinstance(self.kld, Estimate) and self.kld.note == IS_REFERENCE

    @property
    def obstacles(self) -> tuple[tuple[Verdict, Check], ...]:
        """The checks that do not pass, with the device each is of: required ones first, then failing ones, then what is
        furthest from passing.
        """
        checks = all_checks(self.report) if self.report else ()
        order = {"fail": 0, "unknown": 1}
        short = [one for one in checks if one[1].status != "pass"]
        return tuple(
            sorted(short, key=lambda one: (one[1].level != "required", order[one[1].status], -shortfall(one[1])))
        )


def lines(sweep: Sweep) -> tuple[Line, ...]:
    """A line for every target, in the order they were asked for."""
    return tuple(_line(row, sweep) for row in sweep.rows)


def _line(row: SweepRow, sweep: Sweep) -> Line:
    if row.report is None:
        return _failed_line(row)
    report = row.report
    status, reason = _verdict(report)
    tests = _tests_here(report.evidence.measurement)
    quality = quality_of(report.evidence)
    return Line(
        target=clean(row.target, 60),
        key="broke" if report.exit_code == 4 else status,
        reason=reason,
        recommended=bool(sweep.recommended) and row.target == sweep.recommended,
        report=report,
        file=Estimate(
            value=report.evidence.artifact.header.size_bytes,
            low=report.evidence.artifact.header.size_bytes,
            high=report.evidence.artifact.header.size_bytes,
            basis="predicted",
        ),
        memory=_on_devices(report, "memory_bytes", _case_memory),
        decode=_on_devices(report, "decode_tokens_per_s", _projected(lambda projection: projection.decode)),
        prefill=_on_devices(report, "prefill_tokens_per_s", _projected(lambda projection: projection.prefill)),
        decode_here=_here(report.evidence.measurement, tests[0]),
        prefill_here=_here(report.evidence.measurement, tests[1]),
        tests_here=tests,
        kld=kld_of(row, sweep.rows),
        top1=quality.top1_agreement if isinstance(quality, Quality) else quality,
        perplexity=quality.perplexity if isinstance(quality, Quality) else quality,
    )


def _failed_line(row: SweepRow) -> Line:
    why = row.failed or Unknown(reason="nothing was recorded of it")
    size = row.artifact.header.size_bytes if row.artifact else None
    file: Figure = why if size is None else Estimate(value=size, low=size, high=size, basis="predicted")
    return Line(
        target=clean(row.target, 60),
        key="broke",
        reason=why.reason,
        settle=why.settle,
        file=file,
        memory=why,
        decode=why,
        prefill=why,
        decode_here=why,
        prefill_here=why,
        kld=why,
        top1=why,
        perplexity=why,
    )


def _verdict(report: Report) -> tuple[Literal["pass", "fail", "unknown"], str]:
    """The worst of the report's verdicts and its reason."""
    order = ("fail", "unknown", "pass")
    worst = min(report.verdicts, key=lambda verdict: order.index(verdict.status), default=None)
    return (worst.status, worst.reason) if worst is not None else ("unknown", "nothing was judged")


# ---- figures ------------------------------------------------------------------------------------------------------


def _on_devices(report: Report, metric: str, of_case: Callable[[Case], Figure]) -> Figure:
    """The figure of every device judged: the one its gate judged, or else the case's own."""
    judged = {
        leaf.device: check.figure
        for verdict in report.verdicts
        for leaf in leaves(verdict)
        for check in leaf.checks
        if check.metric == metric
    }
    return over_devices([judged.get(case.device) or of_case(case) for case in report.evidence.cases])


def over_devices(figures: Sequence[Figure]) -> Figure:
    """One figure for the devices of a class: the median of their values, and from the lowest to the highest range.

    Devices of which nothing is known are counted in the note; unknown where that is so of all.
    """
    known = [figure for figure in figures if isinstance(figure, Estimate)]
    if not known:
        return next(iter(figures), Unknown(reason="no device was judged"))
    if len(set(figures)) == 1:
        return known[0]
    of = f"{len(known)} of {len(figures)} devices" if len(known) < len(figures) else f"{len(figures)} devices"
    return Estimate(
        value=median(figure.value for figure in known),
        low=min(figure.low for figure in known),
        high=max(figure.high for figure in known),
        basis=weakest(tuple(figure.basis for figure in known)),
        note=f"{OVER}{of}",
    )


def _case_memory(case: Case) -> Figure:
    return case.memory.working_set if isinstance(case.memory, MemoryBreakdown) else case.memory


def _projected(figure: Callable[[Projection], Figure]) -> Callable[[Case], Figure]:
    return lambda case: figure(case.projection) if isinstance(case.projection, Projection) else case.projection


def _tests_here(measurement: Measurement | None) -> tuple[str, str]:
    """The tests of decode and prefill that the workload ran."""
    if measurement is None:
        return "tg128", "pp512"
    generated, prompt = measurement.workload.generated_tokens, measurement.workload.prompt_tokens
    return f"tg{next(iter(generated), 128)}", f"pp{next(iter(prompt), 512)}"


def _here(measurement: Measurement | None, test: str) -> Figure:
    return speed(measurement, test) if measurement is not None else Unknown(reason="it was not run here")


def front(rows: Sequence[Line]) -> tuple[Line, ...]:
    """The targets to which no other is both smaller and nearer to the reference, by rising size; of central values."""
    placed = [row for row in rows if isinstance(row.file, Estimate) and isinstance(row.kld, Estimate)]
    placed.sort(key=lambda row: (_value(row.file), _value(row.kld)))
    kept: list[Line] = []
    for row in placed:
        if not kept or _value(row.kld) < _value(kept[-1].kld):
            kept.append(row)
    return tuple(kept)


def _value(figure: Figure) -> float:
    assert isinstance(figure, Estimate)
    return figure.value
