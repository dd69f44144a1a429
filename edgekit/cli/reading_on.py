"""What `--on`, `--runner` and `--limit-memory` mean. Loaded by verbs only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgekit.cli.reading import size_bytes
from edgekit.errors import EdgekitError
from edgekit.pipeline.gating import Elsewhere
from edgekit.progress import Progress
from edgekit.records import Artifact, Measurement, Workload
from edgekit.targets.where import parse_where
from edgekit.units import format_bytes


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


LEAST_BYTES = 32_000_000
"""Python and llama.cpp's libraries alone take more: below it nothing could start."""


def memory_limit(text: str, on: str) -> int | Literal["", "device"]:
    """Bytes of `--limit-memory`, or that it is each device's own share; empty where it was not given.

    Raises EdgekitError for what is no size, for next to nothing, and for a run on another machine.
    """
    if not text:
        return ""
    if parse_where(on).kind != "local":
        raise EdgekitError(
            "`--limit-memory` holds a run here, and `--on` runs it on the device itself", hint="drop one of the two"
        )
    if text == "device":
        return "device"
    found = int(size_bytes(text, "--limit-memory"))
    if found < LEAST_BYTES:
        raise EdgekitError(
            f"no runtime starts in so little memory: `--limit-memory {text[:40]}`",
            hint=f"`device`, or a size above {format_bytes(LEAST_BYTES)}",
        )
    return found


def elsewhere(on: str, devices: Sequence[str], runner: Path | None, told: Progress) -> Elsewhere | None:
    """How to measure there; `None` for this machine. The profile goes along as it was named."""
    where = parse_where(on)
    if where.kind == "local":
        return None

    def measure(artifact: Artifact, workload: Workload, _device: str) -> Measurement:
        from edgekit.pipeline.elsewhere import measure_there

        return measure_there(where, artifact, workload, on_device=devices[0], runner=runner, progress=told)

    return measure
