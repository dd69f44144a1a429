"""What the options of `compare` mean. Loaded by the verb only."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.cli.reading import load_evidence
from edgekit.errors import EdgekitError
from edgekit.pipeline import Overrides
from edgekit.records import Evidence, Settings

CONTEXT_TOKENS = 512
"""Enough for the tests, and two models must fit beside each other."""

_LIMIT = re.compile(r"\s*([a-z_]+)\s*=\s*(\d+(?:\.\d+)?)\s*%\s*")


def limits(text: str) -> dict[str, float]:
    """`decode=3%,memory=1%` → the worst ratios NEW ÷ BASE: 0.97 and 1.01. Raises EdgekitError."""
    from edgekit.bench.comparing import BETTER

    found: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise EdgekitError(f"not a limit: `{part[:40]}`", hint="write them as `--max-regress decode=3%,memory=1%`")
        metric, share = match[1], float(match[2]) / 100
        if metric not in BETTER:
            raise EdgekitError(f"unknown metric to compare: `{metric}`", hint=f"known: {', '.join(BETTER)}")
        if metric in found:
            raise EdgekitError(f"a metric is limited twice: `{metric}`")
        found[metric] = 1 - share if BETTER[metric] == "higher" else 1 + share
    return found


def recorded(base: Path, new: Path) -> tuple[Evidence, Evidence] | None:
    """Both as records where both are JSON files; `None` for two models. Raises EdgekitError for one of each."""
    kinds = {path.suffix.lower() == ".json" for path in (base, new)}
    if len(kinds) > 1:
        raise EdgekitError(
            f"a model and a recorded run cannot be compared: `{base.name}`, `{new.name}`",
            hint="give two model files, or two evidence.json",
        )
    return (load_evidence(base), load_evidence(new)) if kinds == {True} else None


def settings(overrides: Overrides) -> Settings:
    """llama.cpp's own defaults in a short context, but for what was asked."""
    return overrides.applied_to(Settings(context_tokens=CONTEXT_TOKENS))
