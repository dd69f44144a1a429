"""The verb that makes a model fit: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import (
    ContextOption,
    FlashOption,
    ForceOption,
    JsonOption,
    KvOption,
    MmapOption,
    QuietOption,
    RepackOption,
    RowsOption,
    ThreadsOption,
    UbatchOption,
)


def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="GGUF file.")],
    device: Annotated[
        str, typer.Option("--device", "-d", help="Profile name or a path to your own .toml.  [default: this host]")
    ] = "",
    on_device: Annotated[str, typer.Option("--on-device", help="This machine *is* the device of that name.")] = "",
    memory: Annotated[str, typer.Option("--memory", help="The limit, e.g. 1.2GB.  [default: the device's gate]")] = "",
    trials: Annotated[int, typer.Option("--trials", min=5, max=200, help="Points to run at most.")] = 20,
    max_prefill_loss: Annotated[
        str, typer.Option("--max-prefill-loss", help="What prompts may lose for less memory or faster answers.")
    ] = "10%",
    context: ContextOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    flash_attention: FlashOption = None,
    mmap: MmapOption = None,
    repack: RepackOption = None,
    threads: ThreadsOption = None,
    output_rows: RowsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the record here, as JSON.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be tried and how long.")] = False,
    quiet: QuietOption = False,
) -> int:
    """Find the settings with which MODEL fits the device and decodes fastest, as flags to paste.

    Memory is predicted for the device, and what may not fit is never run. Speed is tried here: of another device it
    tells only what rests on no kernel and no core of this host. A setting that you give is kept. Exit code 1 where
    nothing fits.
    """
    from edgekit.cli import reading, reading_tuning
    from edgekit.cli.reading_making import free
    from edgekit.cli.showing_tuning import show_tuning, show_tuning_plan
    from edgekit.cli.telling import progress
    from edgekit.pipeline import tuning

    fixed = reading.overrides(context, None, ubatch, kv_type, flash_attention, mmap, repack, threads, output_rows)
    wish = reading_tuning.wish(device, on_device, memory, trials, max_prefill_loss, fixed)
    free(out, force=force)
    if dry_run:
        return show_tuning_plan(tuning.plan(model, wish), as_json=json)
    with progress(quiet=quiet) as told:
        found = tuning.tune(model, wish, progress=told)
    show_tuning(found, out, as_json=json)
    return tuning.EXIT_CODES[found.status]
