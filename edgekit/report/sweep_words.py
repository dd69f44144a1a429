"""The words of a sweep that every format shares: short figures, what is unknown and why, how rows differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.records import Estimate, Figure, Measurement, Quality, Report, Sweep, Unknown
from edgekit.report.facts import host_text, settings_text
from edgekit.report.sweep_rows import OVER, Key, Line
from edgekit.report.words import Fact, clean, span_text, value_text


def short_text(figure: Figure, unit: str, against: float | None = None) -> str:
    """`1.07 GB (1.04–1.10)`: for a table whose head names the basis; `unknown` where nothing is known."""
    if isinstance(figure, Unknown):
        return "unknown"
    if figure.low == figure.high:
        return value_text(figure, unit, against)
    return f"{value_text(figure, unit, against)} ({span_text(figure, unit, against)})"


def bare_text(figure: Figure, unit: str) -> str:
    """The same without the unit, which the table's head names."""
    return short_text(figure, unit).replace(f" {unit}", "")


def kld_text(row: Line) -> str:
    """The row's KLD in nats a token, or that it is what the others were held against."""
    return "0, the reference" if row.is_reference else bare_text(row.kld, "nat")


def counts(rows: Sequence[Line]) -> str:
    """`2 pass, 1 fail, 1 could not be made or run`."""
    keys = [row.key for row in rows]
    words: tuple[tuple[Key, str], ...] = (
        ("pass", "pass"),
        ("fail", "fail"),
        ("unknown", "unknown"),
        ("broke", "could not be made or run"),
    )
    return ", ".join(f"{keys.count(key)} {word}" for key, word in words if key in keys) or "none"


def class_note(rows: Sequence[Line]) -> str:
    """How to read the figures of a class; empty for a single device."""
    notes = [figure.note for row in rows for figure in (row.memory, row.decode) if isinstance(figure, Estimate)]
    if not any(note.startswith(OVER) for note in notes):
        return ""
    return (
        "speed and memory on the device are the median of the class's devices, with the lowest and the highest end of "
        "their ranges"
    )


def basis_of(figures: Sequence[Figure]) -> str:
    """The basis that all known figures share, or those they have."""
    found = dict.fromkeys(figure.basis for figure in figures if isinstance(figure, Estimate))
    return ", ".join(found)


def gaps(rows: Sequence[Line]) -> tuple[str, ...]:
    """The unknown figures of the targets that were made, and why; a sentence for those of one reason."""
    named: tuple[tuple[str, Callable[[Line], Figure]], ...] = (
        ("memory", lambda row: row.memory),
        ("decode on the device", lambda row: row.decode),
        ("prefill on the device", lambda row: row.prefill),
        ("decode here", lambda row: row.decode_here),
        ("prefill here", lambda row: row.prefill_here),
        ("KLD", lambda row: row.kld),
        ("top-1 agreement", lambda row: row.top1),
        ("perplexity", lambda row: row.perplexity),
    )
    found: dict[tuple[Unknown, tuple[str, ...]], list[str]] = {}
    for what, figure in named:
        by_reason: dict[Unknown, list[str]] = {}
        for row in rows:
            value = figure(row)
            if row.report is not None and isinstance(value, Unknown):
                by_reason.setdefault(value, []).append(row.target)
        for unknown, targets in by_reason.items():
            found.setdefault((unknown, tuple(targets)), []).append(what)
    return tuple(
        f"{', '.join(what)} of {', '.join(targets)}: {unknown.reason}" + (f"; {unknown.settle}" * bool(unknown.settle))
        for (unknown, targets), what in found.items()
    )


def differences(sweep: Sweep) -> tuple[str, ...]:
    """Circumstances in which the rows differ though they should be alike: such figures do not compare."""
    reports = [row.report for row in sweep.rows if row.report is not None]
    named: tuple[tuple[str, str, Callable[[Report], object]], ...] = (
        ("host", "speeds measured here", lambda report: _of_run(report, lambda run: run.host.cpu_model)),
        ("instruction set", "speeds measured here", lambda report: _of_run(report, lambda run: run.host.isa)),
        ("workload", "speeds measured here", lambda report: _of_run(report, lambda run: run.workload)),
        (
            "configuration judged",
            "memory and speed",
            lambda report: tuple(one.settings for one in report.evidence.cases),
        ),
        ("text", "qualities", lambda report: _of_quality(report, lambda quality: quality.text_sha256)),
        ("reference", "qualities", lambda report: _of_quality(report, lambda quality: quality.reference_sha256)),
        ("context", "qualities", lambda report: _of_quality(report, lambda quality: quality.context_tokens)),
        ("number of chunks", "qualities", lambda report: _of_quality(report, lambda quality: len(quality.chunks))),
    )
    return tuple(
        f"the rows differ in their {name}: do not compare their {what}"
        for name, what, value in named
        if len({found for report in reports if (found := value(report)) is not None}) > 1
    )


def _of_run(report: Report, value: Callable[[Measurement], object]) -> object:
    measurement = report.evidence.measurement
    return None if measurement is None else value(measurement)


def _of_quality(report: Report, value: Callable[[Quality], object]) -> object:
    quality = report.evidence.quality
    return None if quality is None or not quality.reference else value(quality)


def circumstances(sweep: Sweep) -> tuple[Fact, ...]:
    """What the rows share: source, device, host, configuration, text; cleaned for display."""
    reports = [row.report for row in sweep.rows if row.report is not None]
    runs = [report.evidence.measurement for report in reports if report.evidence.measurement is not None]
    qualities = [report.evidence.quality for report in reports if report.evidence.quality is not None]
    runtimes = [run.runtime for run in runs if run.runtime is not None]
    settings = [
        settings_text(one.evidence.cases[0].settings, one.evidence.artifact.header.format)
        for one in reports
        if one.evidence.cases
    ]
    texts = [f"{one.text_origin or 'unrecorded'}, sha256 {one.text_sha256[:16]}" for one in qualities]
    gates = [
        f"{verdict.gates_origin}, sha256 {verdict.gates_sha256[:16]}" for one in reports for verdict in one.verdicts
    ]
    facts = (
        ("source", f"{sweep.source}, sha256 {sweep.source_sha256[:16]}"),
        ("device", f"{sweep.device_title} ({sweep.device})"),
        ("gates", _each(gates)),
        ("judged configuration", _each(settings)),
        ("host", _each([host_text(run.host) for run in runs])),
        ("runtimes", _each([f"{one.name} {one.version} ({one.build}), {one.backend}" for one in runtimes])),
        ("quality reference", _each([one.reference for one in qualities if one.reference])),
        ("text", _each(texts)),
        ("written by", f"edgekit {sweep.edgekit_version}, {sweep.created_at}"),
    )
    return tuple(Fact(label=label, value=clean(value)) for label, value in facts if value)


def _each(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(values))
