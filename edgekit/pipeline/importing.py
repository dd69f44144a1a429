"""A run that someone made with another tool on the device → evidence, judged like a run of edgekit's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.devices import load_device
from edgekit.errors import EdgekitError
from edgekit.pipeline.gating import Overrides, conclude, gather, open_artifact
from edgekit.pipeline.rescoring import rescored
from edgekit.progress import Progress, silent
from edgekit.records import Gates, Quality, Report, Settings
from edgekit.tables import read_file
from edgekit.targets.foreign import ForeignRun, measurement_of, parse_only, refuse_other_model
from edgekit.targets.llama_bench import read_llama_bench_run
from edgekit.targets.pocketpal import MAX_BYTES, looks_like_pocketpal, read_pocketpal_run


def read_foreign_run(path: Path, only: Sequence[str] = ()) -> ForeignRun:
    """The run in `path`, by llama-bench or PocketPal, as the content says. Raises EdgekitError where it is neither."""
    chosen = parse_only(only)
    text = read_file(path, what="benchmark results", max_bytes=MAX_BYTES)
    return read_pocketpal_run(path, chosen) if looks_like_pocketpal(text) else read_llama_bench_run(path, chosen)


def import_run(
    results: Path,
    model: Path,
    device_name: str,
    *,
    only: Sequence[str] = (),
    gates: Gates | None = None,
    quality: Quality | None = None,
    progress: Progress = silent,
) -> Report:
    """The run in `results` as evidence about `model` on the device, with basis `measured`, and its verdict.

    Judged in the configuration that ran; the verdict names what of it differs from the profile's. Memory, which no such
    file tells, is predicted for it. Raises EdgekitError for a class of devices, and where the run is of another model.
    """
    device = load_device(device_name)
    if device.tier == "class":
        hint = "name the device it ran on; `edgekit devices` lists the profiles"
        raise EdgekitError(f"a run is of one device and not of a class: `{device.name}`", hint=hint)
    run = read_foreign_run(results, only)
    artifact = open_artifact(model, progress=progress)
    refuse_other_model(run, artifact)
    measurement = measurement_of(run, artifact, device.name)
    ran = overrides_of(run.settings)
    evidence = gather(artifact, device, overrides=ran, measurement=measurement, quality=rescored(quality))
    return conclude(evidence, device, gates)


def overrides_of(ran: Settings) -> Overrides:
    """What of the run's settings is judged; context and rows of logits stay the profile's, as they are memory's."""
    return Overrides(
        batch_tokens=ran.batch_tokens,
        ubatch_tokens=ran.ubatch_tokens,
        kv_type=ran.kv_type,
        flash_attention=ran.flash_attention,
        mmap=ran.mmap,
        repack=ran.repack,
        threads=ran.threads or None,
    )
