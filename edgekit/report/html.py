"""The report as one page: no script, no link, no font or image from elsewhere, and a policy that forbids them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from edgekit.records import BASES, Check, Estimate, MemoryBreakdown, Projection, Report, Status, Verdict
from edgekit.report import (
    charts,
    curves,
    distillation,
    distillation_charts,
    facts,
    quality,
    quality_charts,
    quality_parts,
    quality_tasks,
    words,
)
from edgekit.summary import summarize

_HERE = Path(__file__).parent
_MAX_RAW_ROWS = 240
_CODE = Markup("<code>{}</code>")


def render_html(report: Report) -> str:
    """One self-contained page that opens offline: verdict first, charts as inline SVG, light and dark, printable."""
    return render_page(
        "report.html.j2",
        report.evidence.edgekit_version,
        report=report,
        evidence=report.evidence,
        measurement=report.evidence.measurement,
        header=report.evidence.artifact.header,
        headline=headline(report),
        stacks=memory_stacks(report),
        raw_rows=_raw_rows(report),
    )


def render_page(template: str, edgekit_version: str, **values: Any) -> str:
    """A page of ours: its own style inside, a policy that allows no more, and `ident()` for ids that are alone."""
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    idents = (f"c{n}" for n in count())
    return (
        _environment()
        .get_template(template)
        .render(
            edgekit_version=edgekit_version,
            style=Markup(style),  # noqa: S704 - our own file
            style_hash=b64encode(sha256(style.encode()).digest()).decode(),
            ident=lambda: next(idents),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(_names())
    return environment


def _shown(value: Any) -> Any:
    """What a template expression prints: our own markup as it is, everything else as text made safe to show."""
    return value if isinstance(value, Markup) else words.clean(str(value), 2000)


def prose(text: str) -> Markup:
    """A sentence for the page, with a capital; `literals` in backticks and whole commands are set as code."""
    shown = words.clean(text, 2000)
    return _CODE.format(shown) if shown.startswith("edgekit ") and "`" not in shown else coded(words.sentence(shown))


def coded(text: str) -> Markup:
    """Text for the page as it stands, `literals` in backticks set as code."""
    pieces = words.clean(text, 2000).split("`")
    if len(pieces) % 2 == 0:
        return escape("`".join(pieces))
    return Markup().join(_CODE.format(piece) if odd % 2 else escape(piece) for odd, piece in enumerate(pieces))


def _names() -> dict[str, Any]:
    """What the template may call."""
    return {
        "facts": facts,
        "words": words,
        "charts": charts,
        "curves": curves,
        "distillation": distillation,
        "distillation_charts": distillation_charts,
        "quality": quality,
        "quality_charts": quality_charts,
        "quality_parts": quality_parts,
        "quality_tasks": quality_tasks,
        "summarize": summarize,
        "bound_of": bound_of,
        "projection_of": projection_of,
        "bases": BASES,
        "is_estimate": lambda figure: isinstance(figure, Estimate),
        "prose": prose,
        "coded": coded,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What the page says first. `key` is a status or `broke`."""

    key: str
    word: str
    reasons: tuple[str, ...]
    subject: str


def headline(report: Report) -> Headline:
    """The worst answer among the verdicts, or that the run broke."""
    statuses = {verdict.status for verdict in report.verdicts}
    worst: Status = next((status for status in ("fail", "unknown") if status in statuses), "pass")
    worst = worst if statuses else "unknown"
    faults = tuple(found.message for found in facts.findings(report) if found.level == "fault")
    broke = report.exit_code == 4
    return Headline(
        key="broke" if broke else worst,
        word="The run broke" if broke else words.STATUS_WORDS[worst],
        reasons=(faults if broke else ()) + tuple(_reason(verdict, broke) for verdict in report.verdicts),
        subject=", ".join(words.clean(verdict.device_title, 80) for verdict in report.verdicts),
    )


def _reason(verdict: Verdict, broke: bool) -> str:
    """Under another headline than its own, a verdict says its status itself."""
    return f"{words.STATUS_WORDS[verdict.status]}: {verdict.reason}" if broke else verdict.reason


def projection_of(report: Report, verdict: Verdict) -> Projection | None:
    """The projection behind a verdict, `None` where it was refused."""
    case = facts.case_of(report, verdict)
    return case.projection if case is not None and isinstance(case.projection, Projection) else None


def bound_of(report: Report, verdict: Verdict, check: Check) -> Estimate | None:
    """The speed no kernel can exceed, for checks of decode at depth 0 and sustained."""
    projection = projection_of(report, verdict)
    if projection is None or check.unit != "tok/s" or "decode" not in check.metric or "_at_" in check.metric:
        return None
    return projection.bandwidth_bound if isinstance(projection.bandwidth_bound, Estimate) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One memory bar and the devices it holds for."""

    devices: tuple[str, ...]
    memory: MemoryBreakdown
    parts: tuple[facts.Part, ...]
    limit: float | None
    axis: charts.Axis


def memory_stacks(report: Report) -> tuple[Stack, ...]:
    """The predicted memory of each device, devices with the same prediction and limit together, on one axis."""
    limits = {leaf.device: check.max for leaf, check in facts.all_checks(report) if check.metric == "memory_bytes"}
    groups: dict[tuple[MemoryBreakdown, float | None], list[str]] = {}
    for case in report.evidence.cases:
        if isinstance(case.memory, MemoryBreakdown):
            groups.setdefault((case.memory, limits.get(case.device)), []).append(case.device_title)
    reach = [limit for _, limit in groups if limit is not None]
    reach += [float(sum(part.size_bytes for part in facts.memory_parts(memory))) for memory, _ in groups]
    reach += [memory.working_set.high for memory, _ in groups]
    axis = charts.axis_over(reach, "bytes")
    return tuple(
        Stack(devices=tuple(names), memory=memory, parts=facts.memory_parts(memory), limit=limit, axis=axis)
        for (memory, limit), names in groups.items()
    )


def _raw_rows(report: Report) -> tuple[tuple[str, ...], ...]:
    """The samples as a table; a sustained run has thousands, so the page shows the first of them and says so."""
    measurement = report.evidence.measurement
    samples = measurement.samples if measurement is not None else ()
    return tuple(_raw_cells(samples))[:_MAX_RAW_ROWS]


def _raw_cells(samples: tuple[Any, ...]) -> Iterator[tuple[str, ...]]:
    for sample in samples:
        rate = f"{sample.tokens / sample.elapsed_s:.4g}" if sample.elapsed_s > 0 else "unknown"
        kind = "warm-up" if sample.warmup else str(sample.repetition + 1)
        yield (sample.test, str(sample.process + 1), kind, str(sample.tokens), f"{sample.elapsed_s:.6g}", rate)
