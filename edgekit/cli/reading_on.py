"""What `--on` and `--runner` mean. Loaded by verbs only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.pipeline.gating import Elsewhere
from edgekit.progress import Progress
from edgekit.records import Artifact, Measurement, Workload
from edgekit.targets.where import parse_where


def device_there(on: str, devices: Sequence[str], on_device: str, runner: Path | None) -> str:
    """The profile of the machine that runs: with `--on` the one device judged, else `--on-device` as it is.

    Raises EdgekitError where `--on` names no place, or not exactly one device is judged, or the flags contradict.
    """
    if parse_where(on).kind == "local":
        if runner is not None:
            raise EdgekitError("`--runner` is for another machine", hint="add `--on ssh:user@host` or `--on adb`")
        return on_device
    if len(devices) != 1:
        raise EdgekitError(
            f"`--on` measures one device, and {len(devices)} are judged", hint="give the one `--device` that it is"
        )
    if on_device and on_device != devices[0]:
        raise EdgekitError(f"`--on` and `--on-device` contradict each other: `{on_device}`", hint="drop `--on-device`")
    return devices[0]


def elsewhere(on: str, devices: Sequence[str], runner: Path | None, told: Progress) -> Elsewhere | None:
    """How to measure there; `None` for this machine. The profile goes along as it was named."""
    where = parse_where(on)
    if where.kind == "local":
        return None

    def measure(artifact: Artifact, workload: Workload, _device: str) -> Measurement:
        from edgekit.pipeline.elsewhere import measure_there

        return measure_there(where, artifact, workload, on_device=devices[0], runner=runner, progress=told)

    return measure
