"""The verb that trains: distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import JsonOption, QuietOption


def distill(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="tiny, smoke, zip-0428, or a path to a .toml.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder; a second run goes on there.  [default: edgekit-models/distilled-NAME]"
        ),
    ] = None,
    teacher: Annotated[Path | None, typer.Option("--teacher", help="Checkpoint folder in place of its own.")] = None,
    student: Annotated[
        str, typer.Option("--student", help="prune:depth=0.5, config:FILE.json or shape:nano-0.6b in place of its own.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and whether it fits.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Train the students of RECIPE from their teacher, stage by stage: logits, features, tasks.

    What was trained is kept in the folder: a run that was stopped, at any step, goes on there.
    """
    from edgekit.cli.reading_making import folder
    from edgekit.cli.showing import print_record
    from edgekit.cli.telling import progress
    from edgekit.errors import ExitCode
    from edgekit.pipeline import distilling
    from edgekit.report import print_distill_plan, print_distillation

    opened = distilling.open_recipe(recipe, student=student)
    if dry_run:
        foreseen = distilling.foresee_distillation(opened, teacher=teacher)
        print_record(foreseen, print_distill_plan, as_json=json)
        return distilling.EXIT_CODES[foreseen.fits]
    place = folder(out, f"distilled-{opened.name}")
    with progress(quiet=quiet) as told:
        made = distilling.distill(opened, place, teacher=teacher, progress=told)
    print_record(made, print_distillation, as_json=json)
    typer.echo(f"student: {made.student.path}", err=True)
    return ExitCode.PASS
