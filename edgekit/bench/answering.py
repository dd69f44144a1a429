"""Questions put to a model: which choice it finds likelier, what it writes itself, and what it says when let go on.

A long run can be taken up again: what was answered stands in a journal, and a command's questions are answered anew
from an empty context, so that the rest comes out as it would have without the break.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from edgekit import __version__, runtimes
from edgekit.bench.host import probe_host
from edgekit.bench.journal import Journal, open_journal
from edgekit.corpus import Bank, Item
from edgekit.corpus.item import plain
from edgekit.corpus.prompts import Prompt
from edgekit.errors import EdgekitError
from edgekit.progress import Progress, silent
from edgekit.records import Answer, Answers, Artifact, Finding, Response, Runtime, Settings
from edgekit.runtimes import Answerer, ChoiceScore, Generated, Question, Weigh, Write
from edgekit.runtimes.answering import BATCH

STAGE = "answering"
RULE = "edgekit answers 1: choices by nats a byte, own words up to the end of the line"
"""Part of a bank's identity: answers got in another way are not compared."""

MAX_PICKED = 200
SPARE_TOKENS = 8
"""What a right answer may take beyond a token a byte: spaces, a period."""


class OpenAnswerer(Protocol):
    """`runtimes.open_answerer`, or a stand-in for it in tests."""

    def __call__(self, artifact: Path, settings: Settings) -> AbstractContextManager[Answerer]: ...


def answer(
    artifact: Artifact,
    bank: Bank,
    *,
    prompts: Sequence[Prompt] = (),
    settings: Settings | None = None,
    threads: int = 0,
    resume: Path | None = None,
    progress: Progress = silent,
    open_answerer: OpenAnswerer = runtimes.open_answerer,
) -> Answers:
    """What `artifact` answers to every item of `bank`, and how it goes on from `prompts`.

    Of a multiple choice it takes the one with the highest log-likelihood a byte after the prompt (`acc_bytes` of
    lm-evaluation-harness): sums favour short choices (Brown et al. 2020, §2.4; Gao, "Multiple Choice Normalization in
    LM Evaluation", 2021), and bytes, unlike tokens, are the same for every tokenizer, so that teacher and student are
    asked alike. Its own words, generated greedily, count up to the end of the line and must be the answer but for
    spaces, case and a final period.

    `settings` are those it runs under (KV type, repacking; the context is as long as the questions need, at most
    `settings.context_tokens`). With `resume` the answers are also kept in that file as they come, and a file of the
    same run is gone on with; it is the caller's to delete. Raises EdgekitError where nothing is asked, where two
    questions have one id, or where `resume` holds another run; WorkerDied for what a runtime declines (`text-rejected`:
    a question longer than the context) and for a process that dies.
    """
    asked = _asked(bank, prompts)
    settings = _settings(settings or Settings(), asked, artifact, threads)
    if resume and not artifact.sha256:
        raise EdgekitError("a run of a file without its hash cannot be taken up again", hint="hash it first")
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    bank_sha256 = identity_of(bank)
    progress(STAGE, 0, len(asked), "loading")
    with (
        open_answerer(Path(artifact.path), settings) as answerer,
        open_journal(resume, _key(artifact, bank_sha256, prompts, settings, answerer.runtime)) as journal,
    ):
        _check_kept(journal.found, bank, prompts, resume)
        broken = _answer_all(answerer, asked, journal, progress)
        runtime, findings, found = answerer.runtime, answerer.findings, journal.found
    # of what an earlier run answered only choices tell
    broken = max(
        broken,
        sum(isinstance(one, Answer) and one.mode == "choice" and one.margin_nats is None for one in found.values()),
    )
    return Answers(
        edgekit_version=__version__,
        model=Path(artifact.path).name,
        artifact_sha256=artifact.sha256,
        bank=bank.name,
        bank_sha256=bank_sha256,
        answers=tuple(one for item in bank.items if isinstance(one := found[item.id], Answer)),
        responses=tuple(one for prompt in prompts if isinstance(one := found[prompt.id], Response)),
        stand_in=artifact.header.stand_in,
        checkpoint_sha256=artifact.provenance.checkpoint_sha256 if artifact.provenance is not None else "",
        settings=settings,
        runtime=runtime,
        host=probe_host(),
        started_at=started_at,
        findings=(*findings, *_doubts(artifact, broken, len(asked))),
    )


# ---- what is asked ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question, and what to make of the reply; it also gets whether logits were no numbers."""

    id: str
    question: Question
    record: Callable[[runtimes.Reply], tuple[Answer | Response, bool]]


def _asked(bank: Bank, prompts: Sequence[Prompt]) -> list[_Asked]:
    """Every question, those that begin alike side by side: a prompt's beginning is not evaluated twice."""
    asked = [*(_of_item(item) for item in bank.items), *(_of_prompt(prompt) for prompt in prompts)]
    if not asked:
        raise EdgekitError("nothing is asked: the bank has no items")
    if len({one.id for one in asked}) < len(asked):
        raise EdgekitError("two questions of the bank have the same id", hint="ids must differ")
    return sorted(asked, key=lambda one: (getattr(one.question, "prompt", ""), one.id))


def _of_item(item: Item) -> _Asked:
    if item.mode == "choice":
        question: Question = Weigh(prompt=item.prompt, continuations=tuple(f" {choice}" for choice in item.choices))
        return _Asked(id=item.id, question=question, record=lambda reply: _chosen(item, reply))
    # whatever is longer than the answer is wrong
    question = Write(prompt=item.prompt, max_tokens=len(item.answer.encode()) + SPARE_TOKENS, stop=("\n",))
    return _Asked(id=item.id, question=question, record=lambda reply: _said(item, reply))


def _of_prompt(prompt: Prompt) -> _Asked:
    question = Write(prompt=prompt.prompt, max_tokens=prompt.max_tokens, stop=prompt.stop)
    return _Asked(id=prompt.id, question=question, record=lambda reply: _responded(prompt, reply))


def _settings(settings: Settings, asked: Sequence[_Asked], artifact: Artifact, threads: int) -> Settings:
    """A context that surely takes the longest question (nearly every token stands for a byte or more), and where there
    is more room than that, several at once.
    """
    needed = max(-(-max(_most_tokens(one.question) for one in asked) // 256) * 256, 512)
    context = min(needed, settings.context_tokens, artifact.header.context_train or needed)
    return replace(settings, context_tokens=context, threads=threads or settings.threads)


def _most_tokens(question: Question) -> int:
    if isinstance(question, Weigh):
        return len(question.prompt.encode()) + max(len(text.encode()) for text in question.continuations) + 16
    if isinstance(question, Write):
        return len(question.prompt.encode()) + question.max_tokens + 16
    return len(question.text.encode()) + 16


def identity_of(bank: Bank) -> str:
    """SHA-256 of the items and of the way they are asked."""
    return hashlib.sha256(f"{RULE}\n{bank.sha256}".encode()).hexdigest()


def _key(
    artifact: Artifact, bank_sha256: str, prompts: Sequence[Prompt], settings: Settings, runtime: Runtime | None
) -> str:
    """What must be the same for a run to be gone on with: another build rounds otherwise, and one record cannot tell
    of two. Threads and the fence may change: they round alike.
    """
    parts = [
        __version__,
        artifact.sha256,
        bank_sha256,
        [(prompt.id, prompt.prompt, prompt.max_tokens, prompt.stop) for prompt in prompts],
        repr(replace(settings, threads=0)),
        repr(replace(runtime, threads=0, isolation="") if runtime else None),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _check_kept(
    found: Mapping[str, Answer | Response], bank: Bank, prompts: Sequence[Prompt], journal: Path | None
) -> None:
    """Raise EdgekitError for an answer from a journal that this bank's question of that id cannot have got."""
    items, asked = {item.id: item for item in bank.items}, {prompt.id for prompt in prompts}
    for one, kept in found.items():
        if not (one in asked if isinstance(kept, Response) else _fits(kept, items.get(one))):
            raise EdgekitError(
                f"the answer kept for `{one[:80]}` is to another question: `{journal}`",
                hint="delete the journal to begin anew",
            )


def _fits(kept: Answer, item: Item | None) -> bool:
    said = (kept.domain, kept.template, kept.mode, kept.chance)
    if item is None or said != (item.domain, item.template, item.mode, item.chance):
        return False
    if item.mode == "generate":
        return True
    shown = [choice[:MAX_PICKED] for choice in item.choices]
    return kept.picked in ("", *shown) and (not kept.correct or kept.picked == item.answer[:MAX_PICKED])


# ---- asking -------------------------------------------------------------------------------------------------------


def _answer_all(answerer: Answerer, asked: Sequence[_Asked], journal: Journal, progress: Progress) -> int:
    """Answer what the journal lacks, a command's worth at a time; how many met logits that are no numbers."""
    broken = 0
    for batch in _batches(asked):
        if all(one.id in journal.found for one in batch):
            continue
        fresh = {}
        for one, reply in zip(batch, answerer.ask([one.question for one in batch]), strict=True):
            fresh[one.id], bad = one.record(reply)
            broken += bad
            done = len(journal.found.keys() | fresh.keys())
            progress(STAGE, done, len(asked), _so_far([*journal.found.values(), *fresh.values()]))
        journal.keep(fresh)
    return broken


def _batches(asked: Sequence[_Asked]) -> Iterator[Sequence[_Asked]]:
    for begin in range(0, len(asked), BATCH):
        yield asked[begin : begin + BATCH]


def _so_far(found: Sequence[Answer | Response]) -> str:
    answers = [one for one in found if isinstance(one, Answer)]
    return f"{sum(one.correct for one in answers)} of {len(answers)} right" if answers else ""


def _chosen(item: Item, reply: runtimes.Reply) -> tuple[Answer, bool]:
    """The likeliest choice a byte, the first of equals."""
    assert isinstance(reply, tuple)
    rates = [score.nats / max(1, score.bytes) for score in reply]
    broken = any(score.broken for score in reply)
    picked = item.choices[rates.index(max(rates))]
    return (
        Answer(
            item=item.id,
            domain=item.domain,
            template=item.template,
            mode="choice",
            correct=picked == item.answer and not broken,
            chance=item.chance,
            picked="" if broken else picked[:MAX_PICKED],
            margin_nats=None if broken else _margin(item, reply),
        ),
        broken,
    )


def _margin(item: Item, scores: Sequence[ChoiceScore]) -> float:
    nats = dict(zip(item.choices, (score.nats for score in scores), strict=True))
    margin = nats[item.answer] - max(value for choice, value in nats.items() if choice != item.answer)
    return float(f"{margin:.6g}") if math.isfinite(margin) else 0.0


def _said(item: Item, reply: runtimes.Reply) -> tuple[Answer, bool]:
    assert isinstance(reply, Generated)
    return (
        Answer(
            item=item.id,
            domain=item.domain,
            template=item.template,
            mode="generate",
            correct=not reply.broken and plain(reply.text) == plain(item.answer),
            chance=item.chance,
            picked=reply.text.strip()[:MAX_PICKED],
        ),
        reply.broken,
    )


def _responded(prompt: Prompt, reply: runtimes.Reply) -> tuple[Response, bool]:
    assert isinstance(reply, Generated)
    return Response(prompt=prompt.id, text=reply.text, tokens=reply.tokens, stopped=reply.stopped), reply.broken


def _doubts(artifact: Artifact, broken: int, asked: int) -> Iterator[Finding]:
    """What a reader of the answers should know."""
    if broken:
        message = f"the artifact is broken: {broken} of {asked} questions met logits that are no numbers"
        yield Finding(level="warning", code="broken-logits", message=message, hint="was it converted rightly?")
    if artifact.header.stand_in:
        message = "stand-in weights are random numbers: these answers say nothing of a model"
        yield Finding(level="warning", code="stand-in-quality", message=message)
