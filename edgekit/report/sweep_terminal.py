"""The sweep for a terminal: which to ship first, then tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from edgekit.records import BASES, Figure, Sweep
from edgekit.report.plan_rows import front_steps
from edgekit.report.plan_terminal import print_front
from edgekit.report.sweep_rows import Line, lines
from edgekit.report.sweep_words import (
    bare_text,
    basis_of,
    circumstances,
    class_note,
    counts,
    differences,
    gaps,
    kld_text,
    short_text,
)
from edgekit.report.terminal import STYLES, Page, print_page
from edgekit.report.words import BASIS_MEANING, RANGE_MEANING, advice, clean

_BROKE = "bold magenta"
_Column = tuple[str, Callable[[Line], str]]


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Print the sweep to `console`."""
    print_page(console, lambda page: _print(page, sweep))


def _print(page: Page, sweep: Sweep) -> None:
    rows = lines(sweep)
    head = f"RECOMMENDED  {clean(sweep.recommended, 60)}" if sweep.recommended else "NONE RECOMMENDED"
    page.line((head, STYLES["pass" if sweep.recommended else "unknown"]), (f" for {clean(sweep.device_title, 80)}", ""))
    page.line((clean(sweep.reason, 1000), ""), indent=2)
    page.line((f"{len(rows)} targets: {counts(rows)}", "dim"), indent=2)
    for number, (heading, columns) in enumerate(_tables(rows, sweep)):
        page.heading(heading)
        _table(page, rows, columns, worded=number == 0)
    if sweep.recommended:
        page.line(("* recommended", "dim"), indent=2)
    page.labelled("class", class_note(rows), indent=2)
    print_front(page, front_steps(sweep.front))
    _print_reasons(page, rows)
    if gaps(rows):
        page.rows("unknown", [("", gap) for gap in gaps(rows)])
    for text in differences(sweep):
        page.labelled("warning", text, STYLES["unknown"], indent=2)
    page.rows("circumstances", [(fact.label, fact.value) for fact in circumstances(sweep)])
    used = basis_of([figure for row in rows for figure in row.figures]).split(", ")
    page.rows("where figures come from", [(basis, BASIS_MEANING[basis]) for basis in BASES if basis in used])
    page.line((RANGE_MEANING, "dim"), indent=2)


def _tables(rows: Sequence[Line], sweep: Sweep) -> tuple[tuple[str, tuple[_Column, ...]], ...]:
    def head(name: str, figure: Callable[[Line], Figure]) -> str:
        bases = basis_of([figure(row) for row in rows])
        return f"{name}, {bases}" if bases else name

    tests = next((row.tests_here for row in rows if row.report), ("tg128", "pp512"))
    return (
        (
            f"on {clean(sweep.device_title, 60)}",
            (
                ("file", lambda row: short_text(row.file, "bytes")),
                (head("memory", lambda row: row.memory), lambda row: short_text(row.memory, "bytes")),
                (head("decode", lambda row: row.decode), lambda row: short_text(row.decode, "tok/s")),
            ),
        ),
        (
            "tok/s: prefill on the device, and both on this host",
            (
                (head("prefill", lambda row: row.prefill), lambda row: bare_text(row.prefill, "tok/s")),
                (f"{tests[0]} here", lambda row: bare_text(row.decode_here, "tok/s")),
                (f"{tests[1]} here", lambda row: bare_text(row.prefill_here, "tok/s")),
            ),
        ),
        (
            "quality, measured-here",
            (
                ("KLD, nat", kld_text),
                ("top-1 agreement", lambda row: short_text(row.top1, "fraction", 1.0)),
                ("perplexity", lambda row: short_text(row.perplexity, "")),
            ),
        ),
    )


def _table(page: Page, rows: Sequence[Line], columns: Sequence[_Column], *, worded: bool) -> None:
    page.table(
        (*([""] if worded else []), "target", *(name for name, _ in columns)),
        (
            (
                *([(row.word, style(row))] if worded else []),
                (f"{row.target} *" if row.recommended else row.target, "bold" if row.recommended else ""),
                *((cell(row), "") for _, cell in columns),
            )
            for row in rows
        ),
    )


def style(row: Line) -> str:
    """The colour of a row's word."""
    return STYLES.get(row.key, _BROKE)


def _print_reasons(page: Page, rows: Sequence[Line]) -> None:
    page.heading("why")
    for row in rows:
        page.blank()
        page.line((f"{row.word:<8}", style(row)), (f"  {row.target}", "bold"))
        page.labelled("why", row.reason)
        page.labelled("to settle", row.settle)
        if row.obstacles:
            leaf, check = row.obstacles[0]
            page.labelled("stopped by", f"{check.title} on {leaf.device_title}: {check.reason}")
            for label, clauses in advice(check):
                page.labelled(label, clauses[0])
