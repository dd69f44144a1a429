"""What finding out a model's quality would take, before it is done: from files and headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.header import read_header
from edgekit.pipeline.asking import Prepared
from edgekit.records import Header

BYTES_A_TOKEN, FEW_WORDS = ((1.0, 4.0), (2.0, 6.0)), 8192
"""UTF-8 that a token stands for, from the least to the most: with vocabularies below `FEW_WORDS`, and above."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityIntent:
    """A line for each part, and how long all of it should take, low and high."""

    lines: tuple[str, ...]
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Tokens that one model reads, and writes."""

    header: Header
    read: Span
    written: Span = (0, 0)


def foresee_quality(model: Path, prepared: Prepared, bandwidth_bytes_per_s: float) -> QualityIntent:
    """What `evaluating.appraise` would do with the model at `model`; nothing is run. How many tokens a text has is only
    known to the model, so of a text it is a range.
    """
    from edgekit.bench.duration import answering_duration_s

    lines, works = list[str](), list[_Work]()
    for line, work in (*_scoring(model, prepared), *_answering(model, prepared)):
        lines.append(line)
        works += work
    spans = [answering_duration_s(work.header, work.read, work.written, bandwidth_bytes_per_s) for work in works]
    return QualityIntent(lines=tuple(lines), low_s=sum(low for low, _ in spans), high_s=sum(high for _, high in spans))


def _scoring(model: Path, prepared: Prepared) -> Iterator[tuple[str, list[_Work]]]:
    """The text, read by the model and by a reference that runs."""
    asked, kept = prepared.asked, prepared.kept
    if asked.text is None:
        return
    header = read_header(model)
    fewest, most = _tokens(asked.text.content, header)
    chunks = fewest // asked.context_tokens, most // asked.context_tokens
    if asked.chunks is not None:
        chunks = min(chunks[0], asked.chunks), min(chunks[1], asked.chunks)
    if kept is not None:
        chunks = 2 * (asked.chunks or kept.chunks,)
    readers = [model] if asked.reference is None or kept is not None else [model, asked.reference]
    beside = f" beside {asked.reference.name}" if asked.reference is not None else ""
    read = chunks[0] * asked.context_tokens, chunks[1] * asked.context_tokens
    line = f"score {_span(chunks)} chunks of {asked.context_tokens} tokens of {asked.text.origin}{beside}"
    yield line, [_Work(header=read_header(path), read=read) for path in readers]


def _answering(model: Path, prepared: Prepared) -> Iterator[tuple[str, list[_Work]]]:
    """Items and prompts, put to the model and to a teacher that runs."""
    from edgekit import corpus
    from edgekit.bench.answering import SPARE_TOKENS

    if prepared.bank is None:
        return
    prompts = (*corpus.open_prompts(), *corpus.identity_prompts())
    asked = [item.prompt + "".join(item.choices) for item in prepared.bank.items]
    header = read_header(model)
    read = _tokens("".join([*asked, *(prompt.prompt for prompt in prompts)]), header)
    own = "".join(item.answer for item in prepared.bank.items if item.mode == "generate")
    spare = SPARE_TOKENS * sum(item.mode == "generate" for item in prepared.bank.items)
    written = _tokens(own, header)[0], len(own.encode()) + spare + sum(prompt.max_tokens for prompt in prompts)
    teacher = prepared.teacher if isinstance(prepared.teacher, Path) else None
    of = f" of the model and of {teacher.name}" if teacher is not None else " of the model"
    line = f"ask {len(asked)} questions and {len(prompts)} prompts{of}"
    answering = [read_header(path) for path in (model, teacher) if path is not None]
    yield line, [_Work(header=header, read=read, written=written) for header in answering]


def _tokens(text: str, header: Header) -> Span:
    """The fewest and the most that the tokenizer of a model makes of `text`."""
    size, (least, most) = len(text.encode()), BYTES_A_TOKEN[header.vocabulary >= FEW_WORDS]
    return round(size / most), round(size / least)


def _span(numbers: Span) -> str:
    return str(numbers[0]) if numbers[0] == numbers[1] else f"{numbers[0]} to {numbers[1]}"
