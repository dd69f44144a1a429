"""The child process that scores a text: as `worker`, with one model or two, and numpy. Logits never leave it.

Chunks, the half that is scored, and the first token are those of tools/perplexity/perplexity.cpp. What a runtime's
session must offer beyond the timed loops' is `references.ScoringSession`, what rows are held against a `Reference`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.records import Settings
from edgekit.runtimes import RUNTIMES, lean, llamacpp, sandbox
from edgekit.runtimes import worker as worker_module
from edgekit.runtimes.chunk_rows import ChunkRows, chunk_rows
from edgekit.runtimes.protocol import WORST_NATS as WORST_NATS
from edgekit.runtimes.protocol import Counted, Done, Loaded, Message, Ready, Scored, SessionRefused, to_bits
from edgekit.runtimes.references import LiveReference, Reference, ScoringSession, check_alike, check_range, opened
from edgekit.runtimes.worker import Send

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.scores import RowScores


SPINS = "100000"
"""Turns that a thread waits at a barrier before it sleeps, some 5 ms: to be woken costs more than most waits, at a
thousand barriers a batch a tenth of its time. libgomp's own 300 000 keep numpy's threads waiting between two batches.
"""


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> None:
    """Open one model, or two (the second is the reference), and score the text that came with the start command."""
    sessions = open_models(start, commands, send)
    if len(sessions) != len(start["models"]) or next(commands, {"op": "quit"})["op"] != "score":
        return
    reference = _reference(start, sessions)
    tokens = read_text(sessions, reference, start["text"])
    for message in score(sessions[0], reference, tokens, start["context_tokens"], start["chunks"], start["block_rows"]):
        send(message)


def _reference(start: dict[str, Any], sessions: Sequence[ScoringSession]) -> Reference | None:
    """The second model, or the file in its place."""
    if start["reference_file"]:
        from edgekit.runtimes.compact.reference import open_reference

        stored = start["reference_file"]
        return open_reference(Path(stored["path"]), **{name: stored[name] for name in stored if name != "path"})
    return LiveReference(sessions[1], start["block_rows"]) if len(sessions) > 1 else None


def open_models(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: Send) -> list[ScoringSession]:
    """Fence in and open the models of the start command, one at each `load`; fewer where another command comes."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    models = start["models"]
    if any(RUNTIMES[model["runtime"]] is llamacpp for model in models):
        llamacpp.import_bindings_alone()
    if start["amx"] == "denied":
        sandbox.deny_amx()
    builds = [RUNTIMES[model["runtime"]].describe_build() for model in models]
    readable, writable = ([Path(name) for name in start.get(key, ())] for key in ("readable", "writable"))
    isolation = sandbox.fence_in(readable, sandbox.Limits(**start["limits"]), writable)
    for build, features in builds:
        send(Ready(build=build, cpu_features=features, isolation=", ".join(isolation)))

    sessions: list[ScoringSession] = []
    for model, (_, features) in zip(models, builds, strict=True):
        if next(commands, {"op": "quit"})["op"] != "load":
            break
        try_amx = start["amx"] == "allowed" and "AMX" in features
        sessions.append(_open(model, send, try_amx=try_amx, judged=not sessions))
    return sessions


def _open(model: dict[str, Any], send: Send, *, try_amx: bool, judged: bool) -> ScoringSession:
    """The judged model's weights must be numbers: x86 kernels round a NaN among the inputs of a quantized product away,
    Arm's do not, so that a model which scores well here could be dead on the device.
    """
    settings = Settings(**model["settings"])
    begun = time.perf_counter_ns()
    runtime = RUNTIMES[model["runtime"]]
    session: ScoringSession
    if runtime is llamacpp and model.get("lean", False):
        session = lean.open_session(Path(model["path"]), settings, check_weights=judged)
    elif runtime is llamacpp:
        sequences = model.get("sequences", 1)
        session = llamacpp.open_session(Path(model["path"]), settings, check_weights=judged, sequences=sequences)
    else:
        session = runtime.open_session(Path(model["path"]), settings, check_weights=judged)
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


def read_text(sessions: Sequence[ScoringSession], reference: Reference | None, text: str) -> list[int]:
    """The tokens of `text`, after which no session reads another. Raises SessionRefused (`text`) where the reference
    does not read the same.
    """
    tokens = read_tokens(sessions[0], text)
    if reference is not None:
        reference.check(sessions[0], text, tokens)
    for session in sessions:
        if isinstance(session, lean.LeanSession):
            session.forget_words()
    return tokens


def score(
    session: ScoringSession,
    reference: Reference | None,
    tokens: list[int],
    context_tokens: int,
    chunks: int,
    block_rows: int,
) -> Iterator[Message]:
    """`Counted`, a `Scored` for each chunk, `Done`. `chunks = 0` takes all; `block_rows` bounds the logits held.

    Raises SessionRefused: `text` where it is too short, `step` where the reference's logits are no numbers.
    """
    count = count_chunks(tokens, context_tokens, chunks)
    yield Counted(tokens=len(tokens), chunks=count)
    rows = chunk_rows(session, block_rows)
    for index in range(count):
        chunk = chunk_of(session, tokens, index, context_tokens)
        blocks = _score_chunk(session, rows, reference, index, chunk, block_rows)
        yield _summed(index, list(blocks), told=reference is not None)
    yield Done()


def count_chunks(tokens: list[int], context_tokens: int, chunks: int) -> int:
    """How many chunks are scored when `chunks` are asked for, 0 for all. Raises SessionRefused where none is filled."""
    whole = len(tokens) // context_tokens
    if whole == 0:
        message = f"the text is too short: {len(tokens)} tokens do not fill one chunk of `{context_tokens}`"
        raise SessionRefused("text", message)
    return min(chunks or whole, whole)


def chunk_of(session: ScoringSession, tokens: list[int], index: int, context_tokens: int) -> list[int]:
    """The tokens of a chunk, the first of which gives way to the one that the model wants in front."""
    chunk = tokens[index * context_tokens : (index + 1) * context_tokens]
    if session.first_token is not None:
        chunk[0] = session.first_token
    return chunk


def _score_chunk(
    session: ScoringSession,
    rows: ChunkRows,
    reference: Reference | None,
    index: int,
    chunk: list[int],
    block_rows: int,
) -> Iterator[RowScores]:
    """The first half is context; from there on each token but the last must tell the next. The last is evaluated all
    the same, where that fills a block.
    """
    half, last = len(chunk) // 2, len(chunk) - 1
    rows.begin(chunk)
    if reference is not None:
        reference.begin(index, chunk)
    for begin in range(half, last, block_rows):
        tokens, targets = chunk[begin : begin + block_rows], chunk[begin + 1 : begin + block_rows + 1]
        logits = rows.take(tokens)[: len(targets)]
        if reference is None:
            yield _unreferenced(logits, targets, session.threads)
        else:
            yield reference.score(tokens, logits, targets, threads=session.threads)
        rows.release()


def _unreferenced(logits: NDArray[np.float32], targets: list[int], threads: int) -> RowScores:
    """What can be told of a model alone."""
    import numpy as np

    from edgekit.runtimes.scores import RowScores, nll_rows

    nll, nothing, never = (
        nll_rows(logits, targets, threads=threads),
        np.zeros(len(targets)),
        np.zeros(len(targets), bool),
    )
    return RowScores(kld=nothing, nll=nll, reference_nll=nothing, top1=never, top5=never, kld_lower=nothing)


def _summed(index: int, blocks: Sequence[RowScores], *, told: bool) -> Scored:
    """The message of a chunk; `told` when there was a reference. Rows that are no numbers are counted apart."""
    import numpy as np

    nll, kld = np.concatenate([rows.nll for rows in blocks]), np.concatenate([rows.kld for rows in blocks])
    sound = (nll <= WORST_NATS) & (kld <= WORST_NATS)  # False for NaN

    def total(column: str) -> float:
        values: NDArray[np.float64] = np.concatenate([getattr(rows, column) for rows in blocks])
        return float(values[sound].sum())

    apart = np.concatenate([rows.p - rows.p_reference for rows in blocks])[sound]
    return Scored(
        chunk=index,
        tokens=len(nll),
        nll_nano=_nano(total("nll")),
        reference_nll_nano=_nano(total("reference_nll")),
        kld_nano=_nano(total("kld")),
        top1=int(total("top1")),
        broken=int((~sound).sum()),
        top5=int(total("top5")),
        dp2_bits=to_bits(float(apart @ apart)) if told else 0,
        kld_lower_nano=_nano(total("kld_lower")),
        token_kld_bits=tuple(map(to_bits, kld[sound].tolist())) if told else (),
    )


def _nano(nats: float) -> int:
    return round(max(0.0, nats) * 1e9)  # rounding can leave a divergence of nothing a hair below it


def common_tokens(sessions: Sequence[ScoringSession], text: str) -> list[int]:
    """The tokens of `text`, which all `sessions` must read alike, over vocabularies that must be the same but for
    padding. Raises SessionRefused with the first token that differs.
    """
    tokens = read_tokens(sessions[0], text)
    for other in sessions[1:]:
        check_alike(sessions[0], other, text, tokens)
    return tokens


def read_tokens(session: ScoringSession, text: str) -> list[int]:
    """The tokens of `text`, all of which have logits."""
    tokens = opened(session, session.tokenize(text))
    check_range(tokens, session.vocabulary)
    return tokens


def run() -> None:
    """Serve one text."""
    worker_module.run(serve)
