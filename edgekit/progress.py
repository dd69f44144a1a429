"""How long work tells what it is doing. A room calls `progress(stage, done, total)`; the CLI draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """`total` is 0 where the amount is not known; `detail` is one short line."""

    def __call__(self, stage: str, done: float, total: float, detail: str = "") -> None: ...


def under(name: str, progress: Progress) -> Progress:
    """`progress` whose stages begin with `name`: of work that is a part of more."""

    def told(stage: str, done: float, total: float, detail: str = "") -> None:
        progress(f"{name} {stage}", done, total, detail)

    return told


def silent(stage: str, done: float, total: float, detail: str = "") -> None:
    """The progress of `--quiet` and of library use."""
