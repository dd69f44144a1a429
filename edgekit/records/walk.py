"""A whole walk: from a recipe to the release gate report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.verdict import Report, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkStep:
    """A step of the walk as this run went through it; of one that an earlier run had finished `elapsed_s` is what
    looking at it took.
    """

    name: Literal["distill", "teacher", "artifacts", "report"]
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Everything made of the last student, and the report on what ships: the first target of the recipe."""

    kind: Literal["walk"] = "walk"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    recipe: str
    recipe_sha256: str
    ships: str
    """A target of the sweep."""
    report: Report | None
    """On what ships, its lineage among the evidence; `None` where it could not be made or run."""
    sweep: Sweep
    """Every artifact on the same device."""
    steps: tuple[WalkStep, ...]
    exit_code: int
    """The gate's of what ships; 4 where anything could not be made."""
