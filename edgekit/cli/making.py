"""The verbs that make artifacts and say how good they are: quantize, evaluate, parity, sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import (
    ContextOption,
    GatesOption,
    ItemsOption,
    JsonOption,
    KvOption,
    NameOption,
    QuietOption,
    ReferenceOption,
    TasksOption,
    TeacherOption,
    ThreadsOption,
    UbatchOption,
)

ToOption = Annotated[
    list[str], typer.Option("--to", help="What to make, e.g. gguf:q4_k_m, gguf:f16, onnx:int4; may be repeated.")
]
TextOption = Annotated[
    Path | None, typer.Option("--text", help="UTF-8 text to judge on.  [default: edgekit's held-out corpus]")
]
ReferenceContext = Annotated[int, typer.Option("--context", min=32, help="Tokens in a chunk; its second half counts.")]
ChunksOption = Annotated[int | None, typer.Option("--chunks", min=1, help="Chunks to score.  [default: all]")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", help="Text for the importance matrix.  [default: edgekit's own]")
]
ImatrixOption = Annotated[Path | None, typer.Option("--imatrix", help="Use this importance matrix.")]
NoImatrixOption = Annotated[bool, typer.Option("--no-imatrix", help="Quantize without an importance matrix.")]
ExporterOption = Annotated[str, typer.Option("--exporter", help="ONNX exporter: genai, dynamo or optimum.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]


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


def evaluate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="GGUF file or ONNX folder.")],
    reference: ReferenceOption = None,
    teacher: TeacherOption = None,
    text: TextOption = None,
    context: ReferenceContext = 512,
    chunks: ChunksOption = None,
    tasks: TasksOption = None,
    items: ItemsOption = None,
    domain: Annotated[
        list[str], typer.Option("--domain", help="factual, reasoning, coding or conservation; may be repeated.")
    ] = [],  # noqa: B006
    name: NameOption = [],  # noqa: B006
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Find the tensors that the KLD comes from.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="For `--by-layer`.")] = 10.0,
    kv_type: KvOption = None,
    threads: ThreadsOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Keep the answers here, to be `--teacher` of others.")
    ] = None,
    save_reference: Annotated[
        Path | None, typer.Option("--save-reference", help="Keep what it says of the text here, to be `--reference`.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the record here, as JSON.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Say how good ARTIFACT is, with ranges.

    With `--reference`: KL divergence, agreement and the chat template. With `--teacher`, `--tasks`, `--items` or
    `--save`: tasks of four domains, how much of the teacher is retained, and how alike they answer.
    """
    from edgekit.cli import reading_quality as reading
    from edgekit.cli import showing_making as showing
    from edgekit.cli.telling import progress
    from edgekit.pipeline import evaluating

    asked = reading.asked(
        reference=reference,
        teacher=teacher,
        text=text,
        context=context,
        chunks=chunks,
        tasks=tasks,
        items=items,
        domains=domain,
        names=name,
        by_layer=by_layer,
        minutes=minutes,
        threads=threads,
        save=save,
        save_reference=save_reference,
    )
    places = reading.Outputs.prepare(out=out, answers=save, reference=save_reference, force=force)
    with progress(quiet=quiet) as told:
        if save_reference is not None:
            evaluating.save_reference(artifact, asked, save_reference, force=force, progress=told)
        quality = evaluating.evaluate(
            artifact, asked, settings=reading.settings(kv_type), resume=places.resume, progress=told
        )
    return showing.show_quality(quality, artifact.name, places, as_json=json)


def parity(
    a: Annotated[Path, typer.Argument(metavar="A", help="GGUF file or ONNX folder; the reference.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another build of the same model.")],
    text: TextOption = None,
    context: ReferenceContext = 512,
    chunks: ChunksOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the record here, as JSON.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Hold two builds of one model against each other: perplexity of both, KLD and top-1 agreement between them."""
    from edgekit.cli import reading_making as reading
    from edgekit.cli import showing_making as showing
    from edgekit.cli.telling import progress
    from edgekit.pipeline import evaluating

    reading.free(out, force=force)
    told_text = evaluating.text_of(text)
    with progress(quiet=quiet) as told:
        found = evaluating.parity(
            a, b, told_text, context_tokens=context, chunks=chunks, threads=threads or 0, progress=told
        )
    return showing.show_parity(found, out, as_json=json)


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


def add_to(app: typer.Typer) -> None:
    """Give `app` these verbs."""
    app.command(short_help="Make GGUF and ONNX artifacts of a checkpoint.")(quantize)
    app.command(short_help="How good an artifact is: perplexity, KLD, top-1.")(evaluate)
    app.command(short_help="Hold two builds of one model against each other.")(parity)
    app.command(short_help="Several precisions, judged for one device.")(sweep)
