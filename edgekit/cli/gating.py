"""The verbs of the main path: bench, fit and gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import (
    BatchOption,
    ContextOption,
    DeviceOption,
    FlashOption,
    GatesOption,
    ItemsOption,
    JsonOption,
    KvOption,
    MmapOption,
    NameOption,
    QualityOption,
    QuietOption,
    ReferenceOption,
    RepackOption,
    RowsOption,
    TasksOption,
    TeacherOption,
    ThreadsOption,
    UbatchOption,
)


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="GGUF file or ONNX folder. Without it: the device's reference student."),
    ] = None,
    device: DeviceOption = [],  # noqa: B006 - typer reads the default, nobody mutates it
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Ten of pp128/tg32: a third of the time, wider.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="More prompt lengths and depths.")] = False,
    sustained: Annotated[str, typer.Option("--sustained", help="Also decode this long, e.g. 10m.")] = "",
    max_repetitions: Annotated[
        int | None, typer.Option("--max-repetitions", min=10, help="Stop adding repetitions here.  [default: 60]")
    ] = None,
    gates: GatesOption = None,
    quality: QualityOption = None,
    reference: ReferenceOption = None,
    teacher: TeacherOption = None,
    tasks: TasksOption = None,
    items: ItemsOption = None,
    name: NameOption = [],  # noqa: B006
    context: ContextOption = None,
    batch: BatchOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    flash_attention: FlashOption = None,
    mmap: MmapOption = None,
    repack: RepackOption = None,
    threads: ThreadsOption = None,
    output_rows: RowsOption = None,
    on_device: Annotated[
        str, typer.Option("--on-device", help="This machine *is* the device of that name: nothing is projected to it.")
    ] = "",
    on: Annotated[
        str, typer.Option("--on", help="Run on ssh:user@host, adb or adb:SERIAL: that machine *is* the device.")
    ] = "local",
    runner: Annotated[
        Path | None,
        typer.Option(
            "--runner", help="With --on: the llama-bench to bring there, or `auto`: the one built for its CPU."
        ),
    ] = None,
    limit_memory: Annotated[
        str, typer.Option("--limit-memory", help="Hold the run to this much memory: a size, or `device` for its share.")
    ] = "",
    timeout: Annotated[str, typer.Option("--timeout", help="Give a worker up after this long.")] = "30m",
    json: JsonOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the HTML page here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and how long.")] = False,
    quiet: QuietOption = False,
) -> int:
    """Measure MODEL here, project it to the devices, judge it and write the release gate report."""
    from functools import partial

    from edgekit import pipeline
    from edgekit.cli import reading, reading_on, reading_quality, showing
    from edgekit.cli.places import Places
    from edgekit.cli.telling import progress
    from edgekit.pipeline.evaluating import appraise_or_tell

    overrides = reading.overrides(context, batch, ubatch, kv_type, flash_attention, mmap, repack, threads, output_rows)
    workload = reading.workload(
        quick=quick, thorough=thorough, sustained=sustained, timeout=timeout, max_repetitions=max_repetitions
    )
    loaded_gates, judged_quality = reading.gates(gates), reading.quality(quality)
    prepared = reading_quality.for_bench(model, quality, reference, teacher, tasks, items, name, threads)
    pipeline.load_targets(device)
    on_device, held = reading_on.device_there(on, device, on_device, runner), reading_on.memory_limit(limit_memory, on)
    pipeline.host_device(on_device, device)
    if dry_run:
        foreseen = partial(pipeline.plan, overrides=overrides, on_device=on_device, prepared=prepared)
        return showing.show_plan(foreseen(model, device, workload=workload, elsewhere=on != "local"), as_json=json)
    places = Places.prepare(out, junit=junit, markdown=markdown, html=html)
    reports, written = [], []
    with progress(quiet=quiet) as told:
        for report in pipeline.bench(
            model,
            device,
            workload=workload,
            overrides=overrides,
            gates=loaded_gates,
            on_device=on_device,
            quality=judged_quality,
            appraise=partial(appraise_or_tell, prepared=prepared, progress=told) if prepared else None,
            elsewhere=reading_on.elsewhere(on, device, runner, told),
            limit_memory=held,
            progress=told,
        ):
            reports.append(report)
            written += places.write(report, among=len(set(device)))
    showing.show(reports, written, as_json=json)
    return pipeline.overall(reports)


def fit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="GGUF file or ONNX folder; no weights are read.")],
    device: DeviceOption = [],  # noqa: B006
    gates: GatesOption = None,
    context: ContextOption = None,
    batch: BatchOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    flash_attention: FlashOption = None,
    mmap: MmapOption = None,
    repack: RepackOption = None,
    threads: ThreadsOption = None,
    output_rows: RowsOption = None,
    json: JsonOption = False,
) -> int:
    """Say from the header alone whether MODEL fits the device's memory, and how fast it should run there.

    The exit code answers for memory; projected speed is shown but not judged. `--gates FILE` judges by that file.
    """
    from edgekit import pipeline
    from edgekit.cli import reading
    from edgekit.cli.fit import show_fit

    overrides = reading.overrides(context, batch, ubatch, kv_type, flash_attention, mmap, repack, threads, output_rows)
    answer = pipeline.fit(model, reading.one_device(device), overrides=overrides, gates=reading.gates(gates))
    show_fit(answer, as_json=json)
    return answer.exit_code


def gate(
    evidence: Annotated[Path, typer.Argument(help="An `evidence.json` or `report.json` that bench wrote.")],
    device: DeviceOption = [],  # noqa: B006
    gates: GatesOption = None,
    quality: QualityOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the reports into this folder.")] = None,
    json: JsonOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the HTML page here.")] = None,
) -> int:
    """Judge recorded evidence again, with other gates or for another device; needs no model."""
    from edgekit import pipeline
    from edgekit.cli import reading, showing
    from edgekit.cli.places import Places

    pipeline.load_targets(device)
    loaded_gates, judged_quality = reading.gates(gates), reading.quality(quality)
    places = Places.prepare(out, junit=junit, markdown=markdown, html=html, wanted=out is not None)
    reports = pipeline.regate(reading.load_evidence(evidence), device, loaded_gates, judged_quality)
    written = [path for report in reports for path in places.write(report, among=len(reports))]
    showing.show(reports, written, as_json=json)
    return pipeline.overall(reports)
