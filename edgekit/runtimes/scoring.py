"""Scoring as the bench sees it: two models in one fenced process, and sums per chunk that come out of it.

Nothing the process says is believed unchecked: it has parsed two strangers' files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.records import Finding, MemoryPeak, Runtime, ScoredChunk, Settings
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
from edgekit.runtimes.log_parse import LogDigest
from edgekit.runtimes.process import Child, worker_command
from edgekit.runtimes.protocol import WORST_NATS, Counted, Done, Loaded, ProtocolError, Ready, Scored, from_bits

MIN_CONTEXT, MAX_CONTEXT = 16, 2**17
"""Tokens of a chunk. A message holds a number for each that is scored, and has to be small."""

LOGITS_BYTES = 40 * 2**20
"""Logits of one model held at a time, 64 rows of Qwen's vocabulary. Twice or four times as many saved no CPU time, half
as many (and half a tile) cost a sixth more.
"""

TILE_ROWS = 64
"""llama.cpp's attention takes queries by that many (`ggml_fa_tile_config`); fewer at once go a slower way, in half
precision.
"""


def scoring_settings(settings: Settings, context_tokens: int, threads: int) -> Settings:
    """`settings` for chunks of `context_tokens`: one batch for a chunk; `threads` of 0 leaves their threads."""
    return replace(
        settings,
        context_tokens=context_tokens,
        batch_tokens=context_tokens,
        ubatch_tokens=min(settings.ubatch_tokens, context_tokens),
        threads=threads or settings.threads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How one of the models came up."""

    runtime: Runtime
    vocabulary: int


class Scorer:
    """A process with the models loaded. Made by `open_scorer`; raises WorkerDied from any method."""

    def __init__(self, child: Child, opened: Sequence[Opened], start: dict[str, Any], timeout_s: float) -> None:
        self._child, self._timeout_s = child, timeout_s
        context_tokens = start["context_tokens"]
        self._scored_tokens = context_tokens - 1 - context_tokens // 2
        self._estimated = bool(start["reference_file"])
        self._has_reference = len(opened) > 1 or self._estimated
        self.runtime = opened[0].runtime
        self.reference_runtime = opened[1].runtime if len(opened) > 1 else None
        self.findings: tuple[Finding, ...] = amx_findings()
        child.command({"op": "score"})
        counted = self._expect(Counted, doing="tokenizing the text")
        assert isinstance(counted, Counted)
        self.text_tokens, self.chunks = counted.tokens, counted.chunks
        possible = counted.tokens // context_tokens
        if self.chunks != min(start["chunks"] or possible, possible) or not self.chunks:
            raise child.distrust("a count of chunks that cannot be")

    def scores(self) -> Iterator[ScoredChunk]:
        """The chunks in the text's order, each as soon as it is scored."""
        for index in range(self.chunks):
            message = self._expect(Scored, doing=f"scoring chunk {index + 1} of {self.chunks}")
            assert isinstance(message, Scored)
            yield self._chunk(index, message)
        self._expect(Done, doing="finishing")

    def finish(self) -> MemoryPeak | None:
        """End the process in good order; the memory it took beyond its libraries, where the OS tells."""
        self._child.sampler.end_phase()
        peak = self._child.sampler.peak()
        self._child.close()
        return peak

    def _expect(self, kind: type[Counted] | type[Scored] | type[Done], *, doing: str) -> Any:
        self._child.deadline = time.monotonic() + self._timeout_s
        return self._child.expect(kind, doing=doing)

    def _chunk(self, index: int, scored: Scored) -> ScoredChunk:
        """The record of a message that can be true."""
        sound = scored.tokens - scored.broken
        nats = (scored.nll_nano, scored.reference_nll_nano, scored.kld_nano, scored.kld_lower_nano)
        if (scored.chunk, scored.tokens) != (index, self._scored_tokens):
            raise self._child.distrust("a chunk that was not asked for")
        if max(nats) > WORST_NATS * 10**9 * sound or not 0 <= scored.top1 <= scored.top5 <= sound:
            raise self._child.distrust("scores that cannot be")
        if not self._has_reference:
            if any((*nats[1:], scored.top5, scored.dp2_bits, scored.token_kld_bits)):
                raise self._child.distrust("scores against a reference that there is not")
            return ScoredChunk(tokens=scored.tokens, nll=scored.nll_nano / 1e9, broken=scored.broken)
        try:
            dp2, *token_kld = map(from_bits, (scored.dp2_bits, *scored.token_kld_bits))
        except ProtocolError as error:
            raise self._child.distrust(str(error)) from None
        kld = scored.kld_nano / 1e9
        # what lies below zero by a rounding counts as nothing in a token and not in the sum
        if len(token_kld) != sound or dp2 > sound or sum(token_kld) < kld - 1e-5 * (kld + sound):
            raise self._child.distrust("scores that contradict each other")
        return ScoredChunk(
            tokens=scored.tokens,
            nll=scored.nll_nano / 1e9,
            reference_nll=scored.reference_nll_nano / 1e9,
            kld=kld,
            top1=scored.top1,
            broken=scored.broken,
            top5=scored.top5,
            dp2=dp2,
            kld_lower=scored.kld_lower_nano / 1e9 if self._estimated else None,
            token_kld=tuple(token_kld),
        )


@contextmanager
def open_scorer(
    artifact: Path,
    reference: Path | None,
    settings: Settings,
    *,
    text: str,
    vocabulary: int,
    chunks: int = 0,
    reference_file: Mapping[str, Any] | None = None,
    timeout_s: float = 900.0,
    command: Sequence[str] | None = None,
) -> Iterator[Scorer]:
    """A fresh process with `artifact` and `reference` loaded and `text` tokenized; it is gone when the block ends.

    A chunk is `settings.context_tokens` long; `chunks = 0` scores all of them. The artifact runs under `settings`, the
    reference with an f16 KV cache; `reference_file`, whose `path` the process may read, takes the place of one that
    runs. `vocabulary` bounds the logits asked for at a time; `timeout_s` is the longest that
    one answer may take. Raises WorkerDied: `finding.code` is `text-rejected` for a text or a pair of models that
    cannot be scored, otherwise as for `open_worker`.
    """
    check_chunks(settings.context_tokens, chunks)
    rows = block_rows(vocabulary, settings.context_tokens)
    judged = replace(settings, output_rows=rows)
    models = [model_start(artifact, judged)]
    if reference is not None:
        models.append(model_start(reference, replace(judged, kv_type="f16")))
    stored = dict(reference_file or {})
    start = {
        "op": "start",
        "parent": os.getpid(),
        "models": [{**model, "lean": True} for model in models],
        "reference_file": stored,
        "readable": [
            *(name for path in (artifact, reference) if path for name in readable(path)),
            *([stored["path"]] if stored else []),
        ],
        "limits": worker_limits(),
        "text": text,
        "context_tokens": settings.context_tokens,
        "chunks": chunks,
        "block_rows": rows,
    }
    program = command or worker_command("edgekit.runtimes.scoring_worker")
    child, opened = start_child(timeout_s, program, lambda child: start_models(child, start, models))
    try:
        yield Scorer(child, opened, start, timeout_s)
    finally:
        child.close()


def check_chunks(context_tokens: int, chunks: int) -> None:
    """Raise EdgekitError for chunks that are too short or too long, or fewer than none."""
    if not MIN_CONTEXT <= context_tokens <= MAX_CONTEXT or chunks < 0:
        raise EdgekitError(
            f"chunks need {MIN_CONTEXT} to {MAX_CONTEXT} tokens, and their number cannot be negative: "
            f"`{context_tokens}` tokens, `{chunks}` chunks"
        )


def block_rows(vocabulary: int, context_tokens: int) -> int:
    """Tokens whose logits are asked for at a time: whole tiles, or all of a chunk."""
    tiles = LOGITS_BYTES // (4 * max(1, vocabulary) * TILE_ROWS)
    return min(max(1, tiles) * TILE_ROWS, context_tokens)


def model_start(path: Path, settings: Settings) -> dict[str, Any]:
    """What a worker is told of a model that it is to load. Raises EdgekitError for more threads than can help."""
    check_threads(settings.threads)
    runtime = runtime_of(path)
    if runtime != "llamacpp":  # others hold the logits of a whole ubatch
        settings = replace(settings, ubatch_tokens=min(settings.ubatch_tokens, settings.output_rows))
    return {"runtime": runtime, "path": str(path.absolute()), "settings": asdict(settings)}


def start_models(child: Child, start: dict[str, Any], models: Sequence[dict[str, Any]]) -> list[Opened]:
    """Have a new process fence itself in and load the models."""
    child.command({**start, "amx": amx_state()})
    readies = [child.expect(Ready, doing="starting") for _ in models]
    child.sampler.take_baseline()
    opened = []
    for ready in readies:
        child.log = LogDigest()  # what is said from here on is said of this model
        child.command({"op": "load"})
        loaded = child.expect(Loaded, doing="loading the model")
        assert isinstance(ready, Ready)
        assert isinstance(loaded, Loaded)
        opened.append(Opened(runtime=describe_runtime(child, ready, loaded), vocabulary=loaded.vocabulary))
    child.sampler.end_phase()
    return opened
