"""What `tune` prints. Loaded by the verb only."""

from __future__ import annotations

from pathlib import Path

from edgekit.cli.showing import keep_record, print_record
from edgekit.errors import ExitCode
from edgekit.pipeline.tuning import EXIT_CODES, TuningPlan
from edgekit.pipeline.tuning_runs import difference
from edgekit.records import Tuning
from edgekit.storage import to_json
from edgekit.units import format_duration


def show_tuning(tuning: Tuning, out: Path | None, *, as_json: bool) -> None:
    """The advised settings on stdout; their record in `out`."""
    from edgekit.report import print_tuning

    keep_record(tuning, out)
    print_record(tuning, print_tuning, as_json=as_json)


def show_tuning_plan(plan: TuningPlan, *, as_json: bool) -> int:
    """What would be tried; exit code 1 where nothing can fit, as the run would have it."""
    if as_json:
        print(to_json(plan))  # noqa: T201
        return EXIT_CODES[plan.status]
    words = {"pass": "surely fit", "unknown": "may fit", "fail": "fit"}[plan.status]
    where = plan.device or "this host"
    lines = [f"{plan.model} for {where}: {plan.feasible} of {plan.points} points of the grid {words}"]
    if plan.start is not None:
        lines.append(f"start: {difference(plan.start, plan.default)} (against llama.cpp's defaults)")
    if plan.trials_max:
        lines.append(f"tried here, at most {plan.trials_max} points: {', '.join(plan.tried) or 'nothing'}")
        lines.append(f"expected: {format_duration(plan.low_s)} to {format_duration(plan.high_s)}")
    else:
        lines.append("nothing would be run: what may not fit is not tried")
    print("\n  ".join(lines))  # noqa: T201
    return int(EXIT_CODES[plan.status]) if plan.status != "pass" else ExitCode.PASS
