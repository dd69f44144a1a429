"""The sweep as a comment on a pull request, in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.records import BASES, Sweep
from edgekit.report.markdown import SIGNS, escape, folded, table
from edgekit.report.plan_markdown import front_table
from edgekit.report.plan_rows import front_steps
from edgekit.report.sweep_rows import Key, Line, lines
from edgekit.report.sweep_words import (
    basis_of,
    circumstances,
    class_note,
    counts,
    differences,
    gaps,
    kld_text,
    short_text,
)
from edgekit.report.words import BASIS_MEANING, RANGE_MEANING, advice, clean, figure_text, sentence

_SIGNS: dict[Key, str] = {**dict(SIGNS.items()), "broke": "💥 FAILED"}


def render_sweep_markdown(sweep: Sweep) -> str:
    """The sweep as GitHub Markdown: which to ship, the table, a reason for every target, circumstances folded away."""
    rows = lines(sweep)
    sign = SIGNS["pass"].split(" ")[0] if sweep.recommended else SIGNS["unknown"].split(" ")[0]
    word = f"{escape(sweep.recommended, 60)} recommended" if sweep.recommended else "none recommended"
    out = [f"## {sign} {word} for {escape(sweep.device_title, 80)}", "", escape(sweep.reason), ""]
    out += [f"{len(rows)} targets: {counts(rows)}.", "", *_device_table(rows), *_quality_table(rows)]
    out += [f"{sentence(class_note(rows))}.", ""] if class_note(rows) else []
    out += [_reason(row) for row in rows]
    out += [f"- **unknown** {escape(gap)}" for gap in gaps(rows)]
    out += [f"- **warning** {escape(text)}" for text in differences(sweep)]
    out += ["", *front_table(front_steps(sweep.front))]
    behind = ((escape(fact.label), escape(fact.value)) for fact in circumstances(sweep))
    out += ["", *folded("Circumstances", table(("what", "value"), behind)), *_legend(rows)]
    return "\n".join(out).rstrip() + "\n"


def _device_table(rows: Sequence[Line]) -> list[str]:
    tests = next((row.tests_here for row in rows if row.report), ("tg128", "pp512"))
    head = ("", "target", "file", "memory", "decode", "prefill", f"{tests[0]} here", f"{tests[1]} here")
    return table(
        head,
        (
            (
                _SIGNS[row.key],
                _target(row),
                escape(short_text(row.file, "bytes")),
                escape(figure_text(row.memory, "bytes")),
                *(escape(figure_text(figure, "tok/s")) for figure in (row.decode, row.prefill)),
                *(escape(short_text(figure, "tok/s")) for figure in (row.decode_here, row.prefill_here)),
            )
            for row in rows
        ),
    )


def _quality_table(rows: Sequence[Line]) -> list[str]:
    return table(
        ("target", "KLD, nat/token, measured-here", "top-1 agreement", "perplexity"),
        (
            (
                _target(row),
                escape(kld_text(row)),
                escape(short_text(row.top1, "fraction", 1.0)),
                escape(short_text(row.perplexity, "")),
            )
            for row in rows
        ),
    )


def _target(row: Line) -> str:
    return f"**{escape(row.target, 60)}**" if row.recommended else escape(row.target, 60)


def _reason(row: Line) -> str:
    said = [row.reason, row.settle]
    if row.obstacles:
        leaf, check = row.obstacles[0]
        said.append(f"stopped by {check.title} on {clean(leaf.device_title, 80)}: {check.reason}")
        said += [f"{label}: {clauses[0]}" for label, clauses in advice(check)]
    told = " ".join(f"{escape(text).rstrip('.')}." for text in said if text)
    return f"- {_SIGNS[row.key]} **{escape(row.target, 60)}** {told}"


def _legend(rows: Sequence[Line]) -> list[str]:
    used = basis_of([figure for row in rows for figure in row.figures]).split(", ")
    bases = "; ".join(f"*{basis}*: {escape(BASIS_MEANING[basis])}" for basis in BASES if basis in used)
    return [f"<sub>{escape(RANGE_MEANING)} {bases}</sub>", ""]
