"""A compact reference file in the scoring process, in the place of a second model (`references.Reference`).

A stranger may have written the file: it is parsed here, behind the fence, and nowhere else but for its header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtimes.compact import file as container
from edgekit.runtimes.compact.chunks import Damaged, decode_chunk
from edgekit.runtimes.compact.rows import Rows, judge_rows
from edgekit.runtimes.protocol import SessionRefused
from edgekit.runtimes.references import ScoringSession, check_range, compare_tokens, compare_vocabularies
from edgekit.runtimes.scoring_worker import chunk_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.scores import RowScores


class FileReference:
    """What the file at `path` says of its text; the rest is its header's, which edgekit has checked. One chunk is held
    at a time.
    """

    def __init__(self, path: Path, *, model: str, context_tokens: int, vocabulary: int, text_sha256: str) -> None:
        self._model = model
        self._context_tokens, self._text_sha256 = context_tokens, text_sha256
        self._vocabulary = self._known = vocabulary
        self._place = 0
        self._rows: Rows | None = None
        with _refusing():
            self._stream = path.open("rb")
            self._layout = container.read_layout(self._stream)

    def check(self, session: ScoringSession, text: str, tokens: list[int]) -> None:
        """The whole file is read through once: what is wrong with it shows before anything is evaluated."""
        if hashlib.sha256(text.encode()).hexdigest() != self._text_sha256:
            raise SessionRefused("reference", "the reference file was made of another text")
        with _refusing():
            data = container.read_section(self._stream, self._layout.sections[1], self._layout.seed)
            texts = container.unpack_vocabulary(data)
            if len(texts) != self._vocabulary:
                raise Damaged("its vocabulary is not the one its header tells of")
        self._compare(lambda: compare_vocabularies(session.token_texts(), texts))
        self._known = len(texts) - next(place for place, one in enumerate(reversed(texts)) if one is not None)
        check_range(tokens, min(self._vocabulary, session.vocabulary))
        ours: list[int] = []
        theirs: list[int] = []
        for index in range(len(self._layout.chunks)):
            theirs += self._read(index)[0]
            if len(tokens) > index * self._context_tokens:
                ours += chunk_of(session, tokens, index, self._context_tokens)
        self._compare(lambda: compare_tokens(session, ours, theirs))

    def _compare(self, compare: Callable[[], None]) -> None:
        try:
            compare()
        except SessionRefused as refusal:
            raise SessionRefused(
                "reference", f"the reference file is of another model, `{self._model}`: {refusal}"
            ) from None

    def begin(self, index: int, chunk: list[int]) -> None:
        """Read what the file holds of a chunk."""
        tokens, rows = self._read(index)
        if tokens != chunk:
            raise SessionRefused("reference", f"the reference file holds another text in chunk `{index + 1}`")
        self._rows, self._place = rows, 0

    def score(self, tokens: list[int], logits: NDArray[np.float32], targets: list[int], *, threads: int) -> RowScores:
        """The unbiased estimate, the lower bound, and what is exact; over the reference's columns, or over the tokens
        that stand for something where the artifact has fewer.
        """
        assert self._rows is not None
        rows = self._rows.part(self._place, self._place + len(targets))
        self._place += len(targets)
        columns = self._vocabulary
        if logits.shape[1] < columns:
            columns, rows = self._known, rows.without_padding(self._known)
        return judge_rows(rows, logits[:, :columns], targets, threads=threads)

    def _read(self, index: int) -> tuple[list[int], Rows]:
        with _refusing():
            if index >= len(self._layout.chunks):
                raise Damaged(f"chunk {index + 1} is missing")
            data = container.read_section(self._stream, self._layout.chunks[index], self._layout.seed)
            try:
                tokens, rows = decode_chunk(data, self._vocabulary)
            except Damaged as damage:
                raise Damaged(f"of chunk {index + 1} {damage}") from None
            scored = self._context_tokens - 1 - self._context_tokens // 2
            if (len(tokens), len(rows.nll)) != (self._context_tokens, scored):
                raise Damaged(f"chunk {index + 1} is of another length")
            return tokens, rows


@contextmanager
def _refusing() -> Iterator[None]:
    """Damage is bad input, said in a line."""
    try:
        yield
    except Damaged as damage:
        raise SessionRefused("reference", f"the reference file cannot be used: {damage}") from None
    except OSError as error:
        message = f"the reference file cannot be read: `{(error.strerror or 'failed').lower()}`"
        raise SessionRefused("reference", message) from None
