"""The plan for a terminal: what it comes to, its tensors by kind and type, and the front it stands on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from edgekit.records import ParetoPoint, QuantPlan
from edgekit.report.plan_rows import Group, Step, facts, groups, headline, layers_short, steps
from edgekit.report.sweep_words import bare_text, short_text
from edgekit.report.terminal import Page, print_page
from edgekit.units import format_bytes


def print_plan(plan: QuantPlan, front: Sequence[ParetoPoint], console: Console) -> None:
    """Print the plan and, where there is one, the front to `console`."""
    print_page(console, lambda page: _print(page, plan, front))


def _print(page: Page, plan: QuantPlan, front: Sequence[ParetoPoint]) -> None:
    page.rows("", [("PLAN", f"{format_bytes(plan.size_bytes)}, {headline(plan)}")], indent=0, label_style="bold")
    page.rows("what it comes to", [(fact.label, fact.value) for fact in facts(plan)])
    page.heading("tensors")
    page.table(("kind", "type", "count", "size", "bits", "share of KLD", "layers"), map(_group, groups(plan)))
    print_front(page, steps(plan, front))


def print_front(page: Page, points: Sequence[Step]) -> None:
    """The front as a table; nothing where there is none."""
    if not points:
        return
    page.heading("front: the least KLD for each budget, summed over the tensors")
    page.table(("", "size", "KLD, nat", "memory", "decode, tok/s"), map(_step, points))
    if any(point.chosen for point in points):
        page.line(("* this plan", "dim"), indent=2)


def _group(row: Group) -> tuple[tuple[str, str], ...]:
    return (
        (row.kind, "bold"),
        (row.type, ""),
        (str(row.count), ""),
        (format_bytes(row.size_bytes), ""),
        (row.bits_text, ""),
        (row.share_text, ""),
        (layers_short(row), "dim"),
    )


def _step(row: Step) -> tuple[tuple[str, str], ...]:
    style = "bold" if row.chosen else ""
    return (
        (f"{row.label} *" if row.chosen else row.label, style),
        (format_bytes(row.size_bytes), style),
        (bare_text(row.kld, "nat"), style),
        (short_text(row.memory, "bytes"), style),
        (bare_text(row.decode, "tok/s"), style),
    )
