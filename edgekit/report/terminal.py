"""The report for a terminal: verdict first, readable at 80 columns, without colour, and in plain ASCII where the
terminal has no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekit.records import BASES, Check, Estimate, Figure, Finding, MemoryBreakdown, Report, Status, Verdict
from edgekit.report import distillation, facts, quality_parts
from edgekit.report.quality import Part
from edgekit.report.words import (
    BASIS_MEANING,
    EXIT_MEANING,
    RANGE_MEANING,
    STAND_IN_NOTE,
    STATUS_WORDS,
    advice,
    clean,
    figure_text,
    limit_of,
    limit_text,
    margin_text,
    point_text,
    span_text,
    value_text,
    visible,
    waiver_text,
)
from edgekit.summary import summarize
from edgekit.units import format_bytes

STYLES: dict[str, str] = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow"}
LEVEL_STYLES = {"fault": "bold red", "warning": "bold yellow", "note": "dim"}
_ASCII = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "×": "x", "÷": "/", "…": "...", "µ": "u"}
    | {"Δ": "delta ", "“": '"', "”": '"', "→": "->"}
)
_INDENT = 10
_GAP = 2


def render_terminal(report: Report) -> str:
    """The report as plain text, 80 columns wide."""
    return as_text(lambda console: print_terminal(report, console))


def print_terminal(report: Report, console: Console, written: Sequence[Path] = ()) -> None:
    """Print the report to `console`; `written` are the files it was also written to."""
    print_page(console, lambda page: _print_page(page, report, written))


def print_page(console: Console, draw: Callable[[Page], None]) -> None:
    """Let `draw` put a page on `console`; in a log its lines have no padding."""
    if console.is_terminal:
        draw(Page(console))
        return
    with console.capture() as capture:
        draw(Page(console))
    console.file.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def as_text(draw: Callable[[Console], None]) -> str:
    """What `draw` prints, as plain text, 80 columns wide."""
    out = StringIO()
    draw(Console(file=out, width=80, color_system=None, legacy_windows=False))
    return out.getvalue()


def _print_page(page: Page, report: Report, written: Sequence[Path]) -> None:
    _print_head(page, report)
    for verdict in report.verdicts:
        (_print_class if verdict.members else _print_device)(page, report, verdict)
    _print_speed(page, report)
    _print_quality(page, report)
    _print_lineage(page, report)
    print_findings(page, facts.findings(report))
    _print_waivers(page, report)
    page.rows("circumstances", [(fact.label, fact.value) for fact in facts.circumstances(report)])
    _print_legend(page, report)
    if written:
        page.rows("written", [("", clean(str(path))) for path in written])


class Page:
    """Puts lines on a console; nothing that comes from a model is ever read as markup or highlighted."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = not (console.encoding or "").lower().startswith("utf")

    def text(self, text: str, style: str = "") -> Text:
        text = visible(text)
        if self.ascii:
            text = text.translate(_ASCII).encode("ascii", "replace").decode()
        return Text(text, style=style)

    def line(self, *parts: tuple[str, str], indent: int = 0) -> None:
        joined = Text().join(self.text(text, style) for text, style in parts)
        self.console.print(Padding(joined, (0, 0, 0, indent), expand=False))

    def blank(self) -> None:
        self.console.print()

    def heading(self, text: str) -> None:
        self.blank()
        self.line((text, "bold"))

    def labelled(self, label: str, text: str, style: str = "", indent: int = _INDENT) -> None:
        """`label` in front of a paragraph that hangs behind it; nothing at all where there is no text."""
        if text:
            self.rows("", [(label, clean(text, 2000))], indent=indent, style=style)

    def rows(
        self,
        heading: str,
        rows: Iterable[tuple[str, str]],
        *,
        indent: int = 2,
        style: str = "",
        label_style: str = "dim",
    ) -> None:
        """A heading and pairs of a label and a text that hangs behind it."""
        if heading:
            self.heading(heading)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in rows:
            grid.add_row(self.text(label, label_style), self.text(value, style))
        self.console.print(Padding(grid, (0, 0, 0, indent), expand=False))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        head, body = [self.text(name) for name in header], [[self.text(*cell) for cell in row] for row in rows]
        room = self.console.width - 2 - _GAP * (len(head) - 1)
        for name, width in zip(head, column_widths([head, *body], room), strict=True):
            table.add_column(name, overflow="fold", width=width)
        for row in body:
            table.add_row(*row)
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))


def column_widths(rows: Sequence[Sequence[Text]], room: int) -> list[int | None]:
    """Widths with which no word is broken, narrow columns first to be given all they want; `None` each where all fits
    anyway, or not even single words do.
    """
    least, whole = [], []
    for column in zip(*rows, strict=True):
        spans = [cell.__rich_measure__(None, None) for cell in column]
        least.append(max(span.minimum for span in spans))
        whole.append(max(span.maximum for span in spans))
    spare = room - sum(least)
    if sum(whole) <= room or spare < 0:
        return [None] * len(least)
    for place in sorted(range(len(least)), key=lambda at: whole[at] - least[at]):
        more = min(whole[place] - least[place], spare)
        least[place], spare = least[place] + more, spare - more
    return list(least)


def _status(status: Status) -> tuple[str, str]:
    return f"{STATUS_WORDS[status]:<8}", STYLES[status]


def _print_head(page: Page, report: Report) -> None:
    name = facts.artifact_title(report.evidence.artifact)
    for verdict in report.verdicts:
        page.line(_status(verdict.status), (f"  {name} on {clean(verdict.device_title, 80)}", "bold"))
        page.line((clean(verdict.reason, 1000), ""), indent=_INDENT)
    meaning = EXIT_MEANING.get(report.exit_code, "unnamed")
    page.line((f"exit code {report.exit_code}: {meaning}", "dim"), indent=_INDENT)
    for finding in facts.findings(report):
        if finding.level == "fault":
            page.labelled("the run broke", finding.message, LEVEL_STYLES["fault"])
    if report.evidence.artifact.header.stand_in:
        page.blank()
        page.rows("", [("STAND-IN", STAND_IN_NOTE)], indent=0, label_style="bold magenta")
    alerts = quality_parts.alerts_of(report.evidence)
    if alerts:
        page.blank()
        print_alerts(page, alerts)


def _print_device(page: Page, report: Report, verdict: Verdict) -> None:
    page.heading(f"checks on {clean(verdict.device_title, 80)}")
    for check in verdict.checks:
        page.blank()
        _print_check(page, report, verdict, check)
    if not verdict.checks:
        page.line(("no check was made", ""), indent=2)
    _print_memory(page, report, verdict)


def _print_check(page: Page, report: Report, verdict: Verdict, check: Check) -> None:
    title, point = clean(check.title, 60), point_text(check)
    beside = _INDENT + len(title) + len(point) + 2 <= page.console.width
    page.line(_status(check.status), (f"  {title}", "bold"), (f"  {point}" if beside else "", "dim"))
    if not beside:
        page.line((point, "dim"), indent=_INDENT)
    margin = margin_text(check)
    limit = f"limit {limit_text(check)}" + (f", {margin}" if margin else "")
    page.line((figure_text(check.figure, check.unit, limit_of(check)), ""), indent=_INDENT)
    page.line((limit, ""), indent=_INDENT)
    _print_reasons(page, report, verdict, check)


def _print_reasons(page: Page, report: Report, verdict: Verdict, check: Check) -> None:
    page.labelled("note", facts.beside(report, verdict, check))
    page.labelled("why", check.reason)
    page.labelled("physics", check.physics)
    for label, clauses in advice(check):
        for number, clause in enumerate(clauses):
            page.labelled(label if number == 0 else " " * len(label), clause)
    page.labelled("waiver", waiver_text(check), style="bold yellow")


def _print_class(page: Page, report: Report, verdict: Verdict) -> None:
    statuses = facts.count_statuses([member.status for member in verdict.members])
    page.heading(f"{clean(verdict.device_title, 80)}: {len(verdict.members)} devices, {statuses}")
    page.labelled("stands for", verdict.population, indent=2)
    for row in facts.by_metric(verdict):
        _print_metric(page, report, row)
    page.blank()
    page.line(("memory, speed and reasons for each device stand in the HTML and JSON reports", "dim"), indent=2)
    _print_memory(page, report, facts.by_metric(verdict)[0].nearest[0] if facts.by_metric(verdict) else verdict)


def _print_metric(page: Page, report: Report, row: facts.MetricRow) -> None:
    first = row.entries[0][1]
    bases = sorted({check.figure.basis for _, check in row.entries if isinstance(check.figure, Estimate)})
    page.heading(f"{clean(first.title, 60)} {limit_text(first)}: {row.counts}")
    page.line((", ".join([point_text(first), *(bases if len(bases) == 1 else ())]), "dim"), indent=2)
    entries = row.entries[:1] if row.uniform else row.entries
    everyone = f"all {len(row.entries)} devices" if row.uniform and len(row.entries) > 1 else ""
    page.table(
        ("", "device", "value", "90 % range", "margin"),
        (_member_row(*entry, everyone, with_basis=len(bases) > 1) for entry in entries),
    )
    if any(check.status != "pass" for _, check in row.entries):
        member, nearest = row.nearest
        page.labelled("nearest", "" if everyone else member.device_title)
        _print_reasons(page, report, member, nearest)


def _member_row(member: Verdict, check: Check, everyone: str, *, with_basis: bool) -> tuple[tuple[str, str], ...]:
    figure, limit = check.figure, limit_of(check)
    span = ""
    if isinstance(figure, Estimate):
        span = span_text(figure, check.unit, limit) + (f", {figure.basis}" if with_basis else "")
    return (
        (STATUS_WORDS[check.status], STYLES[check.status]),
        (everyone or clean(member.device_title, 60), ""),
        (value_text(figure, check.unit, limit), ""),
        (span, ""),
        (margin_text(check), ""),
    )


def _print_memory(page: Page, report: Report, verdict: Verdict) -> None:
    case = facts.case_of(report, verdict)
    if case is None:
        return
    page.heading(f"memory on {clean(case.device_title, 80)}")
    if isinstance(case.memory, MemoryBreakdown):
        parts = facts.memory_parts(case.memory)
        sums = " + ".join(f"{part.label} {format_bytes(part.size_bytes)}" for part in parts if part.counted)
        dormant = [f"{part.label} {format_bytes(part.size_bytes)}" for part in parts if not part.counted]
        page.labelled("working set", f"{figure_text(case.memory.working_set, 'bytes')} = {sums}", indent=2)
        page.labelled("unevictable", figure_text(case.memory.unevictable, "bytes"), indent=2)
        page.labelled("not counted", ", ".join(dormant), indent=2)
    else:
        page.labelled("unknown", case.memory.reason, indent=2)
        page.labelled("to settle", case.memory.settle, indent=2)


def _print_speed(page: Page, report: Report) -> None:
    measurement = report.evidence.measurement
    if measurement is None:
        return
    host = f"the device `{measurement.on_device}` itself" if measurement.on_device else "this host"
    page.heading(f"measured on {clean(host)}")
    rows = [
        (
            (clean(row.test, 40), "bold"),
            (value_text(row.tokens_per_s, "tok/s"), ""),
            (span_text(row.tokens_per_s, "tok/s"), "")
            if isinstance(row.tokens_per_s, Estimate)
            else (clean(row.tokens_per_s.reason), ""),
            (f"{row.repetitions} in {row.processes} process{'es' if row.processes != 1 else ''}", "dim"),
        )
        for row in summarize(measurement)
    ]
    if rows:
        page.table(("test", "median", "90 % range", "repetitions"), rows)
    else:
        page.line(("nothing was timed", ""), indent=2)
        return
    page.rows("", [(label, _figure_or_reason(figure)) for label, figure in facts.latencies(measurement)])


def _figure_or_reason(figure: Figure) -> str:
    return figure_text(figure, "s") if isinstance(figure, Estimate) else f"unknown: {clean(figure.reason)}"


def _print_quality(page: Page, report: Report) -> None:
    parts = quality_parts.parts_of(report)
    for part in parts:
        page.heading(part.title)
        print_part(page, part)
    if parts:
        page.rows("quality found how", [(fact.label, fact.value) for part in parts for fact in part.behind])


def _print_lineage(page: Page, report: Report) -> None:
    parts = distillation.parts_of(report)
    for part in parts:
        page.heading(part.title)
        print_part(page, part)
    if parts:
        page.rows("distilled how", [(fact.label, fact.value) for part in parts for fact in part.behind])


def print_part(page: Page, part: Part) -> None:
    """What a part of quality says, below a heading that stands already; how it was found stands elsewhere."""
    if part.table is not None and part.table.rows:
        page.table(part.table.head, (tuple((cell, "") for cell in cells) for cells in part.table.rows))
    if part.rows:
        page.rows("", [(row.label, row.value) for row in part.rows])
    for quote in part.quotes:
        page.labelled("quoted", f"“{quote.text}” {quote.said}", indent=2)
    for note in part.notes:
        page.labelled("note", note, indent=2)


def print_alerts(page: Page, alerts: Sequence[quality_parts.Alert]) -> None:
    """What no pass may hide."""
    rows = [(alert.title.upper(), text) for alert in alerts for text in alert.texts]
    page.rows("", rows, indent=0, label_style="bold red")


def print_findings(page: Page, findings: Sequence[Finding]) -> None:
    """What was found on the way, each with its hint; nothing where nothing was."""
    if findings:
        page.heading("findings")
    for finding in findings:
        page.labelled(finding.level, f"{finding.message} [{finding.code}]", LEVEL_STYLES[finding.level], indent=2)
        page.labelled(" " * len(finding.level), finding.hint, indent=2)


def _print_waivers(page: Page, report: Report) -> None:
    waived = facts.waivers(report)
    if waived:
        page.rows("waivers", [("", text) for text in waived])


def _print_legend(page: Page, report: Report) -> None:
    used = {check.figure.basis for _, check in facts.all_checks(report) if isinstance(check.figure, Estimate)}
    page.rows("where figures come from", [(basis, BASIS_MEANING[basis]) for basis in BASES if basis in used])
    page.line((RANGE_MEANING, "dim"), indent=2)
