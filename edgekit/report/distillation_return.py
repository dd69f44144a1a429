"""What distilling brought: the artifact beside its teacher's full-precision build, figure by figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from edgekit.records import (
    Basis,
    Battery,
    Case,
    Estimate,
    Evidence,
    Figure,
    Lineage,
    MemoryBreakdown,
    Projection,
    Report,
    Unknown,
    exact,
    weakest,
)
from edgekit.report.distillation_words import count_text
from edgekit.report.quality import Part, Table, told
from edgekit.report.sweep_words import short_text
from edgekit.report.words import Fact, clean
from edgekit.summary import basis_of, summarize

READING = (
    "The file that ships beside the teacher's own full-precision build, run and projected alike. A ratio below one is "
    "less than the teacher's. Figures of a device are projected or estimated for each alone, so the ranges of their "
    "ratios are wide: what both share is not taken out."
)
NO_TEACHER = Unknown(
    reason="the teacher's own build was not run: its answers were saved elsewhere",
    settle="run the walk without saved answers, where the teacher fits",
)
THOUSAND = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A figure of both, and artifact ÷ teacher."""

    label: str
    unit: str
    teacher: Figure
    artifact: Figure
    ratio: Figure

    @property
    def basis(self) -> str:
        """The weaker of the two."""
        return self.ratio.basis if isinstance(self.ratio, Estimate) else ""


def return_part(report: Report, lineage: Lineage) -> Part:
    """The pairs as a table, and what of the size is fewer weights and what is fewer bits."""
    pairs = pairs_of(report, lineage)
    head = ("", "teacher", "artifact", "artifact ÷ teacher", "basis")
    rows = tuple(
        (
            clean(one.label, 120),
            _text(one.teacher, one.unit),
            _text(one.artifact, one.unit),
            ratio_text(one.ratio),
            one.basis,
        )
        for one in pairs
    )
    return Part(
        key="return",
        title="what it brought",
        reading=READING,
        table=Table(title="teacher and artifact", head=head, rows=rows, prose=True),
        rows=told((Fact(label="of the file’s size", value=_of_size(report.evidence, lineage)),)),
        notes=tuple(dict.fromkeys(_whys(pairs))),
    )


def _text(figure: Figure, unit: str) -> str:
    """Parameters are counted; what has a unit has a range."""
    return count_text(figure.value) if not unit and isinstance(figure, Estimate) else short_text(figure, unit)


def ratio_text(figure: Figure) -> str:
    """`0.0731 (0.0689–0.0779)`."""
    if isinstance(figure, Unknown):
        return "unknown"
    span = "" if figure.low == figure.high else f" ({figure.low:.3g}–{figure.high:.3g})"
    return f"{figure.value:.3g}{span}"


def _whys(pairs: tuple[Pair, ...]) -> Iterator[str]:
    """Why a figure is unknown, each reason once with the figures it is of."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        for figure in (pair.teacher, pair.artifact, pair.ratio):
            if isinstance(figure, Unknown):
                labels = found.setdefault(clean(figure.reason), [])
                labels += [] if pair.label in labels else [clean(pair.label, 80)]
    yield from (f"{', '.join(labels)}: {reason}" for reason, labels in found.items())


def pairs_of(report: Report, lineage: Lineage) -> tuple[Pair, ...]:
    """Parameters, size, what was measured here, and what is said of every device."""
    mine, theirs, chain = report.evidence, lineage.teacher, lineage.distillation
    parameters = (exact(chain.teacher.parameters, "predicted"), exact(chain.student.parameters, "predicted"))
    pairs = [_pair("parameters", "", *parameters)]
    pairs.append(_pair("file", "bytes", _size(theirs), _size(mine)))
    pairs += _measured(mine, lineage)
    pairs += _on_devices(mine, theirs)
    return tuple(pairs)


def _pair(label: str, unit: str, teacher: Figure, artifact: Figure, ratio: Figure | None = None) -> Pair:
    found = divided(artifact, teacher) if ratio is None else ratio
    return Pair(label=label, unit=unit, teacher=teacher, artifact=artifact, ratio=found)


def divided(new: Figure, base: Figure) -> Figure:
    """`new` ÷ `base` with the widest range that both leave open."""
    for figure in (base, new):
        if isinstance(figure, Unknown):
            return figure
    assert isinstance(new, Estimate)
    assert isinstance(base, Estimate)
    if base.low <= 0:
        return Unknown(reason="nothing can be divided by a figure that may be zero")
    return Estimate(
        value=new.value / base.value,
        low=min(new.low / base.high, new.value / base.value),
        high=max(new.high / base.low, new.value / base.value),
        basis=weakest((new.basis, base.basis)),
    )


def _size(evidence: Evidence | None) -> Figure:
    return NO_TEACHER if evidence is None else exact(evidence.artifact.header.size_bytes, "predicted")


def _of_size(evidence: Evidence, lineage: Lineage) -> str:
    """How the size came down: weights that are gone, and bits of those that are left."""
    chain, teacher = lineage.distillation, lineage.teacher
    if teacher is None or min(chain.student.parameters, chain.teacher.parameters) < 1:
        return ""
    fewer = chain.student.parameters / chain.teacher.parameters
    mine, theirs = evidence.artifact.header, teacher.artifact.header
    if min(mine.size_bytes, theirs.size_bytes) < 1:
        return ""
    bits = mine.size_bytes / theirs.size_bytes / fewer
    types = f"{clean(mine.quant, 40)} in place of {clean(theirs.quant, 40)}"
    return f"× {fewer:.3g} by distilling to fewer parameters, × {bits:.3g} by {types} and what else the files hold"


# ---- measured here --------------------------------------------------------------------------------------------------


_TESTS = {"prefill": ("pp512", "pp128"), "decode": ("tg128", "tg32")}
"""Of each metric the first that both ran, as a comparison of two recorded runs takes it."""


def _measured(mine: Evidence, lineage: Lineage) -> Iterator[Pair]:
    """Prefill and decode, with the ratio that allows for the machine's drift between the two runs."""
    if mine.measurement is None:
        return
    theirs = lineage.teacher
    ratios = {change.metric: change.ratio for change in lineage.changes}
    why = Unknown(reason=lineage.not_compared or "the two runs were not compared") if theirs else NO_TEACHER
    own, other = _speeds(mine), {} if theirs is None else _speeds(theirs)
    where = "on the device" if mine.measurement.on_device else "here"
    for metric, tests in _TESTS.items():
        test = next((one for one in tests if one in own and (theirs is None or one in other)), "")
        if test:
            label, ratio = f"{metric} {where}, {test}", ratios.get(metric, why)
            yield _pair(label, "tok/s", other.get(test, NO_TEACHER), own[test], ratio)
    yield from _metered(mine, theirs, where)


def _speeds(evidence: Evidence) -> dict[str, Figure]:
    return (
        {} if evidence.measurement is None else {one.test: one.tokens_per_s for one in summarize(evidence.measurement)}
    )


def _metered(mine: Evidence, theirs: Evidence | None, where: str) -> Iterator[Pair]:
    """Energy that a counter saw in both runs of a test; scopes are never mixed."""
    other = {} if theirs is None else _energy(theirs)
    for key, figure in _energy(mine).items():
        test, scope, _ = key
        if test.startswith("tg") and key in other:
            yield _pair(f"energy of 1000 tokens {where}, {test}, {scope}", "J", other[key], figure)


def _energy(evidence: Evidence) -> dict[tuple[str, str, str], Figure]:
    """(test, scope, counter) → joules of a thousand tokens, from the lowest to the highest reading."""
    run, found = evidence.measurement, dict[tuple[str, str, str], list[float]]()
    if run is None:
        return {}
    for reading in run.energy:
        if reading.tokens > 0:
            key = (reading.test, reading.scope, reading.counter)
            found.setdefault(key, []).append(THOUSAND * reading.joules / reading.tokens)
    return {key: _between(each, basis_of(run)) for key, each in found.items()}


def _between(readings: list[float], basis: Basis) -> Figure:
    """The median of the readings, from the lowest to the highest of them."""
    if len(readings) < 2:
        return Unknown(
            reason="a counter that was read once has no range", settle="run `edgekit bench` in more processes"
        )
    return Estimate(value=median(readings), low=min(readings), high=max(readings), basis=basis)


# ---- on a device ----------------------------------------------------------------------------------------------------


def _case(evidence: Evidence | None, device: str) -> Case | None:
    return None if evidence is None else next((one for one in evidence.cases if one.device == device), None)


def _on_devices(mine: Evidence, theirs: Evidence | None) -> Iterator[Pair]:
    """Memory, decode and energy on every device; those on which a figure is the same stand in one row."""
    figures: tuple[tuple[str, str, Callable[[Case], Figure]], ...] = (
        ("memory", "bytes", _memory),
        ("decode, tg128", "tok/s", _decode),
        ("energy of 1000 tokens", "J", _thousand_tokens),
    )
    for what, unit, figure in figures:
        alike: dict[tuple[Figure, Figure], list[str]] = {}
        for case in mine.cases:
            there = _case(theirs, case.device)
            pair = (NO_TEACHER if there is None else figure(there), figure(case))
            alike.setdefault(pair, []).append(clean(case.device_title, 60))
        for (teacher, artifact), devices in alike.items():
            where = devices[0] if len(devices) == 1 else f"{len(devices)} devices"
            yield _pair(f"{what}, {where}", unit, teacher, artifact)


def _memory(case: Case) -> Figure:
    return case.memory.working_set if isinstance(case.memory, MemoryBreakdown) else case.memory


def _decode(case: Case) -> Figure:
    return case.projection.decode if isinstance(case.projection, Projection) else case.projection


def _thousand_tokens(case: Case) -> Figure:
    if not isinstance(case.battery, Battery):
        return case.battery
    joules = case.battery.joules_per_token
    if isinstance(joules, Unknown):
        return joules
    return replace(joules, value=THOUSAND * joules.value, low=THOUSAND * joules.low, high=THOUSAND * joules.high)
