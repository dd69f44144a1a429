"""Answering as the bench sees it: one model in a fenced process that weighs given continuations and writes its own.

Nothing the process says is believed unchecked: it has parsed a stranger's file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.records import Finding, Runtime, Settings
from edgekit.runtimes.answering_packs import SEQUENCES
from edgekit.runtimes.cores import check_threads
from edgekit.runtimes.handle import (
    amx_findings,
    amx_state,
    describe_runtime,
    readable,
    runtime_of,
    start_child,
    worker_limits,
)
from edgekit.runtimes.process import Child, worker_command
from edgekit.runtimes.protocol import WORST_NATS, Done, Loaded, Ready, Weighed, Written

BATCH = 32
"""Questions a command: enough that the pipe is never waited for. What one answer follows from does not depend on which
were asked in earlier commands.
"""

BLOCK_ROWS = 128
"""Rows of logits held at a time: 78 MB at Qwen's vocabulary."""

MAX_WRITTEN_BYTES = 2**16 + 64
_KEPT_CONTROLS = "\n\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weigh:
    """How likely each of `continuations` is after `prompt`, written behind it as they are. What is longer than the
    context is refused; with `cut` its beginning is left out.
    """

    prompt: str
    continuations: tuple[str, ...]
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What the model writes after `prompt`, greedily; a word of `stop` ends it and is not part of it."""

    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """How likely a text is from its first token on."""

    text: str


Question = Weigh | Write | Roll


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """`nats` is the log-likelihood (0 is certain), over `tokens` of the model's; `bytes` is the UTF-8 of the text
    without the space before it. `greedy`: each token was the likeliest. Of a `broken` one, whose logits were no
    numbers, `nats` is minus infinity.
    """

    nats: float
    tokens: int
    bytes: int
    greedy: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """`stopped`: the model or a stop word ended it, not the limit. `broken`: it ended at logits that are no numbers."""

    text: str
    tokens: int
    stopped: bool
    broken: bool = False


Reply = tuple[ChoiceScore, ...] | Generated


class Answerer:
    """A process with the model loaded. Made by `open_answerer`; raises WorkerDied from any method."""

    def __init__(self, child: Child, ready: Ready, loaded: Loaded, timeout_s: float) -> None:
        self._child, self._timeout_s = child, timeout_s
        self.runtime: Runtime = describe_runtime(child, ready, loaded)
        self.context_tokens, self.vocabulary = loaded.context_tokens, loaded.vocabulary
        self.findings: tuple[Finding, ...] = amx_findings()

    def choices(self, prompt: str, choices: Sequence[str]) -> tuple[ChoiceScore, ...]:
        """Log-likelihood of `" " + choice` after `prompt`, for each of them."""
        reply = self._one(Weigh(prompt=prompt, continuations=tuple(f" {choice}" for choice in choices)))
        assert isinstance(reply, tuple)
        return reply

    def generate(self, prompt: str, *, max_tokens: int, stop: Sequence[str] = ()) -> Generated:
        """What the model writes after `prompt`, greedily, up to `max_tokens`, its own end, or a word of `stop`."""
        reply = self._one(Write(prompt=prompt, max_tokens=max_tokens, stop=tuple(stop)))
        assert isinstance(reply, Generated)
        return reply

    def rolling(self, text: str) -> ChoiceScore:
        """Log-likelihood of the whole of `text`, which may be longer than the context."""
        reply = self._one(Roll(text=text))
        assert isinstance(reply, tuple)
        return reply[0]

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """A reply to each of `questions`, in their order, as soon as it is there: for `Weigh` a ChoiceScore for each
        continuation, for `Roll` a single one, for `Write` a Generated. Leaving the iteration early breaks the answerer.

        Prompts that begin alike are answered faster side by side. Raises EdgekitError for a question that asks nothing,
        WorkerDied with the code `text-rejected` for one that does not fit into the context.
        """
        for question in questions:
            _check(question)
        for begin in range(0, len(questions), BATCH):
            batch = questions[begin : begin + BATCH]
            self._child.command({"op": "ask", "questions": [_command(question) for question in batch]})
            for index, question in enumerate(batch):
                yield self._reply(index, question, f"answering question {begin + index + 1} of {len(questions)}")
            self._expect(Done, doing="finishing")

    def _one(self, question: Question) -> Reply:
        return next(iter(list(self.ask([question]))))

    def _expect(self, *kinds: Any, doing: str) -> Any:
        self._child.deadline = time.monotonic() + self._timeout_s
        return self._child.expect(*kinds, doing=doing)

    def _reply(self, index: int, question: Question, doing: str) -> Reply:
        if isinstance(question, Write):
            return self._generated(index, question, self._expect(Written, doing=doing))
        texts = question.continuations if isinstance(question, Weigh) else (question.text,)
        return self._scores(index, texts, question, self._expect(Weighed, doing=doing))

    def _scores(
        self, index: int, texts: tuple[str, ...], question: Weigh | Roll, said: Weighed
    ) -> tuple[ChoiceScore, ...]:
        """The scores in a message that can be true."""
        columns = (said.nano, said.tokens, said.greedy, said.broken)
        if said.question != index or any(len(column) != len(texts) for column in columns):
            raise self._child.distrust("an answer that was not asked for")
        prompt_bytes = len(question.prompt.encode()) if isinstance(question, Weigh) else 0
        scores = []
        for text, nano, tokens, greedy, broken in zip(texts, *columns, strict=True):
            # nearly every token stands for a byte or more
            if not 1 <= tokens <= prompt_bytes + len(text.encode()) + 16 or max(greedy, broken) > 1:
                raise self._child.distrust("tokens that cannot be")
            if nano > WORST_NATS * 10**9 * tokens or (broken and (nano or greedy)):
                raise self._child.distrust("a likelihood that cannot be")
            scores.append(
                ChoiceScore(
                    nats=-nano / 1e9 if not broken else float("-inf"),
                    tokens=tokens,
                    bytes=len(text.removeprefix(" ").encode()),
                    greedy=bool(greedy),
                    broken=bool(broken),
                )
            )
        return tuple(scores)

    def _generated(self, index: int, question: Write, said: Written) -> Generated:
        """The text of a message that can be true, its control characters replaced."""
        if said.question != index or said.tokens > question.max_tokens or max(said.stopped, said.broken) > 1:
            raise self._child.distrust("an answer that was not asked for")
        if len(said.text) > MAX_WRITTEN_BYTES or max(said.text, default=0) > 255 or (said.text and not said.tokens):
            raise self._child.distrust("a text that cannot be")
        return Generated(
            text=_clean(bytes(said.text).decode("utf-8", "replace")),
            tokens=said.tokens,
            stopped=bool(said.stopped and not said.broken),
            broken=bool(said.broken),
        )


@contextmanager
def open_answerer(
    artifact: Path,
    settings: Settings,
    *,
    timeout_s: float = 900.0,
    command: Sequence[str] | None = None,
) -> Iterator[Answerer]:
    """A fresh process with `artifact` loaded under `settings`; it is gone when the block ends, Ctrl-C included.

    `timeout_s` is the longest that loading, and then that any one answer may take. Raises WorkerDied as `open_worker`
    does.
    """
    judged = replace(
        settings,
        batch_tokens=min(settings.batch_tokens, settings.context_tokens),
        ubatch_tokens=min(settings.ubatch_tokens, settings.context_tokens),
        output_rows=BLOCK_ROWS,
    )
    check_threads(settings.threads)
    runtime = runtime_of(artifact)
    if runtime != "llamacpp":  # others hold the logits of a whole ubatch
        judged = replace(judged, ubatch_tokens=min(judged.ubatch_tokens, BLOCK_ROWS))
    start = {
        "op": "start",
        "parent": os.getpid(),
        "models": [
            {
                "runtime": runtime,
                "path": str(artifact.absolute()),
                "settings": asdict(judged),
                "sequences": SEQUENCES,
            }
        ],
        "readable": readable(artifact),
        "limits": worker_limits(),
        "block_rows": BLOCK_ROWS,
    }
    program = command or worker_command("edgekit.runtimes.answering_worker")
    child, (ready, loaded) = start_child(timeout_s, program, lambda child: _start(child, start))
    try:
        yield Answerer(child, ready, loaded, timeout_s)
    finally:
        child.close()


def _start(child: Child, start: dict[str, Any]) -> tuple[Ready, Loaded]:
    child.command({**start, "amx": amx_state()})
    ready = child.expect(Ready, doing="starting")
    child.command({"op": "load"})
    loaded = child.expect(Loaded, doing="loading the model")
    assert isinstance(ready, Ready)
    assert isinstance(loaded, Loaded)
    return ready, loaded


def _check(question: Question) -> None:
    """Raise EdgekitError for a question that asks nothing."""
    if isinstance(question, Write):
        if question.max_tokens < 1 or not all(question.stop):
            raise EdgekitError(f"a generation needs room for a token, and no stop word is empty: `{question}`")
    elif isinstance(question, Roll):
        if not question.text:
            raise EdgekitError("an empty text has no likelihood")
    elif not question.continuations or not all(question.continuations):
        raise EdgekitError(f"a continuation is empty, of the prompt `{question.prompt[:60]}`")


def _command(question: Question) -> dict[str, Any]:
    return {"kind": type(question).__name__.lower(), **asdict(question)}


def _clean(text: str) -> str:
    """`text` with every character but line ends and tabs that could move a cursor or hide in a report replaced by
    `·`.
    """
    return "".join(letter if letter.isprintable() or letter in _KEPT_CONTROLS else "·" for letter in text)
