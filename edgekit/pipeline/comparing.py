"""The pull-request gate: two builds, or two recorded runs → whether the new one is worse than allowed."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import EdgekitError, ExitCode
from edgekit.pipeline.gating import open_artifact
from edgekit.progress import Progress, silent
from edgekit.records import Comparison, Evidence, Settings

EXIT_CODES = {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "unknown": ExitCode.UNKNOWN}


def compare(
    base: Path, new: Path, limits: dict[str, float], *, settings: Settings | None = None, progress: Progress = silent
) -> Comparison:
    """Run the model files `base` and `new` in turn under `settings`, and judge the change by `limits` (the worst
    ratio NEW ÷ BASE of each metric). Raises EdgekitError.
    """
    from edgekit import bench

    opened = [open_artifact(path, progress=progress) for path in (base, new)]
    for artifact in opened:
        if artifact.header.format != opened[0].header.format:
            raise EdgekitError(
                f"the two are of unlike formats: `{opened[0].header.format}` and `{artifact.header.format}`",
                hint="compare builds that one runtime runs; `edgekit sweep` sets formats side by side",
            )
    return bench.compare(opened[0], opened[1], limits, settings=settings, progress=progress)


def compare_recorded(base: Evidence, new: Evidence, limits: dict[str, float]) -> Comparison:
    """The same of two recorded runs, which did not run in turn. Raises EdgekitError where they were not alike."""
    from edgekit import bench

    return bench.compare_recorded(base, new, limits)
