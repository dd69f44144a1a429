"""Runners for devices without Python: built here, listed, and the one that a device takes."""

from __future__ import annotations

from pathlib import Path

from edgekit.progress import Progress, silent
from edgekit.targets.building import build_runners
from edgekit.targets.runners import Built, Spoiled, list_runners
from edgekit.targets.variants import VARIANTS, check_target, check_variant


def build(
    target: str,
    variant: str = "",
    *,
    source: Path | None = None,
    ndk: Path | None = None,
    jobs: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> list[tuple[Built, bool]]:
    """The runners of `target`, each with whether it was built now: of one `variant`, or of all of them.

    Raises EdgekitError as `edgekit.targets.building.build_runners` does, and for an unknown target or variant.
    """
    known = check_target(target)
    wanted = (check_variant(known, variant),) if variant else VARIANTS[known]
    return build_runners(known, wanted, source=source, ndk=ndk, jobs=jobs, force=force, progress=progress)


__all__ = ["Built", "Spoiled", "build", "list_runners"]
