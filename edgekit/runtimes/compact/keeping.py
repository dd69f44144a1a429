"""Keeping a reference as the bench sees it: a model in a fenced process, which fills one file.

What the process writes is believed no more than a stranger's file is: whoever opens it checks it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.records import Finding, MemoryPeak, Settings
from edgekit.runtimes.compact.chunks import largest_chunk, scored_rows
from edgekit.runtimes.handle import amx_findings, readable, start_child, worker_limits
from edgekit.runtimes.process import Child, worker_command
from edgekit.runtimes.protocol import Advanced, Counted, Done
from edgekit.runtimes.scoring import Opened, block_rows, check_chunks, model_start, start_models

LEAST_ROW_BYTES, MOST_ROW_BYTES = 1200, 2**15
"""A row's tokens take as many even where logits take little: with fewer than a few hundred tokens single rows tell
little of their KLD.
"""

_SHARE = 50
"""llama.cpp's base file takes that many times the bytes, at a vocabulary of 151 936."""

_BESIDE_BYTES = 2**27
"""What the file may hold beside its chunks."""


def row_bytes_for(vocabulary: int, context_tokens: int) -> int:
    """Bytes for the tokens of a row, so that with all else a row takes a fiftieth of llama.cpp's base file: there it is
    two bytes a token of the vocabulary and eight more (tools/perplexity/perplexity.cpp, `log_softmax`).
    """
    beside = largest_chunk(context_tokens, vocabulary, 0) / scored_rows(context_tokens)
    # the rest is left for the vocabulary and the text: from a thousand rows on it is enough for a few hundred kilobytes
    return max(LEAST_ROW_BYTES, min(MOST_ROW_BYTES, int(0.95 * (2 * vocabulary + 8) / _SHARE - beside)))


class Keeper:
    """A process with the model loaded and the text tokenized. Made by `open_keeper`; raises WorkerDied."""

    def __init__(self, child: Child, opened: Opened, start: dict[str, Any], timeout_s: float) -> None:
        self._child, self._timeout_s = child, timeout_s
        self.runtime, self.vocabulary = opened.runtime, opened.vocabulary
        self.findings: tuple[Finding, ...] = amx_findings()
        child.command({"op": "count"})
        counted = self._expect(Counted, doing="tokenizing the text")
        assert isinstance(counted, Counted)
        self.text_tokens, self.chunks = counted.tokens, counted.chunks
        possible = counted.tokens // start["context_tokens"]
        if self.chunks != min(start["chunks"] or possible, possible) or not self.chunks:
            raise child.distrust("a count of chunks that cannot be")

    def keep(self, header: str, *, begin: int, checksum: int, row_bytes: int, seed: int) -> Iterator[int]:
        """Write the file from chunk `begin` on, from the very beginning for 0; how many chunks are kept, each time one
        is. `checksum` is that of the header that stands there already.
        """
        order = {"op": "keep", "header": header, "begin": begin, "checksum": checksum}
        self._child.command({**order, "row_bytes": row_bytes, "seed": seed})
        for index in range(begin, self.chunks):
            message = self._expect(Advanced, doing=f"keeping chunk {index + 1} of {self.chunks}")
            if message.done != index + 1:
                raise self._child.distrust("a chunk that was not asked for")
            yield message.done
        self._expect(Done, doing="finishing")

    def finish(self) -> MemoryPeak | None:
        """End the process in good order; the memory it took beyond its libraries, where the OS tells."""
        self._child.sampler.end_phase()
        peak = self._child.sampler.peak()
        self._child.close()
        return peak

    def _expect(self, *kinds: type[Advanced] | type[Counted] | type[Done], doing: str) -> Any:
        self._child.deadline = time.monotonic() + self._timeout_s
        return self._child.expect(*kinds, doing=doing)


@contextmanager
def open_keeper(
    artifact: Path,
    settings: Settings,
    *,
    text: str,
    vocabulary: int,
    chunks: int,
    place: Path,
    timeout_s: float = 900.0,
    command: Sequence[str] | None = None,
) -> Iterator[Keeper]:
    """A fresh process with `artifact` loaded and `text` tokenized, which may write the file `place`, which exists; it
    is gone when the block ends.

    Raises WorkerDied as `open_scorer` does.
    """
    context_tokens = settings.context_tokens
    check_chunks(context_tokens, chunks)
    rows = block_rows(vocabulary, context_tokens)
    model = model_start(artifact, replace(settings, output_rows=rows))
    start = {
        "op": "start",
        "parent": os.getpid(),
        "models": [{**model, "lean": True}],
        "readable": readable(artifact),
        "writable": [str(place.absolute())],
        "limits": worker_limits() | {"file_bytes": _most_bytes(text, vocabulary, context_tokens)},
        "text": text,
        "context_tokens": context_tokens,
        "chunks": chunks,
        "block_rows": rows,
    }
    program = command or worker_command("edgekit.runtimes.compact.keeping_worker")
    child, opened = start_child(timeout_s, program, lambda child: start_models(child, start, [model]))
    try:
        yield Keeper(child, opened[0], start, timeout_s)
    finally:
        child.close()


def _most_bytes(text: str, vocabulary: int, context_tokens: int) -> int:
    """What the file can grow to: nearly every token stands for a byte or more."""
    row_bytes = row_bytes_for(vocabulary, context_tokens)
    chunk = largest_chunk(context_tokens, vocabulary, row_bytes)
    return _BESIDE_BYTES + (len(text.encode()) // context_tokens + 2) * chunk
