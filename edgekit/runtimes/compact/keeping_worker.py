"""The child process that keeps a reference: a model says its text, and what it said goes into the one file that the
fence lets it write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtimes import worker as worker_module
from edgekit.runtimes.chunk_rows import ChunkRows, chunk_rows
from edgekit.runtimes.compact import file as container
from edgekit.runtimes.compact.chunks import PART_ROWS, encode_chunk, parts_of
from edgekit.runtimes.compact.rows import Rows, join_rows, keep_rows
from edgekit.runtimes.lean import LeanSession
from edgekit.runtimes.protocol import Advanced, Counted, Done, SessionRefused
from edgekit.runtimes.references import ScoringSession
from edgekit.runtimes.scoring_worker import WORST_NATS, chunk_of, count_chunks, open_models, read_tokens
from edgekit.runtimes.worker import Send

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> None:
    """Open the model, count the chunks of the text that came with the start command, and keep those asked for."""
    sessions = open_models(start, commands, send)
    if not sessions or next(commands, {"op": "quit"})["op"] != "count":
        return
    session, context_tokens = sessions[0], start["context_tokens"]
    tokens = read_tokens(session, start["text"])
    count = count_chunks(tokens, context_tokens, start["chunks"])
    send(Counted(tokens=len(tokens), chunks=count))
    order: dict[str, Any] = next(commands, {"op": "quit"})
    if order["op"] != "keep":
        return
    try:
        _keep(session, start, order, tokens, send)
    except OSError as error:
        message = f"the reference file cannot be written: `{(error.strerror or 'failed').lower()}`"
        raise SessionRefused("worker", message) from None
    send(Done())


def _keep(session: ScoringSession, start: dict[str, Any], order: dict[str, Any], tokens: list[int], send: Send) -> None:
    """Write what is missing of the file, a chunk at a time."""
    context_tokens = start["context_tokens"]
    count = count_chunks(tokens, context_tokens, start["chunks"])
    texts = list(session.token_texts())
    known = len(texts) - next((place for place, one in enumerate(reversed(texts)) if one is not None), 0)
    if isinstance(session, LeanSession):
        session.forget_words()
    told = chunk_rows(session, start["block_rows"])
    with Path(start["writable"][0]).open("ab") as stream:
        seed = order["checksum"]
        if order["begin"] == 0:
            seed = container.start_file(stream, order["header"].encode())
            container.append_section(stream, container.VOCABULARY, 0, container.pack_vocabulary(texts), seed)
            container.append_section(stream, container.TEXT, 0, container.pack_text(start["text"]), seed)
        del texts
        for index in range(order["begin"], count):
            chunk = chunk_of(session, tokens, index, context_tokens)
            blocks = _keep_chunk(
                session, told, chunk, start["block_rows"], known, (order["seed"], index), order["row_bytes"]
            )
            for number, rows in enumerate(_in_parts(blocks)):
                data = encode_chunk([] if number else chunk, rows, session.vocabulary)
                container.append_section(stream, container.CHUNK, index * parts_of(context_tokens) + number, data, seed)
            send(Advanced(done=index + 1, total=count, detail=""))
        os.fsync(stream.fileno())


def _keep_chunk(
    session: ScoringSession,
    told: ChunkRows,
    chunk: list[int],
    block_rows: int,
    known: int,
    seed: tuple[int, int],
    row_bytes: int,
) -> Iterator[Rows]:
    """What is kept of the scored half of a chunk; the same for the same `seed`, however it is reached."""
    import numpy as np

    half, last = len(chunk) // 2, len(chunk) - 1
    starts: NDArray[np.float64] = np.random.default_rng(seed).random(last - half)
    told.begin(chunk)
    for begin in range(half, last, block_rows):
        tokens, targets = chunk[begin : begin + block_rows], chunk[begin + 1 : begin + block_rows + 1]
        logits = told.take(tokens)[: len(targets)]
        rows = keep_rows(
            logits, targets, starts[begin - half :], known=known, row_bytes=row_bytes, threads=session.threads
        )
        if not np.all(rows.nll <= WORST_NATS):
            raise SessionRefused("step", "the reference model is broken: its logits are no numbers")
        told.release()
        yield rows


def _in_parts(blocks: Iterator[Rows]) -> Iterator[Rows]:
    """The same rows, `PART_ROWS` at a time."""
    waiting: list[Rows] = []
    for block in blocks:
        rows = join_rows([*waiting, block])
        count = len(rows.nll)
        whole = count // PART_ROWS * PART_ROWS
        for begin in range(0, whole, PART_ROWS):
            yield rows.part(begin, begin + PART_ROWS)
        waiting = [rows.part(whole, count)] if count > whole else []
    yield from waiting


def run() -> None:
    """Serve one model."""
    worker_module.run(serve)
