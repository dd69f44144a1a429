"""The sweep as one page: which to ship, the table, quality and speed against size, and why for every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.records import BASES, Check, Estimate, Figure, Sweep
from edgekit.report import facts, plan_html, sweep_words
from edgekit.report.charts import axis_over
from edgekit.report.html import render_page
from edgekit.report.plan_rows import front_steps
from edgekit.report.scatter import SHAPES, Dot, Limit, log_axis_over, scatter_chart
from edgekit.report.sweep_rows import Key, Line, front, lines
from edgekit.report.words import clean, limit_text


def render_sweep_html(sweep: Sweep) -> str:
    """One self-contained page that opens offline, in the report's own look."""
    rows, points = lines(sweep), front_steps(sweep.front)
    used = sweep_words.basis_of([figure for row in rows for figure in row.figures]).split(", ")
    return render_page(
        "sweep.html.j2",
        sweep.edgekit_version,
        sweep=sweep,
        rows=rows,
        hero=_hero(rows, sweep),
        said=sweep_words,
        tests=next((row.tests_here for row in rows if row.report), ("tg128", "pp512")),
        quality_chart=lambda ident: quality_chart(ident, rows),
        speed_chart=lambda ident: speed_chart(ident, rows),
        undrawn=_undrawn(rows),
        points=points,
        front_chart=lambda ident: plan_html.front_chart(ident, points),
        front_speeds=lambda ident: plan_html.speed_chart(ident, points, 0.0),
        bases=[basis for basis in BASES if basis in used],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hero:
    """What the page says first."""

    key: Key
    word: str
    subject: str


def _hero(rows: Sequence[Line], sweep: Sweep) -> Hero:
    subject = clean(sweep.device_title, 120)
    if sweep.recommended:
        return Hero(key="pass", word=clean(sweep.recommended, 60), subject=subject)
    judged = [row.key for row in rows if row.key != "broke"]
    key: Key = "broke" if not judged else "fail" if set(judged) == {"fail"} else "unknown"
    return Hero(key=key, word="None to ship" if judged else "All failed", subject=subject)


def quality_chart(ident: str, rows: Sequence[Line]) -> Markup:
    """KLD against file size, both on logarithmic axes, with ranges; the front drawn, the recommended target ringed."""
    drawn = [(row, row.file, row.kld) for row in rows]
    placed = [(row, size, kld) for row, size, kld in drawn if isinstance(size, Estimate) and isinstance(kld, Estimate)]
    if not any(kld.high > 0 for _, _, kld in placed):
        return Markup()
    x = log_axis_over([size.value for _, size, _ in placed], "bytes")
    y = log_axis_over([end for _, _, kld in placed for end in (kld.low or kld.value, kld.value, kld.high)], "nat")
    dots = [
        Dot(
            label=f"{row.target}, KLD 0" if kld.value == 0 else row.target,
            x=size.value,
            y=kld,
            css=row.key,
            shape=SHAPES.get(row.key, "square"),
            ring=row.recommended,
        )
        for row, size, kld in placed
    ]
    path = [(_value(row.file), _value(row.kld)) for row in front(rows)]
    return scatter_chart(ident, "quality against file size", dots, x=x, y=y, x_title="file size", path=path)


def _value(figure: Figure) -> float:
    return figure.value if isinstance(figure, Estimate) else 0.0


def speed_chart(ident: str, rows: Sequence[Line]) -> Markup:
    """Decode speed on the device and on this host against file size, with ranges and the gate's limit."""
    dots = [*_speeds(rows, "device", lambda row: row.decode), *_speeds(rows, "host", lambda row: row.decode_here)]
    if not dots:
        return Markup()
    limit = _decode_limit(rows)
    reach = [dot.y.high for dot in dots] + ([limit.value] if limit else [])
    x, y = log_axis_over([dot.x for dot in dots], "bytes"), axis_over(reach, "tok/s")
    return scatter_chart(ident, "decode speed against file size", dots, x=x, y=y, x_title="file size", limit=limit)


def _speeds(rows: Sequence[Line], series: str, speed: Callable[[Line], Figure]) -> list[Dot]:
    """The dots of a series; each target is labelled once, at its lower priority only where the device's is unknown."""
    dots = []
    for row in rows:
        size, figure = row.file, speed(row)
        if isinstance(size, Estimate) and isinstance(figure, Estimate):
            labelled = series == "device" or not isinstance(row.decode, Estimate)
            dots.append(
                Dot(
                    label=row.target if labelled else "",
                    x=size.value,
                    y=figure,
                    css=series,
                    shape="diamond" if series == "device" else "circle",
                    ring=row.recommended and series == "device",
                )
            )
    return dots


def _decode_limit(rows: Sequence[Line]) -> Limit | None:
    """The gate's lower limit of decode, where all judged devices share it."""
    checks: list[Check] = [
        check
        for row in rows
        if row.report
        for _, check in facts.all_checks(row.report)
        if check.metric == "decode_tokens_per_s"
    ]
    limits = {check.min for check in checks}
    if len(limits) != 1 or checks[0].min is None:
        return None
    return Limit(value=checks[0].min, label=f"gate {limit_text(checks[0])}")


def _undrawn(rows: Sequence[Line]) -> tuple[str, ...]:
    """Targets that the quality chart cannot show, with the reason."""
    return tuple(f"{row.target}: {clean(row.kld.reason)}" for row in rows if not isinstance(row.kld, Estimate))
