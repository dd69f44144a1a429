"""Progress on stderr. Loaded by verbs only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.cli import interrupted
from edgekit.progress import Progress, silent

_LINE_EVERY_S = 30.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, a line per stage in a log, nothing when quiet. Where it is told, a
    Ctrl-C that nobody heard is heard.
    """
    if quiet:
        yield _heeding(silent)
        return
    if not sys.stderr.isatty():
        yield _heeding(_StageLines())
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        yield _heeding(_StageBars(bars, bars.add_task("starting", total=None, detail="")))


def _heeding(told: Progress) -> Progress:
    def tell(stage: str, done: float, total: float, detail: str = "") -> None:
        # not in a `finally` that it is already on its way through
        if interrupted() and sys.exc_info()[0] is None:
            raise KeyboardInterrupt
        told(stage, done, total, detail)

    return tell


class _StageLines:
    """One line when a stage begins and one every half minute while it lasts: what a CI log wants."""

    def __init__(self) -> None:
        self.stage, self.told_s = "", 0.0

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        now = time.monotonic()
        if stage == self.stage and now - self.told_s < _LINE_EVERY_S:
            return
        share = f" {done / total:.0%}" if stage == self.stage and total > 0 else ""
        self.stage, self.told_s = stage, now
        print(f"{stage} …{share}", file=sys.stderr, flush=True)  # noqa: T201


class _StageBars:
    """One bar that takes the name of the stage at work."""

    def __init__(self, bars: object, task: object) -> None:
        self.bars, self.task = bars, task

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None:
        self.bars.update(self.task, description=stage, completed=done, total=total or None, detail=detail)  # type: ignore[attr-defined]
