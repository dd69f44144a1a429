"""The child process that scores a text: as `worker`, with one model or two, and numpy. Logits never leave it.

Chunks, the half that is scored, and the first token are those of tools/perplexity/perplexity.cpp. What a runtime's
session must offer beyond the timed loops' is `ScoringSession`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekit.records import Settings
from edgekit.runtimes import RUNTIMES, llamacpp, sandbox
from edgekit.runtimes import worker as worker_module
from edgekit.runtimes.protocol import WORST_NATS as WORST_NATS
from edgekit.runtimes.protocol import Counted, Done, Loaded, Message, Ready, Scored, SessionRefused
from edgekit.runtimes.steps import TimedSession
from edgekit.runtimes.worker import Send

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 40


class ScoringSession(TimedSession, Protocol):
    """What scoring needs of a runtime."""

    threads: int

    def feed(self, tokens: Sequence[int], want: Literal["last", "all"] = "last") -> NDArray[np.float32]:
        """Evaluate `tokens` after what is in the context; (len(tokens), vocabulary) logits for `all`."""
        ...

    def reset(self) -> None:
        """Forget every token."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text` as plain text: no special token is added (`first_token` says which belongs in front), and
        none is read from the text.
        """
        ...

    def token_texts(self) -> Iterable[str | None]:
        """What each of `vocabulary` tokens stands for, as the tokenizer's file writes it; `None` for padding."""
        ...


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> None:
    """Open one model, or two (the second is the reference), and score the text that came with the start command."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would starve numpy's between two batches
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    models = start["models"]
    if any(RUNTIMES[model["runtime"]] is llamacpp for model in models):
        llamacpp.import_bindings_alone()
    if start["amx"] == "denied":
        sandbox.deny_amx()
    builds = [RUNTIMES[model["runtime"]].describe_build() for model in models]
    isolation = sandbox.fence_in([Path(name) for name in start["readable"]], sandbox.Limits(**start["limits"]))
    for build, features in builds:
        send(Ready(build=build, cpu_features=features, isolation=", ".join(isolation)))

    sessions: list[ScoringSession] = []
    for model, (_, features) in zip(models, builds, strict=True):
        if next(commands, {"op": "quit"})["op"] != "load":
            return
        sessions.append(_open(model, send, try_amx=start["amx"] == "allowed" and "AMX" in features))
    if next(commands, {"op": "quit"})["op"] != "score":
        return
    for message in score(sessions, start["text"], start["context_tokens"], start["chunks"], start["block_rows"]):
        send(message)


def _open(model: dict[str, Any], send: Send, *, try_amx: bool) -> ScoringSession:
    settings = Settings(**model["settings"])
    begun = time.perf_counter_ns()
    session: ScoringSession = RUNTIMES[model["runtime"]].open_session(Path(model["path"]), settings)
    loaded_ns = time.perf_counter_ns() - begun
    if try_amx and settings.repack:  # with all outputs: `worker.try_batch` leaves the output matrix out
        session.feed([0] * min(32, settings.output_rows or 32), want="all")
        session.reset()
    send(
        Loaded(
            load_ns=loaded_ns,
            vocabulary=session.vocabulary,
            context_tokens=session.context_tokens,
            threads=session.threads,
        )
    )
    return session


def score(
    sessions: Sequence[ScoringSession], text: str, context_tokens: int, chunks: int, block_rows: int
) -> Iterator[Message]:
    """`Counted`, a `Scored` for each chunk, `Done`. `chunks = 0` takes all; `block_rows` bounds the logits held.

    Raises SessionRefused: `text` where it is too short or the two models would not read the same tokens, `step` where
    the reference's logits are no numbers.
    """
    tokens = common_tokens(sessions, text)
    whole = len(tokens) // context_tokens
    if whole == 0:
        message = f"the text is too short: {len(tokens)} tokens do not fill one chunk of `{context_tokens}`"
        raise SessionRefused("text", message)
    count = min(chunks or whole, whole)
    yield Counted(tokens=len(tokens), chunks=count)
    for index in range(count):
        chunk = tokens[index * context_tokens : (index + 1) * context_tokens]
        if sessions[0].first_token is not None:
            chunk[0] = sessions[0].first_token
        yield _score_chunk(sessions, index, chunk, block_rows)
    yield Done()


def _score_chunk(sessions: Sequence[ScoringSession], index: int, chunk: list[int], block_rows: int) -> Scored:
    """The first half is context; from there on each token but the last must tell the next. The last is evaluated all
    the same, where that fills a block.
    """
    half, last = len(chunk) // 2, len(chunk) - 1
    for session in sessions:
        session.reset()
        session.feed(chunk[:half])
    sums = [0.0, 0.0, 0.0]
    top1 = broken = 0
    for begin in range(half, last, block_rows):
        end = begin + block_rows
        parts, agreed, bad = _score_block(sessions, chunk[begin:end], chunk[begin + 1 : end + 1])
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
        top1, broken = top1 + agreed, broken + bad
    # rounding can leave a divergence of nothing a hair below it
    nll, reference_nll, kld = (round(max(0.0, total) * 1e9) for total in sums)
    return Scored(
        chunk=index,
        tokens=last - half,
        nll_nano=nll,
        reference_nll_nano=reference_nll,
        kld_nano=kld,
        top1=top1,
        broken=broken,
    )


def _score_block(
    sessions: Sequence[ScoringSession], tokens: list[int], targets: list[int]
) -> tuple[tuple[float, float, float], int, int]:
    """((nll, reference nll, KLD) summed over the sound rows, rows that agree, broken rows)."""
    import numpy as np

    from edgekit.runtimes.scores import nll_rows, score_rows

    columns = min(session.vocabulary for session in sessions)
    logits = [session.feed(tokens, want="all")[: len(targets), :columns] for session in sessions]
    threads = max(session.threads for session in sessions)
    if len(sessions) == 1:
        nll = nll_rows(logits[0], targets, threads=threads)
        sound = nll <= WORST_NATS  # False for NaN
        return (float(nll[sound].sum()), 0.0, 0.0), 0, int((~sound).sum())
    kld, nll, reference_nll, top1 = score_rows(logits[0], logits[1], targets, threads=threads)
    if not np.all(reference_nll <= WORST_NATS):
        raise SessionRefused("step", "the reference model is broken: its logits are no numbers")
    sound = (nll <= WORST_NATS) & (kld <= WORST_NATS)
    sums = float(nll[sound].sum()), float(reference_nll[sound].sum()), float(kld[sound].sum())
    return sums, int((top1 & sound).sum()), int((~sound).sum())


def common_tokens(sessions: Sequence[ScoringSession], text: str) -> list[int]:
    """The tokens of `text`, which all `sessions` must read alike, over vocabularies that must be the same but for
    padding. Raises SessionRefused with the first token that differs.
    """
    if len(sessions) > 1:
        _compare_vocabularies(*(session.token_texts() for session in sessions))
    read = [_opened(session, session.tokenize(text)) for session in sessions]
    tokens = read[0]
    if max(tokens, default=0) >= min(session.vocabulary for session in sessions):
        raise SessionRefused("text", f"the tokenizer gives a token without logits: `{max(tokens)}`")
    if len(sessions) > 1 and tokens != read[1]:
        texts = list(sessions[0].token_texts())
        place, ours, theirs = _first_difference(tokens, read[1])
        raise SessionRefused(
            "text",
            f"the models read the text differently from its token {place} on: {_quoted(texts, ours)} in the artifact, "
            f"in the reference {_quoted(texts, theirs)}",
        )
    return tokens


def _opened(session: ScoringSession, tokens: list[int]) -> list[int]:
    return tokens if session.first_token is None else [session.first_token, *tokens]


def _compare_vocabularies(ours: Iterable[str | None], theirs: Iterable[str | None]) -> None:
    """Qwen pads 151 665 tokens to 151 936 in small models and 152 064 in large ones: padding may differ in length."""
    place, one, other = _first_difference(ours, theirs)
    if place < 0:
        return
    raise SessionRefused(
        "text",
        f"the vocabularies differ first at token {place}: {_quoted([one], 0)} in the artifact, "
        f"in the reference {_quoted([other], 0)}",
    )


def _first_difference(ours: Iterable[Any], theirs: Iterable[Any]) -> tuple[int, Any, Any]:
    """(place, ours, theirs), `None` beyond the end of one; place −1 when they are the same."""
    for place, (one, other) in enumerate(zip_longest(ours, theirs)):
        if _plain(one) != _plain(other):
            return place, one, other
    return -1, None, None


def _plain(token: Any) -> Any:
    """Converters differ in how they write the spaces of added tokens."""
    return token.replace("▁", " ") if isinstance(token, str) else token


def _quoted(texts: Sequence[str | None], token: int | None) -> str:
    """The token's text, short and in backticks, or that there is none."""
    text = texts[token] if token is not None and token < len(texts) else None
    return "`nothing`" if text is None else f"`{text[:_SHOWN]}`"


def run() -> None:
    """Serve one text."""
    worker_module.run(serve)
