"""The verbs that make artifacts: quantize and sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import (
    ContextOption,
    ForceOption,
    GatesOption,
    JsonOption,
    KvOption,
    QuietOption,
    TextOption,
    ThreadsOption,
    UbatchOption,
)

ToOption = Annotated[
    list[str], typer.Option("--to", help="What to make, e.g. gguf:q4_k_m, gguf:f16, onnx:int4; may be repeated.")
]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", help="Text for the importance matrix.  [default: edgekit's own]")
]
ImatrixOption = Annotated[Path | None, typer.Option("--imatrix", help="Use this importance matrix.")]
NoImatrixOption = Annotated[bool, typer.Option("--no-imatrix", help="Quantize without an importance matrix.")]
ExporterOption = Annotated[str, typer.Option("--exporter", help="ONNX exporter: genai, dynamo or optimum.")]


def quantize(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder, or a GGUF of floats.")],
    to: ToOption = [],  # noqa: B006 - typer reads the default, nobody mutates it
    for_device: Annotated[str, typer.Option("--for", help="The best types for this device's memory gate.")] = "",
    budget: Annotated[str, typer.Option("--budget", help="Memory at run time, e.g. 1.2GB.")] = "",
    bpw: Annotated[float | None, typer.Option("--bpw", min=1, max=16, help="Bits per weight of the file.")] = None,
    min_decode: Annotated[float, typer.Option("--min-decode", min=0, help="tok/s the device must reach.")] = 0.0,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="With a budget: write the plan here. Without: follow this plan.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="For measuring sensitivities.")] = 15.0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.  [default: ./edgekit-models]")] = None,
    calibration: CalibrationOption = None,
    imatrix: ImatrixOption = None,
    no_imatrix: NoImatrixOption = False,
    tensor_type: Annotated[
        list[str], typer.Option("--tensor-type", help="PATTERN=TYPE, as llama-quantize takes it; may be repeated.")
    ] = [],  # noqa: B006
    output_type: Annotated[str | None, typer.Option("--output-type", help="Type of the output matrix.")] = None,
    embedding_type: Annotated[str | None, typer.Option("--embedding-type", help="Type of the token table.")] = None,
    pure: Annotated[bool, typer.Option("--pure", help="One type for every matrix.")] = False,
    exporter: ExporterOption = "genai",
    context: ContextOption = None,
    ubatch: UbatchOption = None,
    kv_type: KvOption = None,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and what it takes.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Make artifacts of CHECKPOINT: GGUF by llama.cpp's quantizer, ONNX by the model builder.

    `--for DEVICE`, `--budget` and `--bpw` find the types of every tensor that lose the least within the limit; what
    was measured for that is kept, so that another budget is answered at once.
    """
    from edgekit.cli import reading_making as reading
    from edgekit.cli import showing_making as showing
    from edgekit.cli.telling import progress
    from edgekit.pipeline import quantizing

    making = reading.making(
        calibration=calibration,
        imatrix=imatrix,
        no_imatrix=no_imatrix,
        tensor_types=tensor_type,
        output_type=output_type,
        embedding_type=embedding_type,
        pure=pure,
        exporter=exporter,
        threads=threads,
        force=force,
    )
    wanted = reading.wanted(for_device, budget, bpw, min_decode, plan, minutes, context, ubatch, kv_type, force=force)
    place = reading.folder(out)
    if dry_run:
        return showing.show_intentions(
            quantizing.foresee(source, to, place, wanted=wanted, making=making), as_json=json
        )
    with progress(quiet=quiet) as told:
        made = list(quantizing.quantize(source, to, place, wanted=wanted, making=making, progress=told))
    return showing.show_made(made, as_json=json)


def sweep(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder, or a GGUF of floats.")],
    device: Annotated[str, typer.Option("--device", "-d", help="Profile name or a path to your own .toml.")],
    to: ToOption = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; a second run goes on there.")] = None,
    text: TextOption = None,
    chunks: Annotated[int, typer.Option("--chunks", min=1, help="Chunks of text to score.")] = 40,
    thorough: Annotated[bool, typer.Option("--full", help="Full measurements in place of quick ones.")] = False,
    gates: GatesOption = None,
    calibration: CalibrationOption = None,
    imatrix: ImatrixOption = None,
    no_imatrix: NoImatrixOption = False,
    exporter: ExporterOption = "genai",
    threads: ThreadsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Make CHECKPOINT at several precisions, bench and judge each for a device, and say which to ship.

    A sweep that was stopped continues where it stopped when it is called again with the same folder.
    """
    from edgekit.cli import reading, showing_making
    from edgekit.cli import reading_making as making
    from edgekit.cli.telling import progress
    from edgekit.pipeline import sweeping

    chosen = making.making(
        calibration=calibration,
        imatrix=imatrix,
        no_imatrix=no_imatrix,
        exporter=exporter,
        threads=threads,
    )
    loaded_gates = reading.gates(gates)
    workload = reading.workload(quick=not thorough, thorough=False, sustained="", timeout="30m")
    place = making.folder(out, f"sweep-{making.plain(source.resolve().name)}")
    with progress(quiet=quiet) as told:
        found = sweeping.sweep(
            source,
            device,
            to or list(sweeping.CLASSIC),
            place,
            making=chosen,
            workload=workload,
            text=text,
            chunks=chunks,
            gates=loaded_gates,
            progress=told,
        )
    return showing_making.show_sweep(found, place, as_json=json)
