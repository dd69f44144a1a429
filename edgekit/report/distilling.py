"""A distillation on a terminal: what it would cost, and what it gave."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from edgekit.records import Distillation, DistillPlan, Figure, HeldOut, PlannedStage, Unknown
from edgekit.report.distillation import cost_part, map_parts, name, stage_notes
from edgekit.report.distillation_words import count_text, flops_text
from edgekit.report.sweep_words import bare_text, short_text
from edgekit.report.terminal import Page, print_page, print_part
from edgekit.report.words import clean
from edgekit.units import format_bytes

_FITS = {"yes": "fits", "no": "DOES NOT FIT", "unknown": "not known to fit"}
_PARTS = ("student", "teacher", "gathered", "activations", "logits", "runtime")


def print_distillation(chain: Distillation, console: Console) -> None:
    """Print the chain, its layer maps and its cost to `console`."""
    print_page(console, lambda page: _print_chain(page, chain))


def print_distill_plan(plan: DistillPlan, console: Console) -> None:
    """Print what a recipe would cost, and whether it fits, to `console`."""
    print_page(console, lambda page: _print_plan(page, plan))


def _print_chain(page: Page, chain: Distillation) -> None:
    last = chain.links[-1]
    size = f"{count_text(last.student.parameters)} of {count_text(chain.teacher.parameters)} parameters"
    page.rows("", [("DISTILLED", f"{name(last.student)}, {size}")], indent=0, label_style="bold")
    page.heading("on held-out text")
    head = ("after", "taught by", "tokens", "loss, nat", "top-1", "KL divergence, nat")
    page.table(head, (tuple((cell, "") for cell in row) for row in _chain_rows(chain)))
    for link in chain.links:
        for note in stage_notes(link):
            page.labelled("note", note, indent=2)
    parts = map_parts(chain)
    for part in (*parts, cost_part(chain)):
        page.heading(part.title)
        print_part(page, part)


def _chain_rows(chain: Distillation) -> Iterator[tuple[str, ...]]:
    yield (name(chain.teacher), "", "", *_scores(chain.teacher_held_out)[:2], "")
    for link in chain.links:
        yield (f"{name(link.student)}, start", "", "", *_scores(link.start))
        for stage in link.stages:
            after = f"{name(link.student)}, {stage.kind}"
            yield (after, clean(stage.teacher, 60), count_text(stage.training.tokens), *_scores(stage.held_out))


def _scores(found: HeldOut) -> tuple[str, str, str]:
    return bare_text(found.loss, "nat"), short_text(found.top1, "fraction", 1.0), bare_text(found.kld, "nat")


def _print_plan(page: Page, plan: DistillPlan) -> None:
    machines = f" on {plan.accelerators} × {plan.accelerator}" if plan.accelerator else ""
    style = {"yes": "bold green", "no": "bold red"}.get(plan.fits, "bold yellow")
    page.line((_FITS[plan.fits].upper(), style), (f"  {clean(plan.recipe, 80)}{machines}", "bold"))
    facts = [
        ("teacher", f"{name(plan.teacher)}: {count_text(plan.teacher.parameters)} parameters"),
        *(("student", f"{name(one)}: {count_text(one.parameters)} parameters") for one in plan.students),
        ("tokens", count_text(plan.tokens)),
        ("FLOP", f"{flops_text(plan.flops)}, predicted from the shapes"),
        *((("GPU-hours", _hours(plan.accelerator_hours)),) if plan.accelerator else ()),
        ("hours", _hours(plan.hours)),
    ]
    if plan.accelerator:
        facts.append(("each has", f"{format_bytes(plan.accelerator_memory_bytes)}, claimed: {plan.accelerator_source}"))
    page.rows("", facts)
    page.heading("stages")
    head = ("stage", "tokens", "FLOP, student", "FLOP, teacher", "GPU-hours", "GB of each", "")
    page.table(head, (tuple((cell, "") for cell in _stage_row(plan, stage)) for stage in plan.stages))
    unit, size = ("MB", 1e6) if max(stage.memory.total.high for stage in plan.stages) < 1e10 else ("GB", 1e9)
    page.heading(f"memory of each process at its fullest, {unit}")
    parts = (_memory_row(plan, stage, size) for stage in plan.stages)
    page.table(("stage", *_PARTS), (tuple((cell, "") for cell in row) for row in parts))
    for stage in plan.stages:
        for words in (stage.reason if plan.accelerator else "", *stage.notes):  # else `hours` says it
            page.labelled("note", words and f"{_stage_name(plan, stage)}: {words}", indent=2)
    for note in plan.notes:
        page.labelled("note", note, indent=2)


def _hours(figure: Figure) -> str:
    if isinstance(figure, Unknown):
        return f"unknown: {figure.reason}; {figure.settle}"
    return f"{_digits(figure.value)} ({_digits(figure.low)}–{_digits(figure.high)}), {figure.note}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _stage_name(plan: DistillPlan, stage: PlannedStage) -> str:
    return stage.kind if len(plan.students) == 1 else f"{clean(stage.student, 60)}, {stage.kind}"


def _stage_row(plan: DistillPlan, stage: PlannedStage) -> tuple[str, ...]:
    hours = stage.accelerator_hours
    total = stage.memory.total
    return (
        _stage_name(plan, stage),
        count_text(stage.tokens),
        flops_text(stage.student_flops),
        flops_text(stage.teacher_flops) if stage.teacher_tokens else "0",
        "unknown" if isinstance(hours, Unknown) else f"{_digits(hours.low)}–{_digits(hours.high)}",
        f"{total.low / 1e9:.3g}–{total.high / 1e9:.3g}",
        _FITS[stage.fits] if stage.fits != "unknown" else "unknown",
    )


def _memory_row(plan: DistillPlan, stage: PlannedStage, unit: float) -> tuple[str, ...]:
    memory = stage.memory
    fixed = (memory.weights + memory.gradients + memory.optimizer, memory.teacher, memory.gathered)
    guessed = (memory.activations, memory.logits, memory.runtime)
    sizes = [_digits(one / unit) for one in fixed]
    sizes += [f"{_digits(one.value / unit)} ({_digits(one.low / unit)}–{_digits(one.high / unit)})" for one in guessed]
    return (_stage_name(plan, stage), *sizes)
