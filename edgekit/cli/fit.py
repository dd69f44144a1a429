"""How `edgekit fit` prints its answer."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekit.memory import FitRow
from edgekit.pipeline import Fit
from edgekit.records import Case, Estimate, Figure, MemoryBreakdown, Projection, Unknown
from edgekit.units import format_bytes, format_number

WORDS = {"pass": "fits", "fail": "too big", "unknown": "unsure"}
HEADLINES = {"pass": "FITS", "fail": "DOES NOT FIT", "unknown": "UNSURE"}


def show_fit(fit: Fit, *, as_json: bool) -> None:
    """The answer on stdout: verdict, each device's memory and speed, the table of configurations, what would fit."""
    if as_json:
        from edgekit.storage import to_json  # pydantic costs a quarter of a second

        print(to_json(fit))  # noqa: T201
        return
    console = Console()
    header, verdict = fit.evidence.artifact.header, fit.verdict
    stand_in = " (stand-in weights)" if header.stand_in else ""
    model = f"{header.name or fit.evidence.artifact.path}{'' if 'stand-in' in header.name else stand_in}"
    head = f"{HEADLINES[verdict.status]} ({verdict.status})"
    line = f"{head}: {model} {header.quant} on {verdict.device_title}: {verdict.reason}"
    console.print(line, style="bold", markup=False, highlight=False)
    console.print(f"memory by {verdict.gates_origin} ({verdict.gates_sha256[:12]}); nothing was run", markup=False)
    console.print()
    console.print(_cases(fit))
    console.print()
    if fit.table:
        console.print(_configurations(fit.table))
        console.print()
    console.print(_nearest(fit), markup=False, highlight=False)


def _cases(fit: Fit) -> Table:
    table = Table("device", "memory", "decode, projected", "prefill, projected", box=None, pad_edge=False)
    checks = {leaf.device: leaf.checks for leaf in fit.verdict.members or (fit.verdict,)}
    for case in fit.evidence.cases:
        found = [check.status for check in checks.get(case.device, ()) if check.metric == "memory_bytes"]
        cells = (case.device_title, " ".join([_memory(case), *found]), *_speeds(case))
        table.add_row(*(Text(cell) for cell in cells))  # titles are strangers' text: no markup
    return table


def _memory(case: Case) -> str:
    if isinstance(case.memory, MemoryBreakdown):
        return _figure(case.memory.working_set, "bytes")
    return f"unknown: {case.memory.reason}"


def _speeds(case: Case) -> tuple[str, str]:
    if isinstance(case.projection, Projection):
        return _figure(case.projection.decode, "tok/s"), _figure(case.projection.prefill, "tok/s")
    return (f"unknown: {case.projection.reason}", "unknown")


def _figure(figure: Figure, unit: str) -> str:
    if isinstance(figure, Unknown):
        return "unknown"
    value, low, high = (format_number(number, unit) for number in (figure.value, figure.low, figure.high))
    return f"{value} ({low.removesuffix(_unit(high))} – {high})"


def _unit(text: str) -> str:
    return " " + text.rpartition(" ")[2]


def _configurations(rows: tuple[FitRow, ...]) -> Table:
    """Contexts down, micro-batch × KV type across."""
    columns = list(dict.fromkeys((row.settings.ubatch_tokens, row.settings.kv_type) for row in rows))
    budget = _budget(rows[0].budget) if rows else "no budget"
    table = Table(box=None, pad_edge=False, title=f"working set against {budget}", title_justify="left")
    table.add_column("context", justify="right")
    for ubatch, kv_type in columns:
        table.add_column(f"ubatch {ubatch}, KV {kv_type}", justify="right")
    for context, group in groupby(rows, key=lambda row: row.settings.context_tokens):
        cells = {(row.settings.ubatch_tokens, row.settings.kv_type): row for row in group}
        texts = [
            f"{format_bytes(row.needed.value)} {WORDS[row.status]}" if (row := cells.get(column)) else "–"
            for column in columns
        ]
        table.add_row(str(context), *texts)
    return table


def _budget(budget: Estimate) -> str:
    span = f" ({_figure(budget, 'bytes').partition('(')[2]}" if budget.low < budget.high else ""
    return f"{format_bytes(budget.value)}{span}, {budget.note}"


def _nearest(fit: Fit) -> str:
    nearest = fit.nearest
    if isinstance(nearest, Unknown):
        return f"what would fit: unknown; {nearest.reason}; {nearest.settle}"
    if nearest.reason:
        return f"what would fit: nothing of this file; {nearest.reason}"
    needed = _figure(nearest.row.needed, "bytes")
    if not nearest.changes:
        return f"what would fit: the device's own configuration does, {needed}"
    return f"what would fit: {nearest.changes}: {needed}"
