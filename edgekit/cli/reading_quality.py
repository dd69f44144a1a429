"""What the options about quality mean, and where its outputs go. Loaded by verbs only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.cli.reading import overrides
from edgekit.cli.reading_making import free
from edgekit.errors import EdgekitError
from edgekit.pipeline.asking import Asked, Prepared, Tasks, prepare, text_kept, text_of
from edgekit.pipeline.evaluating import teacher_journal
from edgekit.records import Settings

CONTEXT_TOKENS = 512
"""In a chunk, as llama-perplexity has it, where no saved reference says otherwise."""


def asked(
    *,
    reference: Path | None,
    teacher: Path | None,
    text: Path | None = None,
    context: int | None = None,
    chunks: int | None = None,
    tasks: Path | None = None,
    items: int | None = None,
    domains: Sequence[str] = (),
    names: Sequence[str] = (),
    by_layer: bool = False,
    minutes: float = 10.0,
    threads: int | None = None,
    save: Path | None = None,
    save_reference: Path | None = None,
) -> Asked:
    """What is to be found out: text where a reference or a text is named or nothing else is, tasks where any option
    is about them. A saved reference brings its own text. Raises EdgekitError for options that contradict.
    """
    if tasks is not None and (items is not None or domains):
        raise EdgekitError("your own tasks are asked whole: `--tasks` goes without `--items` and `--domain`")
    if by_layer and reference is None:
        raise EdgekitError(
            "`--by-layer` compares with the full-precision build", hint="add `--reference MODEL-f16.gguf`"
        )
    if save_reference is not None and reference is not None:
        raise EdgekitError(
            "`--save-reference` keeps what ARTIFACT says, and needs no `--reference`",
            hint="give the reference as ARTIFACT",
        )
    about_tasks = any((teacher, tasks, items, domains, save))
    if names and not about_tasks:
        raise EdgekitError("`--name` is about what the model says of itself", hint="add `--items 200` or `--teacher`")
    about_text = any((reference, text, chunks, save_reference, by_layer)) or not about_tasks
    kept = text_kept(reference) if text is None else None
    told, context_tokens = kept or (text_of(text) if about_text else None, CONTEXT_TOKENS)
    return Asked(
        reference=reference,
        teacher=teacher,
        text=told,
        context_tokens=context or context_tokens,
        chunks=chunks,
        tasks=Tasks(items=items or 0, domains=tuple(dict.fromkeys(domains)), file=tasks) if about_tasks else None,
        names=tuple(names),
        by_layer=by_layer,
        minutes=minutes,
        threads=threads or 0,
    )


def for_bench(
    model: Path | None,
    quality: Path | None,
    reference: Path | None,
    teacher: Path | None,
    tasks: Path | None,
    items: int | None,
    names: Sequence[str],
    threads: int | None,
) -> Prepared | None:
    """What `bench` is to find out of its model's quality; `None` where nothing was asked. Raises EdgekitError."""
    if not any((reference, teacher, tasks, items, names)):
        return None
    if model is None:
        raise EdgekitError("stand-in weights are random numbers: their quality says nothing", hint="name a model file")
    if quality is not None:
        raise EdgekitError("choose one: a record of quality (`--quality`), or to measure it now")
    # opened now: measuring takes minutes
    return prepare(asked(reference=reference, teacher=teacher, tasks=tasks, items=items, names=names, threads=threads))


def settings(kv_type: str | None) -> Settings:
    """llama.cpp's own defaults but for the KV type."""
    return overrides(None, None, None, kv_type, None, None, None, None, None).applied_to(Settings())


PAGES = {".html": "html", ".md": "markdown"}
"""Suffix → the format of a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Files that `evaluate` writes besides what it prints: its record, the answers for use as a teacher's, a page."""

    record: Path | None = None
    answers: Path | None = None
    page: Path | None = None

    @staticmethod
    def prepare(
        *,
        out: Path | None,
        answers: Path | None,
        reference: Path | None,
        page: Path | None,
        inputs: Sequence[Path | None],
        force: bool,
    ) -> Outputs:
        """Try every place before the work. Raises EdgekitError where something is, or two are the same; an input is
        never written over, whatever the force.
        """
        given = [path.absolute() for path in (out, answers, reference, page) if path]
        if len(set(given)) < len(given):
            raise EdgekitError(f"two outputs are the same file: `{given[0].name}`", hint="give each a name of its own")
        if answers is not None and answers.suffix != ".json":
            raise EdgekitError(f"answers are kept as JSON: `{answers.name}`", hint=f"`--save {answers.stem}.json`")
        if page is not None and page.suffix not in PAGES:
            raise EdgekitError(
                f"a page is .html or .md: `{page.name}`", hint=f"`--report {page.stem or 'quality'}.html`"
            )
        for path in (out, answers, page):
            free(path, force=force, inputs=inputs)
        free(reference, force=True, inputs=inputs)  # what it may replace, it says itself
        return Outputs(record=out, answers=answers, page=page)

    @property
    def journals(self) -> tuple[Path, ...]:
        """What to delete once everything is written."""
        return (self.resume, teacher_journal(self.resume)) if self.resume is not None else ()

    @property
    def resume(self) -> Path | None:
        """Where answered items are kept while the tasks run; gone when the run ends well."""
        beside = self.answers or self.record
        return beside.with_name(f".{beside.name}.answered.jsonl") if beside else None
