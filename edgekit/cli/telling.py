"""Progress on stderr. Loaded by verbs only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.progress import Progress, silent


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, a line per stage in a log, nothing when quiet."""
    if quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        yield _StageLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        yield _StageBars(bars, bars.add_task("starting", total=None, detail=""))


class _StageLines:
    """One line when a stage begins: what a CI log wants."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        if stage != self.stage:
            self.stage = stage
            print(f"{stage} …", file=sys.stderr, flush=True)  # noqa: T201


class _StageBars:
    """One bar that takes the name of the stage at work."""

    def __init__(self, bars: object, task: object) -> None:
        self.bars, self.task = bars, task

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        self.bars.update(self.task, description=stage, completed=done, total=total or None, detail=detail)  # type: ignore[attr-defined]
