"""A model whose tensors can be degraded one by one while it is loaded, and what its answers lose by it.

The full-precision file is copied to a scratch file, which llama.cpp in a fenced child maps; edgekit writes into that
file what a tensor would be after quantization, and the child sees it at the next token: nothing is loaded twice. The
child keeps the unchanged model's logits for a few chunks of text and tells the KL divergence from them, chunk by
chunk; that of another file of the same model too. The upper half of this module runs in edgekit, `serve` and below in
the child.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.files import check_space
from edgekit.header import tensor_offsets
from edgekit.progress import Progress, silent
from edgekit.quantize.degrading import PART_VALUES, Matrix, matrices_of
from edgekit.quantize.ggml_types import quantize_rows
from edgekit.records import Header, Settings, TensorInfo
from edgekit.runtimes import llamacpp, sandbox, worker
from edgekit.runtimes.cores import check_threads
from edgekit.runtimes.handle import start_child, worker_limits
from edgekit.runtimes.process import Child, worker_command
from edgekit.runtimes.protocol import Advanced, Counted, Done, Loaded, Message, Ready, Scored
from edgekit.runtimes.scoring_worker import WORST_NATS, common_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

ANSWER_S = 900.0
"""The longest that one chunk of text may take."""

LOGITS_BYTES = 2 * 2**30
"""Most that is kept of the unchanged model's logits."""


class Prober:
    """The child with the model, and the scratch file it maps. Made by `open_prober`; raises WorkerDied."""

    def __init__(
        self, child: Child, scratch: _Scratch, importance: Mapping[str, Rows], pool: ThreadPoolExecutor, build: str
    ) -> None:
        self._child, self._scratch, self._importance, self._pool = child, scratch, importance, pool
        self.runtime = build
        self.possible_chunks = 0
        self.scored_tokens = 0
        self._chunks = 0

    def read(self, text: str, context_tokens: int) -> None:
        """Tokenize `text`; `possible_chunks` says how many chunks it fills."""
        self._child.command({"op": "read", "text": text, "context_tokens": context_tokens})
        counted = self._expect(Counted)
        assert isinstance(counted, Counted)
        self.possible_chunks, self.scored_tokens = counted.chunks, context_tokens - 1 - context_tokens // 2

    def remember(self, chunks: Sequence[int], progress: Progress = silent) -> float:
        """Keep the logits of the model as it is for these chunks, which `score` compares with; seconds per chunk."""
        self._child.command({"op": "remember", "chunks": list(chunks)})
        started = time.monotonic()
        for done in range(len(chunks)):
            self._expect(Advanced)
            progress("reading the full-precision model's answers", done + 1, len(chunks))
        self._expect(Done)
        self._chunks = len(chunks)
        return (time.monotonic() - started) / max(1, len(chunks))

    def score(self) -> tuple[float, ...]:
        """Mean KLD of each remembered chunk from the model as it was, nats per token."""
        return self._scores("score")

    def score_beside(self) -> tuple[float, ...]:
        """The same of the file that was opened beside the model, which is closed then: with its own kernels."""
        return self._scores("score_beside")

    def _scores(self, command: str) -> tuple[float, ...]:
        self._child.command({"op": command})
        klds = []
        for index in range(self._chunks):
            scored = self._expect(Scored)
            assert isinstance(scored, Scored)
            if (scored.chunk, scored.tokens) != (index, self.scored_tokens):
                raise self._child.distrust("a chunk that was not asked for")
            klds.append(scored.kld_nano / 1e9 / scored.tokens)
        self._expect(Done)
        return tuple(klds)

    def put(self, types: Mapping[str, str]) -> None:
        """Make each tensor named what it would be as that type."""
        for name, kind in types.items():
            tensor = self._scratch.tensors[name]
            if kind == tensor.type:
                self.restore([name])
                continue
            start = 0
            for matrix in matrices_of(tensor, self._scratch.original(name), self._importance):
                row_bytes = matrix.stored.shape[1]
                for row, data in matrix.rewritten(kind, self._pool):
                    self._scratch.write(name, data, start + row * row_bytes)
                start += matrix.stored.nbytes

    def swap(self, name: str, other: Matrix) -> None:
        """Make a tensor what it is in another file: `other` holds its rows as they are stored there. Raises
        EdgekitError where they are no numbers.
        """
        import numpy as np

        own = self._scratch.tensors[name]
        step = max(1, PART_VALUES // own.shape[0])

        def part(start: int) -> bytes:
            rows = other.values(slice(start, start + step))
            if not np.isfinite(rows).all():
                raise EdgekitError(f"a tensor of the artifact holds values that are no numbers: `{name}`")
            return quantize_rows(rows, own.type)

        row_bytes = own.size_bytes // len(other.stored)
        starts = range(0, len(other.stored), step)
        for start, data in zip(starts, self._pool.map(part, starts), strict=True):
            self._scratch.write(name, data, start * row_bytes)

    def restore(self, names: Iterable[str]) -> None:
        """Make the tensors what they are in the source again."""
        for name in names:
            self._scratch.write(name, self._scratch.original(name))

    def _expect(self, kind: type[Message]) -> Message:
        self._child.deadline = time.monotonic() + ANSWER_S
        return self._child.expect(kind, doing="probing")


class _Scratch:
    """A private copy of the source that can be written to. Its file is gone once `hide` was called: the mapping keeps
    it alive, and nothing is left behind whatever happens.
    """

    def __init__(self, source: Path, header: Header, path: Path) -> None:
        import numpy as np

        self.path = path
        self.tensors: dict[str, TensorInfo] = {tensor.name: tensor for tensor in header.tensors}
        offsets = tensor_offsets(source)
        self._places = {
            tensor.name: slice(start, start + tensor.size_bytes)
            for tensor, start in zip(header.tensors, offsets, strict=True)
        }
        shutil.copyfile(source, path)
        self._source = np.memmap(source, np.uint8, "r")
        self._copy = np.memmap(path, np.uint8, "r+")

    def original(self, name: str) -> NDArray[np.uint8]:
        return self._source[self._places[name]]

    def write(self, name: str, data: bytes | NDArray[np.uint8], offset: int = 0) -> None:
        """Write `data` into a tensor, from its byte `offset` on."""
        import numpy as np

        begin = self._places[name].start + offset
        assert begin + len(data) <= self._places[name].stop
        self._copy[begin : begin + len(data)] = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data

    def hide(self) -> None:
        self.path.unlink(missing_ok=True)


@contextmanager
def open_prober(
    source: Path,
    header: Header,
    importance: Mapping[str, Rows],
    *,
    beside: Path | None = None,
    context_tokens: int = 512,
    threads: int = 0,
) -> Iterator[Prober]:
    """A fenced child with a scratch copy of `source` loaded; both are gone when the block ends, Ctrl-C included.

    `beside` is another file of the same model, which `read` opens and holds the tokens against. Raises EdgekitError
    for shards and for too little disk, WorkerDied when the child cannot load a model, or the two differ in tokens.
    """
    if header.shards > 1:
        raise EdgekitError("sensitivity is measured on a model in one file", hint="merge the shards first")
    check_threads(threads)
    settings = Settings(
        context_tokens=context_tokens,
        batch_tokens=context_tokens,
        ubatch_tokens=min(512, context_tokens),
        repack=False,  # the kernels then read the mapped file itself
        threads=threads,
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-", dir=_roomy(source)) as folder:
        path = Path(folder) / "scratch.gguf"
        check_space(path, source.stat().st_size, "a scratch copy of the model")
        scratch = _Scratch(source, header, path)
        start = {
            "op": "start",
            "parent": os.getpid(),
            "path": str(path),
            "beside": str(beside.absolute()) if beside else "",
            "readable": [str(path), *([str(beside.absolute())] if beside else [])],
            "settings": asdict(settings),
            "limits": worker_limits(),
            "vocabulary": header.vocabulary,
        }
        child, build = start_child(ANSWER_S, worker_command(__name__), lambda child: _begin(child, start))
        try:
            scratch.hide()
            with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
                yield Prober(child, scratch, importance, pool, build)
        finally:
            child.close()


def _roomy(source: Path) -> str | None:
    """Where a copy of the source has room: the place for temporary files, else beside the source."""
    usual = tempfile.gettempdir()
    needed = source.stat().st_size
    if shutil.disk_usage(usual).free < 1.1 * needed and shutil.disk_usage(source.absolute().parent).free > needed:
        return str(source.absolute().parent)
    return usual


def _begin(child: Child, start: dict[str, Any]) -> str:
    child.command(start)
    ready = child.expect(Ready, doing="starting")
    assert isinstance(ready, Ready)
    child.expect(Loaded, doing="loading the model")
    return ready.build


# ---- in the child -------------------------------------------------------------------------------------------------


def serve(start: dict[str, Any], commands: Iterator[dict[str, Any]], send: worker.Send) -> None:
    """Load the model, then read, remember and score as asked until the parent closes the pipe."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would starve numpy's
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    llamacpp.import_bindings_alone()
    build, features = llamacpp.describe_build()
    import numpy  # noqa: F401  (before the fence, behind which its files may not be read)

    isolation = sandbox.fence_in([Path(name) for name in start["readable"]], sandbox.Limits(**start["limits"]))
    send(Ready(build=build, cpu_features=features, isolation=", ".join(isolation)))
    begun = time.perf_counter_ns()
    session = llamacpp.open_session(Path(start["path"]), Settings(**start["settings"]))
    send(
        Loaded(
            load_ns=time.perf_counter_ns() - begun,
            vocabulary=session.vocabulary,
            context_tokens=session.context_tokens,
            threads=session.threads,
        )
    )
    _answer(_Probed(session), start, commands, send)


@dataclass(slots=True)
class _Probed:
    """What the child holds between commands."""

    session: llamacpp.Session
    beside: llamacpp.Session | None = None
    tokens: list[int] = field(default_factory=list)
    length: int = 0
    remembered: list[tuple[list[int], Any]] = field(default_factory=list)


def _answer(probed: _Probed, start: dict[str, Any], commands: Iterator[dict[str, Any]], send: worker.Send) -> None:
    """Do as each command says, until one ends it."""
    session = probed.session
    for command in commands:
        if command["op"] == "read":
            if start["beside"]:
                probed.beside = llamacpp.open_session(Path(start["beside"]), Settings(**start["settings"]))
            sessions = [one for one in (probed.beside, session) if one is not None]
            probed.tokens, probed.length = common_tokens(sessions, command["text"]), command["context_tokens"]
            send(Counted(tokens=len(probed.tokens), chunks=len(probed.tokens) // probed.length))
        elif command["op"] == "remember":
            _remember(probed, command["chunks"], send)
        elif command["op"] == "score":
            _score_all(session, probed.remembered, send)
        elif command["op"] == "score_beside" and probed.beside is not None:
            _score_all(probed.beside, probed.remembered, send)
            probed.beside.close()
        else:
            break


def _remember(probed: _Probed, chunks: Sequence[int], send: worker.Send) -> None:
    session, length = probed.session, probed.length
    probed.remembered = []
    for index in chunks:
        chunk = probed.tokens[index * length : (index + 1) * length]
        chunk[0] = chunk[0] if session.first_token is None else session.first_token
        probed.remembered.append((chunk, _logits(session, chunk)))
        send(Advanced(done=len(probed.remembered), total=len(chunks), detail="chunk"))
    send(Done())


def _score_all(session: llamacpp.Session, remembered: Sequence[tuple[list[int], Any]], send: worker.Send) -> None:
    for index, (chunk, reference) in enumerate(remembered):
        send(_score(session, index, chunk, reference))
    send(Done())


def _logits(session: llamacpp.Session, chunk: list[int], *, copy: bool = True) -> Rows:
    """Logits of the chunk's second half but its last token, which has no next to tell; a `copy` may be kept."""
    session.reset()
    half = len(chunk) // 2
    session.feed(chunk[:half])
    return session.feed(chunk[half:-1], want="all", copy=copy)


def _score(session: llamacpp.Session, index: int, chunk: list[int], reference: Rows) -> Scored:
    import numpy as np

    from edgekit.runtimes.scores import score_rows

    half = len(chunk) // 2
    logits = _logits(session, chunk, copy=False)
    rows = score_rows(logits, reference, chunk[half + 1 :], threads=session.threads)
    # a model degraded beyond use may give logits that are no numbers: as bad as can be
    columns = (rows.nll, rows.reference_nll, rows.kld)
    sums = (float(np.nan_to_num(column, nan=WORST_NATS, posinf=WORST_NATS).sum()) for column in columns)
    nll_nano, reference_nano, kld_nano = (round(max(0.0, total) * 1e9) for total in sums)
    return Scored(
        chunk=index,
        tokens=len(rows.kld),
        nll_nano=nll_nano,
        reference_nll_nano=reference_nano,
        kld_nano=kld_nano,
        top1=int(rows.top1.sum()),
        broken=0,
    )


def run() -> None:
    """What the child process runs."""
    worker.run(serve)
