"""What a task stage learns from: the teacher is asked, its answers are checked and chosen, and cut into windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import corpus
from edgekit.checkpoint import open_checkpoint
from edgekit.distill.chatting import chat_of
from edgekit.distill.generating import generate_from
from edgekit.distill.loading import load_model
from edgekit.distill.material import Material
from edgekit.distill.own_questions import asked as questions_asked
from edgekit.distill.recipe_parts import Synthesizing
from edgekit.distill.samples import Sample, golden, read_samples
from edgekit.distill.selecting import disagreements, select, windows_of_samples
from edgekit.distill.sharding import here
from edgekit.distill.synthesis import Synthesis, synthesize
from edgekit.distill.windows import windows_of
from edgekit.progress import Progress


def task_material(
    asked: Synthesizing,
    teacher: Path,
    student: Path,
    tokenizer: Any,
    out: Path,
    *,
    teacher_sha256: str,
    templates: tuple[str, ...],
    folder: Path,
    besides: frozenset[str] = frozenset(),
    length: int,
    prompt_weight: float,
    seed: int,
    progress: Progress,
) -> Material:
    """Windows of what the teacher in the folder `teacher` wrote into the file `out`; what stands there is not asked for
    again. Files of the recipe lie in `folder`; `besides` are bare questions that are held out. Raises EdgekitError as
    `synthesize` and `select` do.
    """
    settings, own = _synthesis(asked, templates, seed), asked.questions(folder)
    items, held_out = questions_asked(settings, own, besides=besides)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = synthesize(
        open_checkpoint(teacher).config,
        tokenizer,
        settings,
        out,
        progress,
        items=items,
        held_out=held_out,
        turn=chat_of(teacher) if own.chat else None,
        teacher_sha256=teacher_sha256,
        generate=generate_from(lambda: load_model(teacher, frozen=True).to(here().device), tokenizer),
    )
    written = read_samples(out)
    chosen = golden(written) if asked.gold else _chosen(asked, written, student, tokenizer, progress)
    ids, weights = windows_of_samples(tokenizer, chosen, length, prompt_weight)
    windows = windows_of(ids, weights, length)
    usable = sum(sample.usable for sample in written)
    note = (
        f"the teacher wrote {report.samples} different samples of {report.questions} questions, {usable} of them "
        f"right or agreed on; {len(chosen)} were learned from"
    )
    if asked.gold:
        note += ": the known answers of all, in place of the teacher's"
    return Material(
        windows=windows,
        origin="the teacher's samples",
        sha256=windows.sha256,
        notes=(note,),
        teacher_tokens=report.read_tokens + report.tokens,
        seconds=report.seconds,
    )


def _synthesis(asked: Synthesizing, templates: tuple[str, ...], seed: int) -> Synthesis:
    return replace(
        asked.asked,
        domains=asked.asked.domains or corpus.DOMAINS,
        templates=templates,
        seed=seed + 1,  # the first questions of the same seed are those that earlier stages saw
    )


def _chosen(
    asked: Synthesizing, written: tuple[Sample, ...], student: Path, tokenizer: Any, progress: Progress
) -> tuple[Sample, ...]:
    apart: tuple[float, ...] = ()
    if asked.strategy == "disagreement-first":
        apart = disagreements(load_model(student, frozen=True), tokenizer, written, progress=progress)
    return select(written, asked.strategy, apart=apart)
