"""A teacher's checkpoint → a file of training samples, apart from any recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.checkpoint import hash_checkpoint, open_checkpoint
from edgekit.distill.chatting import chat_of
from edgekit.distill.generating import generate_from
from edgekit.distill.loading import load_model
from edgekit.distill.model_facts import tokenizer_of
from edgekit.distill.own_questions import Questions, asked
from edgekit.distill.scaling import vllm_generate
from edgekit.distill.synthesis import Synthesis, check_synthesis, check_votes, context_of, plan_of, synthesize
from edgekit.errors import EdgekitError, import_extra
from edgekit.progress import Progress, silent
from edgekit.records.synthesis import SynthesisReport

BACKENDS = ("transformers", "vllm")
OF_THE_CORPUS = Questions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a synthesis would ask. `written_tokens` is the most that the teacher may write."""

    questions: int
    samples: int
    batches: int
    read_tokens: int
    written_tokens: int
    too_long: int
    held_out: int


def write_samples(
    teacher: Path,
    settings: Synthesis,
    out: Path,
    *,
    questions: Questions = OF_THE_CORPUS,
    shards: tuple[int, int] = (0, 1),
    backend: str = "transformers",
    workers: int = 1,
    threads: int = 0,
    progress: Progress = silent,
) -> SynthesisReport:
    """Have the teacher in the folder `teacher` write samples into `out`, as `distill.synthesis.synthesize` does.

    `backend` is `transformers` (on the GPU where there is one) or `vllm` on `workers` engines that Ray Data feeds (the
    extra `scale`). Raises EdgekitError.
    """
    check_synthesis(settings, shards)
    checkpoint = open_checkpoint(teacher)
    tokenizer = tokenizer_of(checkpoint)
    items, held_out = asked(settings, questions)
    check_votes(items, settings)  # what can be refused is refused before gigabytes are loaded
    if out.exists() and not out.is_file():
        raise EdgekitError(f"the output is not a regular file: `{out}`", hint="name a file to write")
    torch = import_extra("torch", extra="distill")
    if threads:
        torch.set_num_threads(threads)

    def loaded() -> Any:
        progress("loading the teacher", 0, 0)
        return load_model(teacher, frozen=True).to("cuda" if torch.cuda.is_available() else "cpu")

    return synthesize(
        checkpoint.config,
        tokenizer,
        settings,
        out,
        progress,
        items=items,
        held_out=held_out,
        turn=chat_of(teacher) if questions.chat else None,
        teacher_sha256=hash_checkpoint(checkpoint, progress=progress),
        shards=shards,
        generate=(vllm_generate(teacher, workers=workers) if backend == "vllm" else generate_from(loaded, tokenizer)),
        decoded_by=backend,
    )


def foresee(teacher: Path, settings: Synthesis, *, questions: Questions = OF_THE_CORPUS) -> Foreseen:
    """What the same call would ask, without the weights. Raises EdgekitError."""
    check_synthesis(settings, (0, 1))
    checkpoint = open_checkpoint(teacher)
    items, held_out = asked(settings, questions)
    turn, context = chat_of(teacher) if questions.chat else None, context_of(checkpoint.config)
    plan = plan_of(tokenizer_of(checkpoint), items, settings, held_out=held_out, turn=turn, context=context)
    return Foreseen(
        questions=len(plan.asks),
        samples=len(plan.asks) * settings.samples,
        batches=len(plan.batches),
        read_tokens=sum(len(ask.ids) for ask in plan.asks) * settings.samples,
        written_tokens=sum(settings.limits[ask.style] for ask in plan.asks) * settings.samples,
        too_long=plan.too_long,
        held_out=plan.held_out,
    )


__all__ = ["BACKENDS", "Foreseen", "Questions", "foresee", "write_samples"]
