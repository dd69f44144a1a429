"""The verbs that say how good an artifact is: evaluate, parity and harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import (
    ChunksOption,
    ForceOption,
    ItemsOption,
    JsonOption,
    KvOption,
    NameOption,
    QuietOption,
    ReferenceContext,
    ReferenceOption,
    TasksOption,
    TeacherOption,
    TextOption,
    ThreadsOption,
)
from edgekit.errors import ExitCode


def evaluate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="GGUF file or ONNX folder.")],
    reference: ReferenceOption = None,
    teacher: TeacherOption = None,
    text: TextOption = None,
    context: Annotated[
        int | None, typer.Option("--context", min=32, help="Tokens in a chunk; its second half counts.  [default: 512]")
    ] = None,
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
    report: Annotated[Path | None, typer.Option("--report", help="Also write a page here, .html or .md.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Say how good ARTIFACT is, with ranges.

    With `--reference`: KL divergence, agreement and the chat template. With `--teacher`, `--tasks`, `--items` or
    `--save`: tasks of four domains, how much of the teacher is retained, and how alike they answer.
    """
    from dataclasses import replace

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
    inputs = (artifact, reference, teacher, text, tasks)
    places = reading.Outputs.prepare(
        out=out, answers=save, reference=save_reference, page=report, inputs=inputs, force=force
    )
    with progress(quiet=quiet) as told:
        if save_reference is not None:
            kept = evaluating.save_reference(artifact, asked, save_reference, force=force, progress=told)
            showing.tell_reference(kept, save_reference)
            if asked.tasks is None:
                return ExitCode.PASS  # scoring the same text again would say its perplexity and no more
            asked = replace(asked, text=None)
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
    from edgekit.pipeline import asking, evaluating

    reading.free(out, force=force, inputs=(a, b, text))
    told_text = asking.text_of(text)
    with progress(quiet=quiet) as told:
        found = evaluating.parity(
            a, b, told_text, context_tokens=context, chunks=chunks, threads=threads or 0, progress=told
        )
    return showing.show_parity(found, out, as_json=json)


def harness(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="GGUF file or ONNX folder.")],
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks of lm-evaluation-harness.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items of each task.  [default: all]")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Examples.  [default: the task's own]")] = None,
    include: Annotated[Path | None, typer.Option("--include", help="Folder of your own task files.")] = None,
    run_task_code: Annotated[
        bool, typer.Option("--run-task-code", help="Let task files run Python: you have read them.")
    ] = False,
    kv_type: KvOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the record here, as JSON.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run tasks of EleutherAI's lm-evaluation-harness on ARTIFACT, in the runtime that ships it.

    Published tasks fetch their data from the Hugging Face hub; those in `--include` have it beside them.
    """
    from edgekit.cli import reading_making, reading_quality, showing_making
    from edgekit.cli.telling import progress
    from edgekit.pipeline import evaluating

    reading_making.free(out, force=force, inputs=(artifact,))
    with progress(quiet=quiet) as told:
        found = evaluating.harness(
            artifact,
            tasks,
            limit=limit,
            shots=shots,
            include=include,
            run_task_code=run_task_code,
            settings=reading_quality.settings(kv_type),
            threads=threads or 0,
            progress=told,
        )
    return showing_making.show_harness(found, out, as_json=json)
