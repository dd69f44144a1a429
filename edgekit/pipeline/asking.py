"""What is to be found out of a model's quality, and the files that the question names, opened before any model runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.files import read_text
from edgekit.header import read_header
from edgekit.records import Answers
from edgekit.storage import load_record

if TYPE_CHECKING:
    from edgekit.corpus import Bank
    from edgekit.records import ReferenceFile

DEFAULT_ITEMS = 2000
"""Answered by student and teacher they give retention within about three points either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text and where it came from."""

    content: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Which items are asked. `file` holds the user's own; `items = 0` asks as many as a saved teacher answered, or
    the default number; no `domains` are all of them.
    """

    items: int = 0
    domains: tuple[str, ...] = ()
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be found out of an artifact. `reference` is a model, or a file of what it said; `teacher` a model, or
    its saved answers. Without `text` none is scored, without `tasks` none is asked.
    """

    reference: Path | None = None
    teacher: Path | None = None
    text: Text | None = None
    context_tokens: int = 512
    chunks: int | None = None
    tasks: Tasks | None = None
    names: tuple[str, ...] = ()
    """Names that the model may call itself by."""
    by_layer: bool = False
    minutes: float = 10.0
    """For finding the layers."""
    threads: int = 0


def text_of(path: Path | None) -> Text:
    """The text file at `path`, or the held-out part of edgekit's own corpus. Raises EdgekitError when it is no text."""
    if path is not None:
        return Text(content=read_text(path), origin=path.name)
    from edgekit import corpus

    return Text(content=corpus.text("evaluation"), origin=corpus.EVALUATION_ORIGIN)


def text_kept(reference: Path | None) -> tuple[Text, int] | None:
    """The text that a saved reference was made on, and the tokens of its chunks; `None` of a model, or without one.
    Raises EdgekitError for a file that is damaged.
    """
    from edgekit import bench

    if reference is None or not bench.is_reference_file(reference):
        return None
    file = bench.open_reference_file(reference)
    return Text(content=bench.read_reference_text(file), origin=file.text_origin), file.context_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question whose files are open: the saved reference where it is one, the items to ask, and the teacher, its
    saved answers where it is a file of them.
    """

    asked: Asked
    kept: ReferenceFile | None = None
    bank: Bank | None = None
    teacher: Path | Answers | None = None


def prepare(asked: Asked) -> Prepared:
    """Open what `asked` names. Raises EdgekitError for what can be seen of models and files before any of them runs."""
    from edgekit import bench
    from edgekit.runtimes.cores import check_threads

    check_threads(asked.threads)
    kept = _kept(asked)
    bank, teacher = _tasks(asked)
    if isinstance(teacher, Path):
        if bench.is_reference_file(teacher):
            raise EdgekitError(f"a saved reference holds no answers: `{teacher}`", hint="it is for `--reference`")
        read_header(teacher)
    return Prepared(asked=asked, kept=kept, bank=bank, teacher=teacher)


def _kept(asked: Asked) -> ReferenceFile | None:
    """The saved reference, which must be of the text asked about; `None` of a model, whose header is read."""
    from edgekit import bench
    from edgekit.bench.hashing import hash_text
    from edgekit.bench.reference_file import check_usable

    if asked.reference is None:
        return None
    if not bench.is_reference_file(asked.reference):
        if asked.reference.suffix.lower() == ".json":
            raise EdgekitError(
                f"answers and records are no reference: `{asked.reference}`", hint="answers: `--teacher`"
            )
        read_header(asked.reference)
        return None
    if asked.by_layer:
        raise EdgekitError(
            f"`--by-layer` needs the model itself, not a file of what it said: `{asked.reference}`",
            hint="give the full-precision GGUF as `--reference`",
        )
    kept = bench.open_reference_file(asked.reference)
    if asked.text is not None:
        digest = hash_text(asked.text.content)
        check_usable(kept, text_sha256=digest, context_tokens=asked.context_tokens, chunks=asked.chunks)
    return kept


def _tasks(asked: Asked) -> tuple[Bank | None, Path | Answers | None]:
    """The items to ask, and the teacher: its saved answers where it is a file of them."""
    if asked.tasks is None:
        return None, None
    from edgekit import bench, corpus
    from edgekit.corpus.bank import NAME as OWN_TASKS

    saved = load_record(asked.teacher, Answers) if asked.teacher and asked.teacher.suffix == ".json" else None
    if asked.tasks.file is not None:
        bank = corpus.read_bank(asked.tasks.file)
    else:
        if saved is not None and not saved.bank.startswith(f"{OWN_TASKS}-"):
            raise EdgekitError(
                f"the teacher answered tasks that are not edgekit's own: `{saved.bank}`",
                hint="name their file with `--tasks`",
            )
        answered = tuple(dict.fromkeys(answer.domain for answer in saved.answers)) if saved else ()
        bank = corpus.task_bank(
            items=asked.tasks.items or (len(saved.answers) if saved else DEFAULT_ITEMS),
            domains=asked.tasks.domains or answered or corpus.DOMAINS,
        )
    if saved is not None:
        bench.check_teacher(saved, bank)  # before a student is asked for an hour
    return bank, saved or asked.teacher
