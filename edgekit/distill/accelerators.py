"""Accelerators by name: sourced data, never a table in code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.tables import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """Memory, and the peak of dense bfloat16 products, as `source` claims."""

    name: str
    title: str
    memory_bytes: float
    bfloat16_flops: float
    source: str


@cache
def accelerators() -> dict[str, Accelerator]:
    """Those of `data/accelerators.toml`, by name."""
    path = Path(__file__).parent.parent / "data" / "accelerators.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Accelerator(name=name, **table) for name, table in tables.items()}


def accelerator(name: str) -> Accelerator:
    """The one of that name. Raises EdgekitError with the nearest where there is none."""
    if name not in accelerators():
        raise EdgekitError(f"unknown accelerator: `{name[:60]}`", hint=nearest(name, accelerators()))
    return accelerators()[name]
