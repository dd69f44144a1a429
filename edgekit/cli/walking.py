"""The verb for the whole walk: run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import JsonOption, QuietOption, ThreadsOption


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="tiny, smoke, zip-0428 or a path to your own .toml.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; a second run goes on there.  [default: edgekit-models/walk-NAME]"),
    ] = None,
    teacher: Annotated[Path | None, typer.Option("--teacher", help="Checkpoint in place of the recipe's.")] = None,
    student: Annotated[
        str, typer.Option("--student", help="prune:depth=0.5, config:FILE.json or shape:nano-0.6b in its place.")
    ] = "",
    threads: ThreadsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what is there.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Distil a student as RECIPE says, make its artifacts, measure, evaluate and judge them: one report.

    A walk that was stopped goes on where it stood when it is called again with the same folder. The exit code is the
    gate's of what ships, the recipe's first target.
    """
    from edgekit.cli import reading_making as reading
    from edgekit.cli import showing_walk as showing
    from edgekit.cli.telling import progress
    from edgekit.pipeline.distilling import open_recipe
    from edgekit.pipeline.walk_plan import foresee
    from edgekit.pipeline.walking import run as walk_through

    found = open_recipe(recipe, student=student)
    place = out or Path(reading.MODELS) / f"walk-{reading.plain(found.name)}"
    if dry_run:
        return showing.show_plan(foresee(found, place, teacher=teacher), as_json=json)
    reading.folder(place)
    with progress(quiet=quiet) as told:
        walk = walk_through(found, place, teacher=teacher, threads=threads or 0, progress=told)
    return showing.show_walk(walk, place, as_json=json)
