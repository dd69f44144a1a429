"""The verb synthesize: a teacher writes training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekit.cli.options import JsonOption, QuietOption, ThreadsOption


def synthesize(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file to write; a second run goes on there.")],
    domain: Annotated[
        list[str], typer.Option("--domain", help="factual, reasoning, coding or conservation; may be repeated.")
    ] = [],  # noqa: B006 - typer reads the default, nobody mutates it
    template: Annotated[
        list[str], typer.Option("--template", help="Only questions of this template; may be repeated.")
    ] = [],  # noqa: B006
    each: Annotated[int, typer.Option("--each", min=1, help="Questions of each template.")] = 50,
    questions: Annotated[int, typer.Option("--questions", min=0, help="At most so many in all; 0: no limit.")] = 0,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Your own questions, JSONL; `answer` may be left out.")
    ] = None,
    held_out: Annotated[
        list[Path], typer.Option("--held-out", help="JSONL of items that evaluate: never asked; may be repeated.")
    ] = [],  # noqa: B006
    style: Annotated[
        list[str], typer.Option("--style", help="answer, or rationale (reasons, then the answer); may be repeated.")
    ] = [],  # noqa: B006
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the teacher's own chat template.")] = False,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Completions of each question.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0: the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option("--top-p", help="Share of the likeliest tokens to draw from.")] = 0.95,
    most_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of a plain answer.")] = 32,
    most_reasoning_tokens: Annotated[int, typer.Option("--max-reasoning-tokens", min=1, help="With reasons.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples that are written at a time.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of questions and samples.")] = 1,
    shard: Annotated[
        str, typer.Option("--shard", help="Ask this part only, e.g. 1/4; the last one to finish joins all.")
    ] = "1/1",
    backend: Annotated[
        Literal["transformers", "vllm"], typer.Option("--backend", help="Who decodes.")
    ] = "transformers",
    workers: Annotated[int, typer.Option("--workers", min=1, help="vLLM engines, a GPU each.")] = 1,
    threads: ThreadsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Have TEACHER write training data for a student: answers to questions of the corpus' train split (or to your
    own), each checked against the known answer or by what most samples agree on.

    Every sample is kept with its mark; which ones a student learns from is chosen when it is trained. The same
    teacher, questions and settings give the same file, after a kill and from several shards too.
    """
    from edgekit.cli import reading_synthesizing as reading
    from edgekit.cli.places import ensure_writable
    from edgekit.cli.telling import progress
    from edgekit.distill.synthesis import Synthesis
    from edgekit.pipeline import synthesizing

    settings = Synthesis(
        domains=reading.domains(domain),
        templates=tuple(template),
        each=each,
        questions=questions,
        styles=tuple(dict.fromkeys(style)) or ("answer",),
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        most_tokens=most_tokens,
        most_reasoning_tokens=most_reasoning_tokens,
        batch=batch,
        seed=seed,
    )
    wanted = synthesizing.Questions(prompts=prompts, held_out=tuple(held_out), chat=chat)
    which = reading.shard(shard)
    if dry_run:
        return reading.show_foreseen(synthesizing.foresee(teacher, settings, questions=wanted), as_json=json)
    ensure_writable(out.absolute().parent)
    with progress(quiet=quiet) as told:
        report = synthesizing.write_samples(
            teacher,
            settings,
            out,
            questions=wanted,
            shards=which,
            backend=backend,
            workers=workers,
            threads=threads or 0,
            progress=told,
        )
    return reading.show_report(report, as_json=json)
