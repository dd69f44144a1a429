"""What a walk prints: its report on stdout, what became of every artifact on stderr. Loaded by the verb only."""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.pipeline.distilling import EXIT_CODES
from edgekit.pipeline.walk_job import REPORT_FILES
from edgekit.pipeline.walk_plan import Foreseen
from edgekit.records import Walk
from edgekit.storage import to_json
from edgekit.units import format_duration


def show_walk(walk: Walk, folder: Path, *, as_json: bool) -> int:
    """The report on what ships, or the walk's record; what could not be made, and where everything lies, on stderr."""
    if as_json:
        print(to_json(walk))  # noqa: T201
    elif walk.report is not None:
        from rich.console import Console

        from edgekit.report import print_terminal

        print_terminal(walk.report, Console())
    for row in walk.sweep.rows:
        if row.failed is not None:
            print(f"not made: {row.target}: {row.failed.reason}", file=sys.stderr)  # noqa: T201
    for verdict in walk.report.verdicts if walk.report else ():
        print(f"{verdict.status.upper()}: {verdict.device_title}", file=sys.stderr)  # noqa: T201
    took = ", ".join(f"{step.name} {format_duration(step.elapsed_s)}" for step in walk.steps)
    print(f"took: {took}", file=sys.stderr)  # noqa: T201
    if walk.report is not None:
        print(f"report: {folder / REPORT_FILES['html']}", file=sys.stderr)  # noqa: T201
    print(f"every artifact: {folder / 'models' / 'sweep.html'}", file=sys.stderr)  # noqa: T201
    return walk.exit_code


def show_plan(plan: Foreseen, *, as_json: bool) -> int:
    """The steps, what of them stands already, and what training costs, on stdout; 1 where that does not fit, 3 where it
    is not known.
    """
    from rich.console import Console

    from edgekit.report import print_distill_plan

    code = EXIT_CODES[plan.training.fits]
    if as_json:
        print(to_json(plan))  # noqa: T201
        return code
    print(f"{plan.recipe} in {plan.out}")  # noqa: T201
    for step in plan.steps:
        print(f"  {'done' if step.done else 'to do':<7}{step.what}\n         {step.place}")  # noqa: T201
    print_distill_plan(plan.training, Console())
    return code
